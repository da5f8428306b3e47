// One part: an image that was dropped or chosen, one from the history, or the newest from the line.

import { attempt, button, by, change, h, known, watch } from "./page.js";
import { lookAt } from "./picture.js";
import * as service from "./service.js";
import { number, percent, t } from "./words.js";

const MOST_BROUGHT = 24;
// The live event is sent before the record is written, so the image may be available a moment later.
const TRIES = 3;
const PAUSE_MS = 300;

/** What was brought to this page, by inspection: the service need not keep images for it to be seen again. */
const brought = new Map();

// Raised whenever something else is to be shown: an answer that comes too late shows nothing.
let turn = 0;

/** Let people bring images, and tell what became of them. */
export function begin() {
  const stage = by("stage");
  by("file").addEventListener("change", () => judge(by("file").files));
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
  stage.addEventListener("dragover", () => stage.classList.add("awaits"));
  stage.addEventListener("dragleave", () => stage.classList.remove("awaits"));
  stage.addEventListener("drop", onDrop);
  // Who looks closely, or is about to say what a part is, must not have it taken away by the next.
  for (const element of [stage, by("reasons")]) {
    for (const name of ["pointerdown", "focusin"]) element.addEventListener(name, () => change({ isFollowing: false }));
  }
  watch(["shown", "isJudging", "failure", "isAway", "isFollowing"], renderVerdict);
  watch(["shown"], renderReasons);
}

/** Show nothing, and nothing that is still on its way. */
export function clear() {
  turn += 1;
  change({ shown: null, isJudging: false, failure: null });
}

/** Show an inspection of the history or the line, with its image and heat-map where the service keeps images. */
export async function showRecord(answer) {
  const mine = (turn += 1);
  const show = (image, heatmap) => mine === turn && change({ shown: { answer, image, heatmap }, failure: null, isJudging: false });
  const path = `/v1/inspections/${answer.inspection_id}`;
  const image = await imageOf(path, answer);
  const own = brought.get(answer.inspection_id);
  if (own || !image) {
    show(own?.image ?? null, own?.heatmap ?? null);
    return;
  }
  show(image, await service.picture(`${path}/heatmap`).catch(() => null)); // the picture says that there is none
}

