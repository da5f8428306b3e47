// What serves a product: its versions, its candidate, its threshold.

import { ask, attempt, by, change, h, known, standing, watch } from "./page.js";
import * as service from "./service.js";
import { moment, number, percent, t } from "./words.js";

const SHADOW_SHARE = 0.1;

/** Let people see and change what serves. */
export function begin() {
  watch(["product"], refresh);
  watch(["product", "products", "versions"], render);
  by("rollback").addEventListener("click", () => decide("POST", "/rollback", { title: t("rollback"), text: t("rollbackAsk", { product: known.product }) }));
  by("end-shadow").addEventListener("click", () => decide("DELETE", "/shadow", { title: t("endShadow"), text: t("endShadowAsk") }));
  by("lift").addEventListener("click", () => decide("DELETE", "/threshold", { title: t("lift"), text: t("liftAsk", { product: known.product }) }));
  by("apply").addEventListener("click", apply);
  by("threshold").addEventListener("submit", preview);
  for (const choice of by("threshold").elements.by) choice.addEventListener("change", renderChoice);
}

/** Read the chosen product's versions. */
export async function refresh() {
  const { product } = known;
  if (product === null) return;
  const { versions } = await service.get(service.under(product, "/versions")).catch(() => ({ versions: [] }));
  if (product === known.product) change({ versions });
}

/** Ask, do, and look again. */
async function decide(method, rest, { title, text, ...members }) {
  const why = await ask({ title, text, label: t("why") });
  if (why === null) return;
  await attempt(async () => {
    const body = method === "DELETE" ? undefined : { by: "console", why, ...members };
    const told = await service.send(method, service.under(known.product, rest), body);
    change({ products: known.products.map((one) => (one.product === told.product ? told : one)) });
    await refresh();
  });
}

function render() {
  const now = standing();
  by("versions-title").textContent = known.product ?? "";
  for (const id of ["rollback", "lift", "end-shadow"]) by(id).disabled = !now;
  if (!now) return by("standing").replaceChildren(h("p", {}, t("noProducts")));
  by("end-shadow").disabled = now.shadow === null;
  by("lift").disabled = now.override === null;
  by("standing").replaceChildren(h("p", { class: "large" }, inWords(now)), tally(now) ?? "");
  by("threshold-now").textContent = thresholdInWords(now);
  by("versions").replaceChildren(
    h("thead", {}, h("tr", {}, ["version", "created", "method", "teacher", "promise", "state", "actions"].map((name) => h("th", { scope: "col" }, t(name))))),
    h("tbody", {}, known.versions.toReversed().map((version) => row(version, now))),
  );
  return renderChoice();
}

function inWords({ product, serving, activated, fault, resting }) {
  if (serving) return t("serving", { version: serving, product });
  return resting ? `${t("serving", { version: activated, product })} (${t("resting")})` : t("servesNothing", { product, fault: fault ?? "–" });
}

function tally({ shadow }) {
  if (!shadow) return null;
  const { tally: counted } = shadow;
  const judged = counted?.judged ?? 0;
  const disagreed = (counted?.ng_by_candidate_only ?? 0) + (counted?.ng_by_serving_only ?? 0);
  return h("p", {}, `${t("candidate", { share: percent(shadow.share) })}: ${shadow.version}. `, shadow.fault ?? t("tally", { disagreed, judged }));
}

function thresholdInWords({ threshold, threshold_from, promise }) {
  if (threshold === null) return "–";
  const word = { calibration: "fromCalibration", rate: "fromRate", value: "fromValue" }[threshold_from];
  return t("thresholdNow", { threshold: number(threshold), from: t(word, { rate: percent(promise.supported) }) });
}

function row({ version, created, method, teacher, promise, fault }, now) {
  const isServing = version === (now.serving ?? now.activated);
  const isCandidate = version === now.shadow?.version;
  const state = fault ?? (isServing ? t("serves") : isCandidate ? t("candidate", { share: percent(now.shadow.share) }) : "");
  return h("tr", { "data-serving": isServing && "true" },
    h("th", { scope: "row" }, version),
    h("td", {}, created ? moment(created) : "–"),
    h("td", {}, method ?? "–"),
    h("td", {}, teacher ?? "–"),
    h("td", {}, promise ? percent(promise.supported) : "–"),
    h("td", {}, state),
    h("td", { class: "actions" },
      h("button", { type: "button", disabled: isServing, "data-activate": version, onclick: () => activate(version) }, t("activate")),
      h("button", { type: "button", disabled: isServing || isCandidate, onclick: () => shadow(version) }, t("shadow"))),
  );
}

const activate = (version) =>
  decide("POST", `/versions/${version}/activate`, { title: t("activate"), text: t("activateAsk", { version, product: known.product }) });

const shadow = (version) =>
  decide("PUT", "/shadow", { title: t("shadow"), text: t("shadowAsk", { version }), version, share: SHADOW_SHARE });

/** What the form asks for: a rate or a value. */
function wanted() {
  const { by: choice, value } = by("threshold").elements;
  return { [choice.value]: Number(value.value) };
}

function renderChoice() {
  const isRate = by("threshold").elements.by.value === "false_alarm_rate";
  by("value-label").textContent = t(isRate ? "rateLabel" : "valueLabel");
  const value = by("value");
  value.min = isRate ? 0.000001 : "";
  value.max = isRate ? 0.999999 : "";
}

function apply() {
  if (!by("threshold").reportValidity()) return;
  const [[name, value]] = Object.entries(wanted());
  const text = t("applyAsk", { threshold: name === "threshold" ? number(value) : percent(value), product: known.product });
  decide("PUT", "/threshold", { title: t("threshold"), text, ...wanted() });
}

async function preview(event) {
  event.preventDefault();
  const query = new URLSearchParams({ ...wanted(), parts: by("parts").value });
  const told = await attempt(() => service.get(service.under(known.product, `/threshold/preview?${query}`)));
  if (told) by("previewed").replaceChildren(...previewOf(told));
}

function previewOf(told) {
  if (told.num_parts === 0) return [h("p", {}, t("previewedNone"))];
  const values = { threshold: number(told.threshold), parts: told.num_parts, then: told.num_ng, now: told.num_ng_now };
  const changes = { ng: told.become_ng.length, ok: told.become_ok.length, rate: percent(told.promise.supported) };
  return [h("p", { class: "large" }, t("previewed", values)), h("p", {}, t("previewedChange", changes)), dots(told)];
}

/** Each part a mark on the scale, and the threshold among them. */
function dots({ scores, threshold, threshold_now }) {
  const least = Math.min(-2, ...scores);
  const most = Math.max(12, ...scores, threshold);
  const at = (value) => `${(100 * (value - least)) / (most - least)}%`;
  const placed = (value, name) => {
    const mark = h("span", { class: name });
    mark.style.left = at(value);
    return mark;
  };
  return h("figure", {},
    h("div", { class: "track dots", role: "img", "aria-label": t("parts") },
      scores.map((score) => placed(score, "dot")), placed(threshold_now, "threshold-mark before"), placed(threshold, "threshold-mark")),
    h("p", { class: "ends", "aria-hidden": "true" }, h("span", {}, number(least, 0)), h("span", {}, number(most, 0))),
    h("figcaption", { class: "small" }, t("parts")));
}
