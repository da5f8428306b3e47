// The part and its heat-map, one over the other, to be looked at closely: wheel, fingers, buttons and keys zoom and move.

import { by, h, known, watch } from "./page.js";
import { t } from "./words.js";

const MOST_ZOOM = 16;
const STEP = 1.25;
const MOVE_PX = 40;
const SVG = "http://www.w3.org/2000/svg";
const WHOLE = { zoom: 1, x: 0, y: 0 };

let view = WHOLE;
let drawn = null;
let urls = [];
const fingers = new Map();

/** Make the stage, and let it show what is shown. */
export function begin() {
  const stage = by("stage");
  watch(["shown", "refusal", "products"], render);
  by("opacity").addEventListener("input", fade);
  by("zoom-in").addEventListener("click", () => zoom(STEP));
  by("zoom-out").addEventListener("click", () => zoom(1 / STEP));
  by("zoom-fit").addEventListener("click", () => place(WHOLE));
  stage.addEventListener("keydown", onKey);
  stage.addEventListener("pointerdown", onPointerDown);
  stage.addEventListener("pointermove", onPointerMove);
  for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, ({ pointerId }) => fingers.delete(pointerId));
  stage.addEventListener("wheel", onWheel, { passive: false });
}

/** Look at a region. */
export function lookAt(region) {
  const { width, height } = known.shown.answer.image;
  const scale = by("layers").offsetWidth / width;
  const closer = Math.min(MOST_ZOOM, Math.max(1, 0.4 * Math.min(width / region.width, height / region.height)));
  place({
    zoom: closer,
    x: (width / 2 - region.x - region.width / 2) * scale * closer,
    y: (height / 2 - region.y - region.height / 2) * scale * closer,
  });
}

function render() {
  const stage = by("stage");
  stage.setAttribute("aria-label", t("stage"));
  by("zoom-in").setAttribute("aria-label", t("zoomIn"));
  by("zoom-out").setAttribute("aria-label", t("zoomOut"));
  const { shown } = known;
  for (const url of urls) URL.revokeObjectURL(url);
  urls = [];
  const isSamePart = shown !== null && shown.answer.inspection_id === drawn?.answer.inspection_id;
  drawn = shown;
  if (shown === null) {
    stage.replaceChildren(hint(known.product === null && known.refusal === null ? "noProducts" : "drop"));
    return;
  }
  stage.replaceChildren(layersOf(shown), ...hintsOf(shown));
  fade();
  place(isSamePart ? view : WHOLE);
}

function layersOf({ answer, image, heatmap }) {
  const { width, height } = answer.image;
  const layers = h("div", { id: "layers", class: "layers" });
  layers.style.aspectRatio = `${width} / ${height}`;
  layers.style.setProperty("--shape", width / height);
  if (image) layers.append(layer("part", image, { onerror: () => layers.isConnected && by("stage").append(hint("notShown")) }));
  if (heatmap) layers.append(layer("heatmap", heatmap));
  layers.append(outlines(answer));
  return layers;
}

function hintsOf({ image, heatmap }) {
  if (!image) return [hint("notKept")];
  return heatmap ? [] : [hint("noHeatmap")];
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

function zoom(factor) {
  const zoomed = Math.min(MOST_ZOOM, Math.max(1, view.zoom * factor));
  const grown = zoomed / view.zoom;
  place({ zoom: zoomed, x: view.x * grown, y: view.y * grown });
}

const move = (x, y) => place({ ...view, x: view.x + x, y: view.y + y });

/** Take a view, moved so that the picture stays on the stage. */
function place({ zoom: zoomed, x, y }) {
  const layers = by("layers");
  if (!layers) return;
  const bound = (value, size) => Math.max(-(zoomed - 1) * size / 2, Math.min((zoomed - 1) * size / 2, value));
  view = { zoom: zoomed, x: bound(x, layers.offsetWidth), y: bound(y, layers.offsetHeight) };
  layers.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
  by("stage").dataset.zoomed = zoomed > 1;
}

function onPointerDown(event) {
  const stage = by("stage");
  stage.focus({ preventScroll: true });
  fingers.set(event.pointerId, event);
  if (view.zoom > 1 || fingers.size > 1) stage.setPointerCapture(event.pointerId);
}

/** One finger or the mouse moves the picture, two zoom it by how far they are apart. */
function onPointerMove(event) {
  if (!fingers.has(event.pointerId)) return;
  const before = apart();
  fingers.set(event.pointerId, event);
  if (fingers.size > 1) zoom(apart() / before);
  else if (view.zoom > 1) move(event.movementX, event.movementY);
}

function apart() {
  const [first, second] = fingers.values();
  return second ? Math.max(1, Math.hypot(first.clientX - second.clientX, first.clientY - second.clientY)) : 1;
}

/** The page scrolls as ever where there is nothing to zoom out of. */
function onWheel(event) {
  const isIn = event.deltaY < 0;
  if (known.shown === null || event.deltaY === 0 || event.ctrlKey || (!isIn && view.zoom === 1)) return;
  event.preventDefault();
  zoom(isIn ? STEP : 1 / STEP);
}

const KEYS = {
  "+": () => zoom(STEP),
  "=": () => zoom(STEP),
  "-": () => zoom(1 / STEP),
  0: () => place(WHOLE),
};
const MOVES = {
  ArrowLeft: () => move(MOVE_PX, 0),
  ArrowRight: () => move(-MOVE_PX, 0),
  ArrowUp: () => move(0, MOVE_PX),
  ArrowDown: () => move(0, -MOVE_PX),
};

function onKey(event) {
  const doing = KEYS[event.key] ?? (view.zoom > 1 ? MOVES[event.key] : undefined);
  if (!doing || known.shown === null || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  doing();
}
