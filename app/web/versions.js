// What serves a product: its versions, its candidate, its threshold.

import { ask, attempt, button, by, change, h, known, once, put, standing, watch, whenever } from "./page.js";
import * as service from "./service.js";
import { moment, number, percent, t } from "./words.js";

const SHADOW_SHARE = 0.1;
const DIGITS = 6;

// Increased by every decision and by every preview of a threshold: earlier responses are outdated.
let decisions = 0;
let questions = 0;

/** How often something was decided here. */
export const numDecisions = () => decisions;

/** Let people see and change what serves. */
export function begin() {
  const form = by("threshold");
  whenever(["product"], () => {
    change({ versions: [], previewed: null });
    refresh();
  });
  watch(["product", "products", "versions", "refusal"], render);
  watch(["previewed", "products"], renderPreview);
  by("rollback").addEventListener("click", onClick(() => decide("POST", "/rollback", t("rollback"), t("rollbackAsk", known))));
  by("end-shadow").addEventListener("click", onClick(() => decide("DELETE", "/shadow", t("endShadow"), t("endShadowAsk"))));
  by("lift").addEventListener("click", onClick(() => decide("DELETE", "/threshold", t("lift"), t("liftAsk", known))));
  by("apply").addEventListener("click", onClick(apply));
  form.addEventListener("submit", preview);
  form.addEventListener("input", () => {
    questions += 1;
    change({ previewed: null });
  });
  for (const choice of form.elements.by) choice.addEventListener("change", renderChoice);
}

const onClick = (work) => (event) => once(event.currentTarget, work);

/** Read the chosen product's versions; where that fails, those of before stay. */
export async function refresh() {
  const { product } = known;
  if (product === null) return;
  const told = await service.get(service.under(product, "/versions")).catch(() => null);
  if (told && product === known.product) change({ versions: told.versions });
}

/** Ask, do, and look again; whatever product is chosen meanwhile, this is about the one of now. */
async function decide(method, rest, title, text, members = {}) {
  const { product } = known;
  const why = await ask({ title, text, label: t("why") });
  if (why === null) return;
  const told = { by: "console", why, ...members };
  decisions += 1;
  const isBody = method !== "DELETE";
  const path = service.under(product, isBody ? rest : `${rest}?${new URLSearchParams(told)}`);
  const stands = await service.send(method, path, isBody ? told : undefined);
  decisions += 1;
  change({ products: known.products.map((one) => (one.product === stands.product ? stands : one)) });
  await refresh();
}

function render() {
  const now = standing();
  by("versions-title").textContent = known.product ?? t("versions");
  for (const id of ["rollback", "lift", "end-shadow", "preview", "apply"]) by(id).disabled = !now;
  if (!now) {
    put(by("standing"), h("p", {}, known.refusal ?? t("noProducts")));
    by("threshold-now").textContent = "";
    put(by("versions"));
    return renderChoice();
  }
  by("end-shadow").disabled = now.shadow === null;
  by("lift").disabled = now.override === null;
  put(by("standing"), h("p", { class: "large" }, inWords(now)), now.fault ? h("p", {}, now.fault) : null, tally(now));
  by("threshold-now").textContent = thresholdInWords(now);
  put(by("versions"),
    h("thead", {}, h("tr", {}, ["version", "created", "method", "teacher", "promise", "state", "actions"].map((name) => h("th", { scope: "col" }, t(name))))),
    h("tbody", {}, known.versions.toReversed().map((version) => row(version, now))));
  return renderChoice();
}

function inWords({ product, serving, activated, resting }) {
  if (serving) return t("serving", { version: serving, product });
  return resting ? t("rests", { version: activated, product }) : t("servesNothing", { product });
}

function tally({ shadow }) {
  if (!shadow) return null;
  const judged = shadow.tally?.judged ?? 0;
  const disagreed = (shadow.tally?.ng_by_candidate_only ?? 0) + (shadow.tally?.ng_by_serving_only ?? 0);
  const came = shadow.fault ?? t("tally", { disagreed, judged });
  return h("p", {}, t("candidateIs", { version: shadow.version, share: percent(shadow.share), came }));
}

function thresholdInWords({ threshold, threshold_from, promise }) {
  if (threshold === null) return "–";
  const word = { calibration: "fromCalibration", rate: "fromRate", value: "fromValue" }[threshold_from];
  return t("thresholdNow", { threshold: number(threshold), from: t(word, { rate: percent(promise.supported) }) });
}

