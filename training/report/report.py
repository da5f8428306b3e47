"""``report.html``: a version's metrics on one page that needs no network; ``metrics.json`` has the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from scipy.stats import binomtest

from app.inference.calibration import min_calibration_parts
from model.bundle import PromiseRecord
from training.data.dataset import Dataset, Split, min_good_images
from training.evaluation.sensitivity import CONTRASTS, Cell, find_smallest
from training.report.examples import ExampleImage
from training.report.plots import render_curves, render_histogram, render_roc, render_sensitivity

LABELS = {
    "image_auroc": "image AUROC",
    "average_precision": "average precision",
    "f1_max": "F1-max",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO (to 0.3)",
    "false_alarm_rate": "good test parts judged ng (false alarms)",
    "escape_rate": "defective test parts judged ok (escapes)",
    "num_test_good": "good test parts",
    "num_test_defective": "defective test parts",
    "num_train": "good parts to learn from",
    "num_confirmed": "of them labelled by users",
    "num_standardise": "good parts to standardise with",
    "num_calibrate": "good parts to calibrate with",
    "training_s": "seconds of training",
}
# Rates with the number of parts that they are shares of.
RATES = {"false_alarm_rate": "num_test_good", "escape_rate": "num_test_defective"}
CONFIDENCE = 0.95
REPEAT = "scores move by {spread:.2f} (largest {largest:.2f}); {num_flipped} of {num_parts} verdicts flip"
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{product}: report</title>
<style>body{{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}}
figure{{display:inline-block;margin:.5rem}}figcaption{{text-align:center;font-size:.8rem}}
img{{max-width:100%}}.no{{color:#b00}}
td,th{{text-align:left;padding:.2rem 1.5rem .2rem 0;border-bottom:1px solid #ddd;vertical-align:top}}</style>
<h1>{product}</h1>
{sections}
</html>
"""


@dataclass(frozen=True)
class ReportContent:
    """The content of a report beside the metrics. ``calibration``: scores of calibration parts."""

    product: str
    metrics: Mapping[str, Any]
    calibration: Sequence[float]
    threshold: float
    oddest_good: Sequence[ExampleImage] = ()
    weakest_defects: Sequence[ExampleImage] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def render_report(content: ReportContent) -> str:
    """Render the page; sections without figures are left out."""
    metrics = content.metrics
    test = metrics.get("test_scores", [])
    sections = [
        f"<p>{escape(str(metrics['promise_in_words']))}</p>",
        render_gate(metrics.get("gate")),
        render_section("Figures", render_table(make_metric_rows(metrics)) + render_roc(test)),
        render_section("Scores", render_histogram(content.calibration, test, content.threshold)),
        render_section("Beside the version in service", render_table(make_incumbent_rows(metrics))),
        render_section("What it can see", render_seen(parse_cells(metrics))),
        render_section("The same part again", render_repeats(metrics.get("repeatability", []))),
        render_section("The most anomalous good parts", render_examples(content.oddest_good)),
        render_section("The weakest defects", render_examples(content.weakest_defects)),
        render_section("Learning", render_curves(metrics.get("curves", {}))),
        render_section("Where it comes from", render_table(list(content.facts.items()))),
        render_section("Settings", render_table(list(metrics["settings"].items()))),
    ]
    return PAGE.format(product=escape(content.product), sections="\n".join(sections))


def render_section(title: str, body: str) -> str:
    """Render a titled section; empty without a body."""
    return f"<h2>{escape(title)}</h2>{body}" if body else ""


def render_table(rows: Sequence[tuple[str, object]]) -> str:
    """Render two columns; empty without rows."""
    cells = "".join(f"<tr><th>{escape(label)}</th><td>{escape(format_value(value))}</td></tr>" for label, value in rows)
    return f"<table>{cells}</table>" if cells else ""


def format_value(value: object) -> str:
    """Format a value; floats to four places."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def make_metric_rows(metrics: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return each metric with its label, rates with their intervals."""
    return [
        (label, format_rate(metrics[name], metrics[RATES[name]]) if name in RATES else metrics[name])
        for name, label in LABELS.items()
        if name in metrics
    ]


def compute_interval(rate: float, num_parts: int) -> tuple[float, float]:
    """Return Clopper and Pearson's exact interval of a share at ``CONFIDENCE``."""
    found = binomtest(round(rate * num_parts), num_parts).proportion_ci(CONFIDENCE, method="exact")
    return float(found.low), float(found.high)


