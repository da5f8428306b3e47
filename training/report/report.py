"""``report.html``: all that is known of a version on one page that needs no network; ``metrics.json`` has the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from scipy.stats import binomtest

from app.inference.calibration import min_calibration_parts
from model.bundle import PromiseRecord
from training.data.dataset import Dataset, Split, good_images_needed
from training.evaluation.sensitivity import CONTRASTS, Cell, smallest_found
from training.report.examples import Exhibit
from training.report.plots import curves_html, histogram_html, roc_html, sensitivity_html

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
    "num_confirmed": "of them confirmed by people",
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
class Findings:
    """What a report shows beside the metrics. ``calibration``: scores of calibration parts."""

    product: str
    metrics: Mapping[str, Any]
    calibration: Sequence[float]
    threshold: float
    oddest_good: Sequence[Exhibit] = ()
    weakest_defects: Sequence[Exhibit] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def report_html(found: Findings) -> str:
    """The page; what a training has no figure for is left out."""
    metrics = found.metrics
    test = metrics.get("test_scores", [])
    sections = [
        f"<p>{escape(str(metrics['promise_in_words']))}</p>",
        gate_html(metrics.get("gate")),
        section("Figures", table(figure_rows(metrics)) + roc_html(test)),
        section("Scores", histogram_html(found.calibration, test, found.threshold)),
        section("Beside the version in service", table(beside_rows(metrics))),
        section("What it can see", seen_html(cells_of(metrics))),
        section("The same part again", repeats_html(metrics.get("repeatability", []))),
        section("The oddest good parts", exhibits_html(found.oddest_good)),
        section("The weakest defects", exhibits_html(found.weakest_defects)),
        section("Learning", curves_html(metrics.get("curves", {}))),
        section("Where it comes from", table(list(found.facts.items()))),
        section("Settings", table(list(metrics["settings"].items()))),
    ]
    return PAGE.format(product=escape(found.product), sections="\n".join(sections))


def section(title: str, body: str) -> str:
    """A titled part of the page; nothing where there is nothing to say."""
    return f"<h2>{escape(title)}</h2>{body}" if body else ""


def table(rows: Sequence[tuple[str, object]]) -> str:
    """Two columns; nothing without rows."""
    cells = "".join(f"<tr><th>{escape(label)}</th><td>{escape(shown(value))}</td></tr>" for label, value in rows)
    return f"<table>{cells}</table>" if cells else ""


def shown(value: object) -> str:
    """Figures to four places."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def figure_rows(metrics: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Each figure with its label, rates with their intervals."""
    return [
        (label, with_interval(metrics[name], metrics[RATES[name]]) if name in RATES else metrics[name])
        for name, label in LABELS.items()
        if name in metrics
    ]


def interval(rate: float, num_parts: int) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a share at ``CONFIDENCE``."""
    found = binomtest(round(rate * num_parts), num_parts).proportion_ci(CONFIDENCE, method="exact")
    return float(found.low), float(found.high)


def with_interval(rate: float, num_parts: int) -> str:
    """A share with its interval, in words."""
    low, high = interval(rate, num_parts)
    return f"{rate:.2%} ({low:.2%} to {high:.2%} at {CONFIDENCE:.0%} confidence)"


def gate_html(gate: Mapping[str, Any] | None) -> str:
    """What the gate found; nothing where it was not asked."""
    if gate is None:
        return ""
    beside = f" beside {gate['beside']}, which serves" if gate["beside"] else ""
    head = "passed the gate" if gate["passed"] else "did not pass the gate and was not activated by itself"
    items = "".join(
        f"<li{'' if check['passed'] else ' class=no'}>{escape(check['name'])}: {escape(check['says'])}</li>"
        for check in gate["checks"]
    )
    return f"<p>This version {head}{escape(beside)}.</p><ul>{items}</ul>"


def beside_rows(metrics: Mapping[str, Any]) -> list[tuple[str, object]]:
    """The version in service on the same test parts and synthetic defects: then and now."""
    before: Mapping[str, Any] = metrics.get("before", {})
    return [
        (LABELS.get(name, name.replace("_", " ")), f"{shown(metrics[name])}; in service {shown(value)}")
        for name, value in before.items()
        if name in metrics and isinstance(value, float)
    ]


def cells_of(metrics: Mapping[str, Any]) -> list[Cell]:
    """What the sensitivity figures say, none where there are none."""
    return [Cell(**row) for row in metrics.get("sensitivity", [])]


def seen_html(cells: Sequence[Cell]) -> str:
    """The share of synthetic defects that is found, and in words the smallest; empty where nothing was tried."""
    if not cells:
        return ""
    return (
        "<p>Synthetic defects on good parts that nothing was learned from: the share judged ng, by size as a share of "
        f"the shorter side. Smallest found at full contrast: {escape(smallest_in_words(cells))}.</p>"
        f"{sensitivity_html(cells)}"
    )


def smallest_in_words(cells: Sequence[Cell]) -> str:
    """The smallest defect of each kind that is found at full contrast."""
    kinds = dict.fromkeys(cell.kind for cell in cells)
    found = {kind: smallest_found(cells, kind=kind, contrast=CONTRASTS[-1]) for kind in kinds}
    return ", ".join(f"{kind} {f'{size:.0%}' if size is not None else 'none'}" for kind, size in found.items())


def repeats_html(repeats: Sequence[Mapping[str, Any]]) -> str:
    """How far scores move when nothing of the part changes."""
    return table([(one["change"], REPEAT.format(**one)) for one in repeats])


def exhibits_html(found: Sequence[Exhibit]) -> str:
    """Parts beside their heat-maps."""
    return "".join(
        f'<figure><img alt="part {escape(one.name)}" src="data:image/jpeg;base64,{one.part}"> '
        f'<img alt="its heat-map" src="data:image/jpeg;base64,{one.heatmap}">'
        f"<figcaption>{escape(one.name)}: {one.score:.2f}, {one.verdict}</figcaption></figure>"
        for one in found
    )


def data_in_words(dataset: Dataset, split: Split) -> str:
    """What was found and what it is for."""
    num_used = len(split.train) + len(split.standardise) + len(split.calibrate)
    num_twins = len(dataset.good) + len(split.confirmed) - num_used
    twins = f" ({num_twins} identical left out)" if num_twins else ""
    confirmed = f" and {len(split.confirmed)} confirmed" if split.confirmed else ""
    return (
        f"{len(dataset.good)} good images{confirmed}{twins}: {len(split.train)} to learn from, "
        f"{len(split.standardise)} to standardise, {len(split.calibrate)} to calibrate; {len(dataset.test)} to test"
    )


def promise_in_words(promise: PromiseRecord) -> str:
    """Which false-alarm rate holds, and what a lower one would take."""
    said = f"{promise.num_calibration} calibration parts support a false-alarm rate of {promise.supported:.2%}"
    if promise.supported <= promise.asked:
        return f"{said}, as asked."
    needed = min_calibration_parts(promise.asked)
    images = good_images_needed(needed)
    return f"{said}, not the {promise.asked:.2%} that was asked; that takes {needed}, of {images} good images in all."


def figures_in_words(metrics: Mapping[str, object]) -> list[str]:
    """The figures of a test set, a line each; none where there was no test set."""
    named = {name: metrics[name] for name in LABELS if isinstance(metrics.get(name), float)}
    return [f"{LABELS[name]}: {value:.4f}" for name, value in named.items()]
