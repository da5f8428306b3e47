// One part: an image that was dropped or chosen, one from the history, or the newest from the line.

import { attempt, by, change, h, known, watch } from "./page.js";
import * as service from "./service.js";
import { number, percent, t } from "./words.js";
import { lookAt } from "./picture.js";

const MOST_BROUGHT = 24;

/** What was brought to this page, by inspection: the service need not keep images for it to be seen again. */
const brought = new Map();

/** Let people bring images, and tell what became of them. */
export function begin() {
  const stage = by("stage");
  by("file").addEventListener("change", () => judge(by("file").files[0]));
  for (const name of ["dragenter", "dragover"]) stage.addEventListener(name, onDrag);
  stage.addEventListener("dragleave", () => stage.classList.remove("awaits"));
  stage.addEventListener("drop", onDrop);
  watch(["shown", "isJudging"], renderVerdict);
  watch(["shown"], renderReasons);
}

/** Show an inspection of the history, with its image and heat-map where the service keeps images. */
export async function showRecord(answer) {
  const mine = brought.get(answer.inspection_id);
  if (mine) {
    change({ shown: mine });
    return;
  }
  const path = `/v1/inspections/${answer.inspection_id}`;
  const image = await service.picture(`${path}/image`);
  const heatmap = image ? await service.picture(`${path}/heatmap`) : null;
  change({ shown: { answer, image, heatmap } });
}

function onDrag(event) {
  event.preventDefault();
  by("stage").classList.add("awaits");
}

function onDrop(event) {
  event.preventDefault();
  by("stage").classList.remove("awaits");
  judge(event.dataTransfer.files[0]);
}

async function judge(file) {
  by("file").value = ""; // so that the same file can be chosen again
  if (!file || !known.product) return;
  const query = new URLSearchParams({ heatmap: "png", explain: "true", part_id: file.name.replace(/\.\w+$/, "").slice(0, 128) });
  change({ isJudging: true });
  const answer = await attempt(() => service.post(service.under(known.product, `/inspect?${query}`), file));
  change({ isJudging: false });
  if (!answer) return;
  const shown = { answer, image: file, heatmap: decoded(answer.heatmap) };
  brought.set(answer.inspection_id, shown);
  if (brought.size > MOST_BROUGHT) brought.delete(brought.keys().next().value);
  change({ shown });
}

/** A base64 picture of an answer. */
const decoded = ({ media_type, data }) =>
  new Blob([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], { type: media_type });

function renderVerdict() {
  const { shown, isJudging } = known;
  const verdict = by("verdict");
  verdict.dataset.verdict = shown && !isJudging ? shown.answer.verdict : "none";
  if (isJudging || shown === null) {
    verdict.replaceChildren(h("p", { class: "waiting" }, t(isJudging ? "judging" : "nothing")));
    return;
  }
  const { answer } = shown;
  verdict.replaceChildren(
    h("p", { class: "word" }, h("span", { class: "sign", "aria-hidden": "true" }, answer.verdict === "ok" ? "✓" : "✕"), t(answer.verdict)),
    h("p", { class: "which" }, [answer.part_id && `${t("part")} ${answer.part_id}`, scoreOf(answer)].filter(Boolean).join(" · ")),
  );
}

const scoreOf = ({ score, threshold }) => t("scoreOf", { score: number(score), threshold: number(threshold) });

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
  const [least, most] = [-2, Math.max(12, 2 * answer.threshold)];
  const at = (value) => `${(100 * (Math.min(most, Math.max(least, value)) - least)) / (most - least)}%`;
  const threshold = h("span", { class: "threshold-mark" });
  const score = h("span", { class: "score-mark", "data-verdict": answer.verdict });
  const good = h("span", { class: "good-zone" });
  threshold.style.left = good.style.width = at(answer.threshold);
  score.style.left = at(answer.score);
  const numbers = h("p", { class: "ends", "aria-hidden": "true" }, h("span", {}, number(least, 0)), h("span", {}, `${number(most, 0)}${answer.score > most ? " ➜" : ""}`));
  return h("div", { class: "gauge" },
    h("p", { class: "large" }, scoreOf(answer)),
    h("div", { class: "track", role: "img", "aria-label": scoreOf(answer) }, good, threshold, score),
    numbers,
    h("p", { class: "small" }, t("scale")),
  );
}

/** The p-value as a person would say it. */
export function inWords({ p_value, promise }) {
  const of = promise.num_calibration;
  const many = Math.round(p_value * (of + 1)) - 1;
  return t(["oddNone", "oddOne"][many] ?? "oddMany", { of, many });
}

function scaleOf({ stride, score, share }) {
  const bar = h("span", { class: "bar" });
  bar.style.width = percent100(share);
  return h("li", {}, h("span", {}, t("stride", { stride })), h("span", { class: "track" }, bar), h("span", {}, `${percent(share)} (${number(score, 1)})`));
}

const percent100 = (share) => `${100 * Math.min(1, Math.max(0, share))}%`;

function regionsOf({ regions }) {
  if (regions.length === 0) return h("p", {}, t("noRegions"));
  return h("ul", { class: "regions" }, regions.map((region) => h("li", {},
    h("button", { type: "button", onclick: () => lookAt(region) }, t("region", region), ` · ${number(region.peak, 1)}`),
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
  const told = h("p", { role: "status" });
  const confirm = (label) => attempt(async () => {
    const query = new URLSearchParams({ label, part_id: answer.part_id ?? "", by: "console" });
    await service.post(service.under(answer.product, `/feedback?${query}`), image);
    told.textContent = t("confirmed", { label: t(label === "ok" ? "good" : "defective") });
  });
  return h("div", { class: "confirm" },
    h("h2", {}, t("confirm")),
    h("p", { class: "actions" },
      h("button", { type: "button", id: "confirm-ok", disabled: !image, onclick: () => confirm("ok") }, t("isGood")),
      h("button", { type: "button", id: "confirm-ng", disabled: !image, onclick: () => confirm("ng") }, t("isDefective")),
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
    ...(answer.warnings.length ? [[t("warnings"), answer.warnings.join("; ")]] : []),
  ];
  return h("dl", {}, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}
