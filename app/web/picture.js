// The part and its heat-map, one over the other, to be looked at closely: wheel, fingers, buttons and keys zoom and move.

import { by, h, known, watch } from "./page.js";
import { t } from "./words.js";

const MOST_ZOOM = 16;
const STEP = 1.25;
const SVG = "http://www.w3.org/2000/svg";

let view = { zoom: 1, x: 0, y: 0 };
let urls = [];

/** Make the stage, and let it show what is shown. */
export function begin() {
  const stage = by("stage");
  watch(["shown"], render);
  by("opacity").addEventListener("input", fade);
  by("zoom-in").addEventListener("click", () => zoom(STEP));
  by("zoom-out").addEventListener("click", () => zoom(1 / STEP));
  by("zoom-fit").addEventListener("click", fit);
  stage.addEventListener("keydown", onKey);
  stage.addEventListener("pointerdown", () => stage.focus());
  stage.addEventListener("pointermove", (event) => event.buttons && move(event.movementX, event.movementY));
  stage.addEventListener("wheel", onWheel, { passive: false });
}

/** Look at a region. */
export function lookAt(region) {
  const { width, height } = known.shown.answer.image;
  const layers = by("layers");
  const scale = layers.offsetWidth / width;
  const closer = Math.min(MOST_ZOOM, Math.max(1, 0.4 * Math.min(width / region.width, height / region.height)));
  view = {
    zoom: closer,
    x: (width / 2 - region.x - region.width / 2) * scale * closer,
    y: (height / 2 - region.y - region.height / 2) * scale * closer,
  };
  place();
}

function render() {
  const stage = by("stage");
  stage.setAttribute("aria-label", t("stage"));
  by("zoom-in").setAttribute("aria-label", t("zoomIn"));
  by("zoom-out").setAttribute("aria-label", t("zoomOut"));
  for (const url of urls) URL.revokeObjectURL(url);
  urls = [];
  const { shown } = known;
  if (shown === null) {
    stage.replaceChildren(h("p", { class: "hint" }, t("drop")));
    return;
  }
  const { width, height } = shown.answer.image;
  const layers = h("div", { id: "layers", class: "layers" });
  layers.style.aspectRatio = `${width} / ${height}`;
  layers.style.setProperty("--shape", width / height);
  if (shown.image) layers.append(layer("part", shown.image, { onerror: () => stage.append(hint("notShown")) }));
  if (shown.heatmap) layers.append(layer("heatmap", shown.heatmap));
  layers.append(outlines(shown.answer));
  stage.replaceChildren(layers);
  if (!shown.image) stage.append(hint("notKept"));
  fade();
  fit();
}

const hint = (word) => h("p", { class: "hint" }, t(word));

function layer(name, image, listeners = {}) {
  const url = URL.createObjectURL(image);
  urls.push(url);
  return h("img", { id: name, class: "layer", src: url, alt: "", draggable: "false", ...listeners });
}

/** The regions, drawn in pixels of the posted image. */
function outlines({ image, regions }) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
  drawing.setAttribute("class", "layer");
  drawing.setAttribute("aria-hidden", "true");
  for (const { x, y, width, height } of regions) {
    const box = document.createElementNS(SVG, "rect");
    for (const [name, value] of Object.entries({ x, y, width, height })) box.setAttribute(name, value);
    drawing.append(box);
  }
  return drawing;
}

function fade() {
  const heatmap = by("heatmap");
  if (heatmap) heatmap.style.opacity = by("opacity").value / 100;
}

function fit() {
  view = { zoom: 1, x: 0, y: 0 };
  place();
}

function zoom(factor) {
  const zoomed = Math.min(MOST_ZOOM, Math.max(1, view.zoom * factor));
  const grown = zoomed / view.zoom;
  view = zoomed === 1 ? { zoom: 1, x: 0, y: 0 } : { zoom: zoomed, x: view.x * grown, y: view.y * grown };
  place();
}

function move(x, y) {
  if (view.zoom === 1) return;
  view = { ...view, x: view.x + x, y: view.y + y };
  place();
}

function place() {
  const layers = by("layers");
  if (layers) layers.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
}

function onWheel(event) {
  if (known.shown === null) return;
  event.preventDefault();
  zoom(event.deltaY < 0 ? STEP : 1 / STEP);
}

const KEYS = {
  "+": () => zoom(STEP),
  "=": () => zoom(STEP),
  "-": () => zoom(1 / STEP),
  0: fit,
  ArrowLeft: () => move(40, 0),
  ArrowRight: () => move(-40, 0),
  ArrowUp: () => move(0, 40),
  ArrowDown: () => move(0, -40),
};

function onKey(event) {
  if (!(event.key in KEYS) || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  KEYS[event.key]();
}