/** The image of an inspection; for a live one, with retries. */
async function imageOf(path, { inspection_id, at }) {
  if (brought.has(inspection_id)) return null;
  for (let tries = at === undefined ? TRIES : 1; tries > 0; tries -= 1) {
    const image = await service.picture(`${path}/image`);
    if (image) return image;
    if (tries > 1) await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  return null;
}

function onDrop(event) {
  by("stage").classList.remove("awaits");
  judge(event.dataTransfer.files);
}

function judge(files) {
  return attempt(async () => {
    const [file, ...more] = files;
    if (!file) return;
    if (more.length) throw new Error(t("oneImage"));
    if (known.product === null) throw new Error(known.refusal ?? t("noProducts"));
    const mine = (turn += 1);
    change({ shown: null, isJudging: true, failure: null, isFollowing: false });
    try {
      const shown = await judged(file, known.product);
      if (mine === turn) change({ shown, isJudging: false });
    } catch (error) {
      if (mine === turn) change({ isJudging: false, failure: error.message });
      throw error;
    } finally {
      by("file").value = ""; // so that the same file can be chosen again
    }
  });
}

async function judged(file, product) {
  const part = file.name.replace(/\.\w+$/, "").slice(0, 128);
  const query = new URLSearchParams({ heatmap: "png", explain: "true", part_id: part });
  const answer = await service.post(service.under(product, `/inspect?${query}`), file);
  const shown = { answer, image: file, heatmap: decoded(answer.heatmap) };
  brought.set(answer.inspection_id, shown);
  if (brought.size > MOST_BROUGHT) brought.delete(brought.keys().next().value);
  return shown;
}

/** A base64 picture of an answer. */
const decoded = ({ media_type, data }) =>
  new Blob([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], { type: media_type });

function renderVerdict() {
  const { shown, isJudging, failure, isAway, isFollowing } = known;
  const verdict = by("verdict");
  const isOld = isAway && isFollowing;
  verdict.dataset.verdict = shown && !isOld ? shown.answer.verdict : "none";
  if (shown === null || isOld) {
    const word = isOld ? "away" : isJudging ? "judging" : failure ? "notJudged" : "nothing";
    const why = failure && !isOld ? h("p", { class: "which" }, failure) : null;
    verdict.replaceChildren(h("p", { class: "waiting" }, t(word)), why ?? "");
    return;
  }
  const { answer } = shown;
  const which = [answer.part_id && `${t("part")} ${answer.part_id}`, scoreOf(answer)].filter(Boolean).join(" · ");
  verdict.replaceChildren(
    h("p", { class: "word" }, h("span", { class: "sign", "aria-hidden": "true" }, answer.verdict === "ok" ? "✓" : "✕"), t(answer.verdict)),
    h("p", { class: "which" }, which),
  );
}

/** Score and threshold, with as many digits as it takes to tell them apart. */
function scoreOf({ score, threshold }) {
  let digits = 2;
  while (digits < 8 && score !== threshold && score.toFixed(digits) === threshold.toFixed(digits)) digits += 1;
  return t("scoreOf", { score: number(score, digits), threshold: number(threshold, digits) });
}

function renderReasons() {
  const { shown } = known;
  if (shown === null) return by("reasons").replaceChildren();
  const { answer } = shown;
  return by("reasons").replaceChildren(
    h("h2", {}, t("score")),
    gauge(answer),
    h("p", {}, inWords(answer)),
    confirming(shown),
    h("h2", {}, t("scales")),
    h("ul", { class: "bars" }, answer.scales.map(scaleOf)),
    h("h2", {}, t("regions")),
    regionsOf(answer),
    facts(answer),
  );
}

/** The score on the absolute scale, which is the same for every part of a product. */
function gauge(answer) {
  const [least, most] = [-2, Math.ceil(Math.max(12, 2 * answer.threshold))];
  const at = (value) => `${(100 * (Math.min(most, Math.max(least, value)) - least)) / (most - least)}%`;
  const threshold = h("span", { class: "threshold-mark" });
  const score = h("span", { class: "score-mark", "data-verdict": answer.verdict });
  const good = h("span", { class: "good-zone" });
  threshold.style.left = good.style.width = at(answer.threshold);
  score.style.left = at(answer.score);
  const ends = [number(least, 0), `${number(most, 0)}${answer.score > most ? " ➜" : ""}`];
  return h("div", { class: "gauge" },
    h("p", { class: "large" }, scoreOf(answer)),
    h("div", { class: "track", role: "img", "aria-label": scoreOf(answer) }, good, threshold, score),
    h("p", { class: "ends", "aria-hidden": "true" }, ends.map((end) => h("span", {}, end))),
    h("p", { class: "small" }, t("scale")),
  );
}

/** The p-value as a person would say it. */
function inWords({ p_value, promise }) {
  const of = promise.num_calibration;
  const many = Math.round(p_value * (of + 1)) - 1;
  return t(["oddNone", "oddOne"][many] ?? "oddMany", { of, many });
}

function scaleOf({ stride, score, share }) {
  const bar = h("span", { class: "bar" });
  bar.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  return h("li", {}, h("span", {}, t("stride", { stride })), h("span", { class: "track" }, bar), h("span", {}, `${percent(share)} (${number(score, 1)})`));
}

function regionsOf({ regions }) {
  if (regions.length === 0) return h("p", {}, t("noRegions"));
  return h("ul", { class: "regions" }, regions.map((region) => h("li", {},
    button(`${t("region", region)} · ${number(region.peak, 1)}`, () => lookAt(region)),
    expectedOf(region.explanation),
  )));
}

/** Pictures of the good patches that the memory recalled there. */
function expectedOf(explanation) {
  if (!explanation?.expected.length) return null;
  const patches = explanation.expected.map(({ media_type, data, weight }) =>
    h("img", { src: `data:${media_type};base64,${data}`, alt: percent(weight), title: percent(weight) }));
  return h("figure", {}, h("figcaption", {}, t("expected")), patches);
}

function confirming({ answer, image }) {
  const told = h("p", { role: "status" }, image ? "" : t("confirmTakesImage"));
  const confirm = async (label) => {
    const query = new URLSearchParams({ label, part_id: answer.part_id ?? "", by: "console" });
    await service.post(service.under(answer.product, `/feedback?${query}`), image);
    told.textContent = t(label === "ok" ? "confirmedOk" : "confirmedNg");
  };
  return h("div", { class: "confirm" },
    h("h2", {}, t("confirm")),
    h("p", { class: "actions" },
      button(t("isGood"), () => confirm("ok"), { id: "confirm-ok", disabled: !image }),
      button(t("isDefective"), () => confirm("ng"), { id: "confirm-ng", disabled: !image }),
    ),
    told,
  );
}

function facts(answer) {
  const { decode, queue, inference, render } = answer.timings_ms;
  const rows = [
    [t("part"), answer.part_id ?? "–"],
    [t("version"), answer.version],
    [t("image"), `${answer.image.width} × ${answer.image.height}`],
    [t("took"), `${number(decode + queue + inference + render, 1)} ms`],
    ...answer.warnings.map((warning) => [t("warning"), warning]),
  ];
  return h("dl", {}, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}
