// Small things that every view leans on: elements, what the page knows, and questions to the person before it.

import { t } from "./words.js";

/** The element of this id. */
export const by = (id) => document.getElementById(id);

/** A new element. Properties that begin with "on" are listeners; others are attributes, left out where they are false. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** What the page knows. Only `change` writes to it. */
export const known = {
  product: null, // the name of the chosen one
  products: [], // as GET /v1/products gives them
  versions: [], // of the chosen product
  shown: null, // the inspection before the person's eyes: {answer, image, heatmap, file}
  isJudging: false,
};

const watchers = [];

/** Call `render` now and whenever one of these members of `known` changes. */
export function watch(members, render) {
  watchers.push({ members, render });
  render();
}

/** Change what is known, and tell who watches. */
export function change(changes) {
  const changed = Object.keys(changes).filter((name) => JSON.stringify(known[name]) !== JSON.stringify(changes[name]));
  Object.assign(known, changes);
  for (const { members, render } of watchers) if (members.some((name) => changed.includes(name))) render();
}

/** Call every `render` again, in another language. */
export function renderAll() {
  for (const { render } of watchers) render();
}

/** How the chosen product stands, if there is one. */
export const standing = () => known.products.find(({ product }) => product === known.product);

/** Do what a button asks for; what goes wrong is told on top of the page. */
export async function attempt(work) {
  const trouble = by("trouble");
  try {
    trouble.hidden = true;
    return await work();
  } catch (error) {
    trouble.textContent = `${t("trouble")}: ${error.message}`;
    trouble.hidden = false;
    trouble.scrollIntoView({ block: "nearest" });
    return undefined;
  }
}

/** Ask the person; what was typed comes back, or null where the answer is no. */
export function ask({ title, text = "", label, value = "", type = "text" }) {
  const dialog = by("asking");
  by("asking-title").textContent = title;
  by("asking-text").textContent = text;
  by("asking-label").textContent = label;
  Object.assign(by("asking-value"), { value, type });
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    const answered = () => resolve(dialog.returnValue === "yes" ? by("asking-value").value : null);
    dialog.addEventListener("close", answered, { once: true });
  });
}
