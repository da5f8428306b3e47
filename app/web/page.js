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
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Put children into an element if they differ from the present ones, so that the focus stays and a screen reader does not repeat. */
export function put(element, ...children) {
  const made = h(element.tagName, {}, ...children);
  if (made.innerHTML === element.innerHTML) return;
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
  element.replaceChildren(...made.childNodes);
  if (focused) element.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
}

/** A button that runs one action at a time and shows its error. `name` identifies it after it was rendered again. */
export function button(label, work, { name, ...properties } = {}) {
  return h("button", { type: "button", "data-focus": name, onclick: (event) => once(event.currentTarget, work), ...properties }, label);
}

/** Do the work of a button, unless it is under way. */
export async function once(element, work) {
  if (element.getAttribute("aria-busy") === "true") return;
  element.setAttribute("aria-busy", "true");
  await attempt(work);
  element.removeAttribute("aria-busy");
}

/** What the page knows. Only `change` writes to it. */
export const known = {
  product: null, // the name of the chosen one
  products: [], // as GET /v1/products gives them
  versions: [], // of the chosen product
  shown: null, // the inspection before the person's eyes: {answer, image, heatmap}
  isJudging: false,
  failure: null, // why the last image has no verdict
  isFollowing: false, // whether the newest of the line is shown
  isAway: false, // whether the service does not answer, and so what is shown may be old
  refusal: null, // why the service refuses: it requires a key
  previewed: null, // what a threshold would have done
};

const watchers = [];

/** Call `render` now, whenever one of these members of `known` changes, and in another language. */
export function watch(members, render) {
  watchers.push({ members, run: render, isRender: true });
  render();
}

/** Do `work` whenever one of these members of `known` changes. */
export function whenever(members, work) {
  watchers.push({ members, run: work, isRender: false });
}

/** Change what is known, and tell who watches. */
export function change(changes) {
  const changed = Object.keys(changes).filter((name) => !isSame(known[name], changes[name]));
  Object.assign(known, changes);
  for (const { members, run } of watchers) if (members.some((name) => changed.includes(name))) run();
}

/** Whether two values are alike; images are, where they are the same object. */
const isSame = (first, second) =>
  JSON.stringify(first) === JSON.stringify(second) && first?.image === second?.image && first?.heatmap === second?.heatmap;

/** Call every `render` again, in another language. */
export function renderAll() {
  for (const { run, isRender } of watchers) if (isRender) run();
}

/** How the chosen product stands, if there is one. */
export const standing = () => known.products.find(({ product }) => product === known.product);

/** Run an action; an error is shown at the top of the page. */
export async function attempt(work) {
  const trouble = by("trouble");
  try {
    trouble.hidden = true;
    return await work();
  } catch (error) {
    trouble.textContent = t("trouble", { why: error.message });
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
    const answered = () => {
      resolve(dialog.returnValue === "yes" ? by("asking-value").value : null);
      by("asking-value").value = "";
    };
    dialog.addEventListener("close", answered, { once: true });
  });
}
