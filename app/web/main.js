// Where the console begins: views, product, language, light, key, and the clock that looks again.

import { ask, attempt, by, change, h, known, renderAll, watch } from "./page.js";
import * as health from "./health.js";
import * as inspect from "./inspect.js";
import * as picture from "./picture.js";
import * as service from "./service.js";
import * as strip from "./strip.js";
import * as versions from "./versions.js";
import { otherLanguage, speak, t } from "./words.js";

const LOOK_EVERY_MS = 3000;
const VIEWS = ["inspect", "product-view", "health"];
const THEMES = ["light dark", "light", "dark"];

speak();
theme(localStorage.getItem("goodpart.theme") ?? THEMES[0]);
by("language").addEventListener("click", () => {
  speak(otherLanguage());
  renderAll();
});
by("theme").addEventListener("click", () => theme(THEMES[(THEMES.indexOf(localStorage.getItem("goodpart.theme")) + 1) % THEMES.length]));
by("key").addEventListener("click", askForKey);
by("product").addEventListener("change", () => change({ product: by("product").value, shown: null }));
window.addEventListener("hashchange", turn);
watch([], () => {
  const other = otherLanguage();
  by("language").textContent = other === "zh" ? "中文" : "English";
  by("language").lang = other;
});
watch(["products", "product"], renderProducts);
for (const view of [picture, inspect, strip, versions, health]) view.begin();
turn();
look();

/** Show the view that the address names. */
function turn() {
  const named = VIEWS.find((view) => location.hash === `#${view}`) ?? VIEWS[0];
  for (const view of VIEWS) by(`view-${view}`).hidden = view !== named;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${named}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Look at the service now, and again and again. */
async function look() {
  await refresh().catch(() => {}); // health tells of it
  await health.refresh();
  setTimeout(look, LOOK_EVERY_MS);
}

async function refresh() {
  const { products } = await service.get("/v1/products");
  const names = products.map(({ product }) => product);
  const product = names.includes(known.product) ? known.product : (names[0] ?? null);
  change({ products, product });
  await versions.refresh();
}

function renderProducts() {
  by("product").replaceChildren(...known.products.map(({ product }) => h("option", { value: product, selected: product === known.product }, product)));
}

function theme(choice) {
  document.documentElement.style.colorScheme = choice;
  localStorage.setItem("goodpart.theme", choice);
}

async function askForKey() {
  const typed = await ask({ title: t("key"), text: t("keyAsk"), label: t("key"), type: "password" });
  if (typed === null) return;
  service.key.set(typed.trim());
  await attempt(refresh);
}
