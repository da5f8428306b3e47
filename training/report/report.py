"""``report.html``: a version's metrics on one page that needs no network; ``metrics.json`` has the same."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from scipy.stats import binomtest

from app.inference.calibration import min_calibration_parts
from model.bundle import PromiseRecord
from training.data.dataset import Dataset, Split, min_good_images
from training.evaluation.sensitivity import CONTRASTS, Cell, find_smallest
from training.report.examples import ExampleImage
from training.report.pages import render_page
from training.report.plots import render_curves, render_histogram, render_roc, render_sensitivity
from training.version_metrics import VersionMetrics

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


@dataclass(frozen=True)
class ReportContent:
    """The content of a report beside the metrics. ``calibration``: scores of calibration parts."""

    product: str
    metrics: VersionMetrics
    calibration: Sequence[float]
    threshold: float
    oddest_good: Sequence[ExampleImage] = ()
    weakest_defects: Sequence[ExampleImage] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def render_report(content: ReportContent) -> str:
    """Render the page; sections without figures are left out."""
    metrics = content.metrics
    test = (metrics.evaluation and metrics.evaluation.test_scores) or ()
    return render_page(
        "report.html",
        content=content,
        training=metrics.training,
        format_value=format_value,
        gate=metrics.gate,
        figures=make_metric_rows(metrics),
        roc=render_roc(test),
        histogram=render_histogram(content.calibration, test, content.threshold),
        incumbent=make_incumbent_rows(metrics),
        sensitivity=render_sensitivity(metrics.sensitivity),
        smallest=describe_smallest(metrics.sensitivity),
        repeats=[(one.change, REPEAT.format(**asdict(one))) for one in metrics.repeatability],
        curves=render_curves(metrics.training.curves),
    )


def format_value(value: object) -> str:
    """Format a value; floats to four places."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def make_metric_rows(metrics: VersionMetrics) -> list[tuple[str, object]]:
    """Return each metric with its label, rates with their intervals."""
    values = metrics.to_dict()
    return [
        (label, format_rate(values[name], values[RATES[name]]) if name in RATES else values[name])
        for name, label in LABELS.items()
        if name in values
    ]


def compute_interval(rate: float, num_parts: int) -> tuple[float, float]:
    """Return Clopper and Pearson's exact interval of a share at ``CONFIDENCE``."""
    found = binomtest(round(rate * num_parts), num_parts).proportion_ci(CONFIDENCE, method="exact")
    return float(found.low), float(found.high)


def format_rate(rate: float, num_parts: int) -> str:
    """Return a share with its interval as text."""
    low, high = compute_interval(rate, num_parts)
    return f"{rate:.2%} ({low:.2%} to {high:.2%} at {CONFIDENCE:.0%} confidence)"


def make_incumbent_rows(metrics: VersionMetrics) -> list[tuple[str, object]]:
    """Return the metrics beside those of the version in service."""
    values = metrics.to_dict()
    return [
        (LABELS.get(name, name.replace("_", " ")), f"{format_value(values[name])}; in service {format_value(value)}")
        for name, value in values["before"].items()
        if name in values and isinstance(value, float)
    ]


def describe_smallest(cells: Sequence[Cell]) -> str:
    """Return the smallest defect of each kind that is found at full contrast."""
    kinds = dict.fromkeys(cell.kind for cell in cells)
    found = {kind: find_smallest(cells, kind=kind, contrast=CONTRASTS[-1]) for kind in kinds}
    return ", ".join(f"{kind} {f'{size:.0%}' if size is not None else 'none'}" for kind, size in found.items())


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


def describe_metrics(metrics: VersionMetrics) -> list[str]:
    """Return the metrics of a test set, one a line; empty without one."""
    values = metrics.to_dict()
    named = {name: values[name] for name in LABELS if isinstance(values.get(name), float)}
    return [f"{LABELS[name]}: {value:.4f}" for name, value in named.items()]
