// How the service fares: whether it can judge, how fast parts come, whether their scores have drifted.

import { by, h, known, put, watch } from "./page.js";
import * as service from "./service.js";
import { number, percent, t } from "./words.js";

const COUNT = /^goodpart_inspections_total\{product="(.+)",verdict="(ok|ng)"\} (.+)$/;
const TIME = /^goodpart_step_seconds_(sum|count)\{step="inference"\} (.+)$/;
const WINDOW_S = 60;

let readiness = null;
let looks = []; // {at_s, counts: {product: {ok, ng}}, inference: {sum, count}}, the newest last

/** Tell of it. */
export function begin() {
  watch(["products"], renderDrift);
  watch([], renderReadiness);
  watch([], renderThroughput);
}

/** Look again. Where health is on a port of its own, this one knows nothing of it. */
export async function refresh() {
  const isElsewhere = (error) => (error.status === 404 ? { isElsewhere: true } : { ready: false, reasons: [error.message] });
  readiness = await service.get("/readyz").catch(isElsewhere);
  const exposed = await service.text("/metrics").catch(() => null);
  if (exposed !== null) add(read(exposed));
  renderReadiness();
  renderThroughput();
}

const now = () => performance.now() / 1000;

/** One look more; where a count has fallen, the service has begun anew. */
function add(look) {
  if (looks.length && look.inference.count < looks.at(-1).inference.count) looks = [];
  looks = [...looks, look].filter(({ at_s }) => at_s > now() - WINDOW_S);
}

/** What the page needs of the metrics. */
function read(exposed) {
  const look = { at_s: now(), counts: {}, inference: { sum: 0, count: 0 } };
  for (const line of exposed.split("\n")) {
    const [, product, verdict, count] = COUNT.exec(line) ?? [];
    if (product) (look.counts[product] ??= { ok: 0, ng: 0 })[verdict] = Number(count);
    const [, member, value] = TIME.exec(line) ?? [];
    if (member) look.inference[member] = Number(value);
  }
  return look;
}

function renderReadiness() {
  if (readiness === null) return;
  if (readiness.isElsewhere) {
    put(by("readiness"), h("p", {}, t("elsewhere")));
    return;
  }
  const { ready, reasons } = readiness;
  put(by("readiness"),
    h("p", { class: "ready", "data-verdict": ready ? "ok" : "ng" }, h("span", { class: "sign", "aria-hidden": "true" }, ready ? "✓" : "✕"), ` ${t(ready ? "ready" : "notReady")}`),
    h("ul", {}, reasons.map((reason) => h("li", {}, reason))));
}

function renderThroughput() {
  const [first, last] = [looks.at(0), looks.at(-1)];
  const { sum, count } = last?.inference ?? { sum: 0, count: 0 };
  by("took").textContent = count ? t("inference", { ms: number((1000 * sum) / count, 1) }) : t(readiness?.isElsewhere ? "elsewhere" : "noParts");
  put(by("throughput"), ...(count ? [heads(["product", "perMinute", "since", "share"]), h("tbody", {}, rowsOf(first, last))] : []));
}

function rowsOf(first, last) {
  return Object.entries(last.counts).map(([product, { ok, ng }]) => {
    const before = first.counts[product] ?? { ok: 0, ng: 0 };
    const elapsed_s = last.at_s - first.at_s;
    const rate = elapsed_s ? number((60 * (ok + ng - before.ok - before.ng)) / elapsed_s, 1) : "–";
    const cells = [rate, number(ok + ng, 0), percent(ng / (ok + ng))];
    return h("tr", {}, h("th", { scope: "row" }, product), cells.map((cell) => h("td", {}, cell)));
  });
}

function renderDrift() {
  put(by("drift"), heads(["product", "version", "drift"]), h("tbody", {}, known.products.map(({ product, serving, drift }) =>
    h("tr", {}, h("th", { scope: "row" }, product), h("td", {}, serving ?? "–"), h("td", {}, driftInWords(drift))))));
}

const heads = (names) => h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, t(name)))));

function driftInWords({ drifted, distance, limit, seen, window }) {
  const filling = t("filling", { seen, window });
  if (drifted === null) return filling;
  return `${t(drifted ? "drifted" : "steady", { distance: number(distance), limit: number(limit) })} ${filling}`;
}
