// The newest inspections of the chosen product, and the switch that lets the page follow them.

import { attempt, button, by, change, h, known, watch, whenever } from "./page.js";
import { clear, showRecord } from "./inspect.js";
import * as service from "./service.js";
import { number, t } from "./words.js";

const MOST = 24;
const PAUSE_MS = 2000;

let recent = [];
let waiting = null;
let isShowing = false;

/** Fill the strip from the history, and keep it so for ever. */
export function begin() {
  by("follow").addEventListener("click", () => change({ isFollowing: !known.isFollowing }));
  watch(["isFollowing"], () => by("follow").setAttribute("aria-pressed", known.isFollowing));
  whenever(["product"], begun);
  watch([], render);
  follow();
}

/** Another product: nothing of the one before is shown any more. */
function begun() {
  recent = [];
  waiting = null;
  clear();
  render();
  fill();
}

/** Receive live results while this page is visible: a browser has few connections, and a service few subscribers. */
async function follow() {
  for (;;) {
    await visible();
    if (known.refusal !== null) {
      await pause();
      continue;
    }
    const hidden = new AbortController();
    const onChange = () => document.hidden && hidden.abort();
    document.addEventListener("visibilitychange", onChange);
    try {
      for await (const answer of service.inspections({ signal: hidden.signal, onOpen: opened })) take(answer);
    } catch (error) {
      if (!document.hidden) change({ isAway: error.status !== 401 && error.status !== 403 });
    }
    document.removeEventListener("visibilitychange", onChange);
    await pause();
  }
}

const pause = () => new Promise((resolve) => setTimeout(resolve, PAUSE_MS));

const visible = () =>
  new Promise((resolve) => {
    if (!document.hidden) resolve();
    else document.addEventListener("visibilitychange", () => resolve(), { once: true });
  });

/** The line is watched, again perhaps: what came meanwhile is in the history. */
function opened() {
  change({ isAway: false });
  fill();
}

async function fill() {
  const { product } = known;
  if (product === null) return;
  const query = new URLSearchParams({ product, limit: MOST });
  const page = await service.get(`/v1/inspections?${query}`).catch(() => ({ items: [] })); // there may be no history
  if (product !== known.product) return;
  const written = new Set(page.items.map(({ inspection_id }) => inspection_id));
  recent = [...recent.filter(({ inspection_id }) => !written.has(inspection_id)), ...page.items].slice(0, MOST);
  render();
}

/** One more from the line. */
function take(answer) {
  if (answer.product !== known.product || recent.some(({ inspection_id }) => inspection_id === answer.inspection_id)) return;
  recent = [answer, ...recent].slice(0, MOST);
  by("strip").prepend(chip(answer));
  while (by("strip").children.length > MOST) by("strip").lastElementChild.remove();
  if (known.isFollowing) {
    waiting = answer;
    showNewest();
  }
}

/** Show the newest, and then whatever has come meanwhile; what came between is not waited for. */
async function showNewest() {
  if (isShowing) return;
  isShowing = true;
  while (waiting && known.isFollowing) {
    const answer = waiting;
    waiting = null;
    await showRecord(answer).catch(() => change({ isAway: true }));
  }
  isShowing = false;
}

function render() {
  by("strip").replaceChildren(...recent.map(chip));
}

function chip(answer) {
  const { verdict, score, part_id, inspection_id } = answer;
  const show = async () => {
    change({ isFollowing: false });
    if (known.shown?.answer.inspection_id !== inspection_id || !known.shown.image) await attempt(() => showRecord(answer));
    by("verdict").scrollIntoView({ block: "nearest" });
  };
  return h("li", {}, button(
    h("span", { class: "chip" },
      h("span", { class: "sign", "aria-hidden": "true" }, verdict === "ok" ? "✓" : "✕"),
      h("span", {}, h("strong", {}, t(verdict === "ok" ? "good" : "defective")), h("br"), part_id ?? "–", h("br"), number(score))),
    show,
    { "data-verdict": verdict },
  ));
}