function row({ version, created, method, teacher, promise, fault }, now) {
  const isServing = version === (now.serving ?? (now.resting ? now.activated : null));
  const isCandidate = version === now.shadow?.version;
  const isFaulty = version === now.activated && Boolean(now.fault);
  const state = fault ?? (isServing ? t("serves") : isCandidate ? t("candidate", { share: percent(now.shadow.share) }) : isFaulty ? t("fails") : "");
  return h("tr", { "data-serving": isServing && "true" },
    h("th", { scope: "row" }, version),
    h("td", {}, created ? moment(created) : "–"),
    h("td", {}, method ?? "–"),
    h("td", {}, teacher ?? "–"),
    h("td", {}, promise ? percent(promise.supported) : "–"),
    h("td", {}, state),
    h("td", { class: "actions" },
      button(t("activate"), () => activate(version), { name: `activate ${version}`, "data-activate": version, disabled: isServing && !now.fault }),
      button(t("shadow"), () => shadow(version), { name: `shadow ${version}`, disabled: isServing || isCandidate })),
  );
}

const activate = (version) =>
  decide("POST", `/versions/${version}/activate`, t("activate"), t("activateAsk", { version, product: known.product }));

const shadow = (version) =>
  decide("PUT", "/shadow", t("shadow"), t("shadowAsk", { version, share: percent(SHADOW_SHARE) }), { version, share: SHADOW_SHARE });

/** What the form asks for: a rate or a value. */
function wanted() {
  const { by: choice, value } = by("threshold").elements;
  return { [choice.value]: Number(value.value) };
}

function renderChoice() {
  const isRate = by("threshold").elements.by.value === "false_alarm_rate";
  by("value-label").textContent = t(isRate ? "rateLabel" : "valueLabel");
  Object.assign(by("value"), isRate ? { min: 0.000001, max: 0.999999 } : { min: "", max: "" });
}

async function apply() {
  if (!by("threshold").reportValidity()) return;
  const [[name, value]] = Object.entries(wanted());
  const text = t(name === "threshold" ? "applyValue" : "applyRate", { value: number(value, 0, DIGITS), product: known.product });
  await decide("PUT", "/threshold", t("threshold"), text, { ...wanted(), version: standing().serving ?? undefined });
}

async function preview(event) {
  event.preventDefault();
  const { product } = known;
  const mine = (questions += 1);
  const query = new URLSearchParams({ ...wanted(), parts: by("parts").value });
  const previewed = await attempt(() => service.get(service.under(product, `/threshold/preview?${query}`)));
  if (previewed && mine === questions && product === known.product) change({ previewed });
}

/** What was looked at; of another version or product it says nothing. */
function renderPreview() {
  const told = known.previewed;
  const isOld = told && (told.product !== known.product || told.version !== standing()?.serving);
  put(by("previewed"), ...(told && !isOld ? previewOf(told) : []));
}

function previewOf(told) {
  if (told.num_parts === 0) return [h("p", {}, t("previewedNone"))];
  const values = { threshold: number(told.threshold, 2, DIGITS), parts: told.num_parts, then: told.num_ng, now: told.num_ng_now };
  const changes = { ng: told.become_ng.length, ok: told.become_ok.length, rate: percent(told.promise.supported) };
  return [h("p", { class: "large" }, t("previewed", values)), h("p", {}, t("previewedChange", changes)), dots(told)];
}

/** Each part a mark on the scale, and the threshold among them. */
function dots({ scores, threshold, threshold_now }) {
  const least = Math.floor(Math.min(-2, threshold, threshold_now, ...scores));
  const most = Math.ceil(Math.max(12, threshold, threshold_now, ...scores));
  const placed = (value, name) => {
    const mark = h("span", { class: name });
    mark.style.left = `${(100 * (value - least)) / (most - least)}%`;
    return mark;
  };
  return h("figure", {},
    h("div", { class: "track dots", role: "img", "aria-label": t("parts") },
      scores.map((score) => placed(score, "dot")), placed(threshold_now, "threshold-mark before"), placed(threshold, "threshold-mark")),
    h("p", { class: "ends", "aria-hidden": "true" }, h("span", {}, number(least, 0)), h("span", {}, number(most, 0))),
    h("figcaption", { class: "small" }, t("parts")));
}