def format_rate(rate: float, num_parts: int) -> str:
    """Return a share with its interval as text."""
    low, high = compute_interval(rate, num_parts)
    return f"{rate:.2%} ({low:.2%} to {high:.2%} at {CONFIDENCE:.0%} confidence)"


def render_gate(gate: Mapping[str, Any] | None) -> str:
    """Render the gate's result; empty without one."""
    if gate is None:
        return ""
    beside = f" beside {gate['beside']}, which serves" if gate["beside"] else ""
    head = "passed the gate" if gate["passed"] else "did not pass the gate and was not activated by itself"
    items = "".join(
        f"<li{'' if check['passed'] else ' class=no'}>{escape(check['name'])}: {escape(check['says'])}</li>"
        for check in gate["checks"]
    )
    return f"<p>This version {head}{escape(beside)}.</p><ul>{items}</ul>"


def make_incumbent_rows(metrics: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return the metrics beside those of the version in service."""
    before: Mapping[str, Any] = metrics.get("before", {})
    return [
        (LABELS.get(name, name.replace("_", " ")), f"{format_value(metrics[name])}; in service {format_value(value)}")
        for name, value in before.items()
        if name in metrics and isinstance(value, float)
    ]


def parse_cells(metrics: Mapping[str, Any]) -> list[Cell]:
    """Return the sensitivity of the metrics, or an empty list."""
    return [Cell(**row) for row in metrics.get("sensitivity", [])]


def render_seen(cells: Sequence[Cell]) -> str:
    """Render the sensitivity, and the smallest defects in words; empty without figures."""
    if not cells:
        return ""
    return (
        "<p>Synthetic defects on good parts that nothing was learned from: the share judged ng, by size as a share of "
        f"the shorter side. Smallest found at full contrast: {escape(describe_smallest(cells))}.</p>"
        f"{render_sensitivity(cells)}"
    )


def describe_smallest(cells: Sequence[Cell]) -> str:
    """Return the smallest defect of each kind that is found at full contrast."""
    kinds = dict.fromkeys(cell.kind for cell in cells)
    found = {kind: find_smallest(cells, kind=kind, contrast=CONTRASTS[-1]) for kind in kinds}
    return ", ".join(f"{kind} {f'{size:.0%}' if size is not None else 'none'}" for kind, size in found.items())


def render_repeats(repeats: Sequence[Mapping[str, Any]]) -> str:
    """Render the repeatability."""
    return render_table([(one["change"], REPEAT.format(**one)) for one in repeats])


def render_examples(found: Sequence[ExampleImage]) -> str:
    """Render parts beside their heat-maps."""
    return "".join(
        f'<figure><img alt="part {escape(one.name)}" src="data:image/jpeg;base64,{one.part}"> '
        f'<img alt="its heat-map" src="data:image/jpeg;base64,{one.heatmap}">'
        f"<figcaption>{escape(one.name)}: {one.score:.2f}, {one.verdict}</figcaption></figure>"
        for one in found
    )


def describe_data(dataset: Dataset, split: Split) -> str:
    """Return the numbers of images by their use."""
    num_used = len(split.train) + len(split.standardise) + len(split.calibrate)
    num_twins = len(dataset.good) + len(split.confirmed) - num_used
    twins = f" ({num_twins} identical left out)" if num_twins else ""
    confirmed = f" and {len(split.confirmed)} confirmed" if split.confirmed else ""
    return (
        f"{len(dataset.good)} good images{confirmed}{twins}: {len(split.train)} to learn from, "
        f"{len(split.standardise)} to standardise, {len(split.calibrate)} to calibrate; {len(dataset.test)} to test"
    )


def describe_promise(promise: PromiseRecord) -> str:
    """Return the supported false-alarm rate, and what a lower one requires."""
    said = f"{promise.num_calibration} calibration parts support a false-alarm rate of {promise.supported:.2%}"
    if promise.supported <= promise.asked:
        return f"{said}, as asked."
    needed = min_calibration_parts(promise.asked)
    images = min_good_images(needed)
    return f"{said}, not the {promise.asked:.2%} that was asked; that takes {needed}, of {images} good images in all."


def describe_metrics(metrics: Mapping[str, object]) -> list[str]:
    """Return the metrics of a test set, one a line; empty without one."""
    named = {name: metrics[name] for name in LABELS if isinstance(metrics.get(name), float)}
    return [f"{LABELS[name]}: {value:.4f}" for name, value in named.items()]
