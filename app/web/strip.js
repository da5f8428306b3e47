// The newest inspections of the chosen product, and the switch that lets the page follow them.

import { attempt, by, change, h, known, watch } from "./page.js";
import * as service from "./service.js";
import { number, t } from "./words.js";
import { showRecord } from "./inspect.js";

const MOST = 24;

let recent = [];
let isFollowing = false;
let waiting = null;
let isShowing = false;

/** Fill the strip from the history, and keep it so for ever. */
export async function begin() {
  by("follow").addEventListener("click", () => {
    isFollowing = !isFollowing;
    by("follow").setAttribute("aria-pressed", isFollowing);
  });
  watch(["product"], fill);
  watch([], render);
  for await (const answer of service.inspections()) if (answer.product === known.product) take(answer);
}

async function fill() {
  recent = [];
  render();
  const { product } = known;
  if (product === null) return;
  const query = new URLSearchParams({ product, limit: MOST });
  const page = await service.get(`/v1/inspections?${query}`).catch(() => ({ items: [] })); // there may be no history
  if (product !== known.product) return;
  const seen = new Set(recent.map(({ inspection_id }) => inspection_id));
  recent = [...recent, ...page.items.filter(({ inspection_id }) => !seen.has(inspection_id))].slice(0, MOST);
  render();
}

/** One more from the line. */
function take(answer) {
  recent = [answer, ...recent].slice(0, MOST);
  by("strip").prepend(chip(answer));
  while (by("strip").children.length > MOST) by("strip").lastElementChild.remove();
  if (isFollowing) {
    waiting = answer;
    showNewest();
  }
}

/** Show the newest, and then whatever has come meanwhile; what came between is not waited for. */
async function showNewest() {
  if (isShowing) return;
  isShowing = true;
  while (waiting) {
    const answer = waiting;
    waiting = null;
    await showRecord(answer).catch(() => change({ shown: { answer, image: null, heatmap: null } }));
  }
  isShowing = false;
}

function render() {
  by("strip").replaceChildren(...recent.map(chip));
}

function chip(answer) {
  const { verdict, score, part_id, inspection_id } = answer;
  const show = () => attempt(async () => {
    if (known.shown?.answer.inspection_id !== inspection_id) await showRecord(answer);
    by("verdict").scrollIntoView({ block: "nearest" });
  });
  return h("li", {},
    h("button", { type: "button", "data-verdict": verdict, onclick: show },
      h("span", { class: "sign", "aria-hidden": "true" }, verdict === "ok" ? "✓" : "✕"),
      h("span", {}, h("strong", {}, t(verdict === "ok" ? "good" : "defective")), h("br"), part_id ?? "–", h("br"), number(score)),
    ),
  );
}
