// Where the console begins: views, product, language, light, key, and the clock that looks again.

import { ask, by, change, h, known, once, put, renderAll, watch } from "./page.js";
import * as health from "./health.js";
import * as inspect from "./inspect.js";
import * as picture from "./picture.js";
import * as service from "./service.js";
import * as strip from "./strip.js";
import * as versions from "./versions.js";
import { kept, otherLanguage, speak, t } from "./words.js";

const LOOK_EVERY_MS = 3000;
const VIEWS = { inspect: "inspect", "product-view": "versions", health: "health" };
const THEMES = { "light dark": "themeAuto", light: "themeLight", dark: "themeDark" };

let view = "inspect";
let theme = kept.get("theme") in THEMES ? kept.get("theme") : "light dark";

speak();
by("language").addEventListener("click", () => {
  speak(otherLanguage());
  renderAll();
});
by("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  theme = names[(names.indexOf(theme) + 1) % names.length];
  kept.set("theme", theme);
  renderTools();
});
by("key").addEventListener("click", (event) => once(event.currentTarget, askForKey));
by("product").addEventListener("change", () => change({ product: by("product").value }));
window.addEventListener("hashchange", turn);
watch([], renderTools);
watch(["products", "product"], renderProducts);
for (const part of [picture, inspect, strip, versions, health]) part.begin();
turn();
look();

/** Show the view that the address names; other addresses lead to places within it. */
function turn() {
  const named = location.hash.slice(1);
  view = named in VIEWS ? named : view;
  for (const name of Object.keys(VIEWS)) by(`view-${name}`).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${t(VIEWS[view])} – Goodpart`;
  lookAtView();
}

/** Refresh the state of the service now, and periodically while this page is visible. */
async function look() {
  if (!document.hidden) {
    await refresh();
    await lookAtView();
  }
  setTimeout(look, LOOK_EVERY_MS);
}

async function lookAtView() {
  if (view === "product-view") await versions.refresh();
  if (view === "health") await health.refresh();
}

/** The products and their status; responses from before a decision are discarded. */
async function refresh() {
  const before = versions.numDecisions();
  try {
    const { products } = await service.get("/v1/products");
    const names = products.map(({ product }) => product);
    const product = names.includes(known.product) ? known.product : (names[0] ?? null);
    if (before === versions.numDecisions()) change({ products, product, refusal: null });
  } catch (error) {
    if (error.status === 401 || error.status === 403) change({ products: [], product: null, refusal: error.message });
  }
}

function renderProducts() {
  put(by("product"), known.products.map(({ product }) => h("option", { value: product }, product)));
  by("product").value = known.product;
}

function renderTools() {
  const other = otherLanguage();
  by("language").textContent = other === "zh" ? "中文" : "English";
  by("language").lang = other;
  by("theme").textContent = t(THEMES[theme]);
  document.documentElement.style.colorScheme = theme;
  document.title = `${t(VIEWS[view])} – Goodpart`;
}

async function askForKey() {
  const typed = await ask({ title: t("key"), text: t("keyAsk"), label: t("key"), type: "password" });
  if (typed === null) return;
  service.useKey(typed.trim());
  await refresh();
  if (known.refusal !== null) throw new Error(known.refusal);
}
