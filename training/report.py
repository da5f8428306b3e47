"""``report.html``: the figures of a version on one page that needs no network."""

from collections.abc import Mapping
from html import escape

from app.engine.calibration import parts_needed
from model.bundle import PromiseRecord
from training.chart import sensitivity_html
from training.data import Dataset, Split, good_images_needed
from training.sensitivity import Cell

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
    "num_standardise": "good parts to standardise with",
    "num_calibrate": "good parts to calibrate with",
    "training_s": "seconds of training",
}
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{product}: report</title>
<style>body{{font:16px/1.5 system-ui;max-width:50rem;margin:2rem auto;padding:0 1rem}}
figure{{display:inline-block;margin:.5rem}}figcaption{{text-align:center}}
td,th{{text-align:left;padding:.2rem 1.5rem .2rem 0;border-bottom:1px solid #ddd}}</style>
<h1>{product}</h1>
<p>{promise}</p>
<table>{rows}</table>
{charts}
<h2>Settings</h2>
<table>{settings}</table>
</html>
"""


def report_html(product: str, metrics: Mapping[str, object]) -> str:
    """The page; what a training has no figure for is left out."""
    rows = "".join(row(LABELS[name], metrics[name]) for name in LABELS if name in metrics)
    settings = metrics["settings"]
    chosen = "".join(row(*item) for item in settings.items()) if isinstance(settings, dict) else ""
    return PAGE.format(
        product=escape(product),
        promise=escape(str(metrics["promise_in_words"])),
        rows=rows,
        charts=sensitivity_html(cells_of(metrics)),
        settings=chosen,
    )


def cells_of(metrics: Mapping[str, object]) -> list[Cell]:
    """What the sensitivity figures say, none where there are none."""
    rows = metrics.get("sensitivity", [])
    return [Cell(**row) for row in rows] if isinstance(rows, list) else []


def row(label: str, value: object) -> str:
    """A table row; figures to four places."""
    shown = f"{value:.4f}" if isinstance(value, float) else str(value)
    return f"<tr><th>{escape(label)}</th><td>{escape(shown)}</td></tr>"


def data_in_words(dataset: Dataset, split: Split) -> str:
    """What was found and what it is for."""
    num_twins = len(dataset.good) - len(split.train) - len(split.standardise) - len(split.calibrate)
    twins = f" ({num_twins} identical left out)" if num_twins else ""
    return (
        f"{len(dataset.good)} good images{twins}: {len(split.train)} to learn from, "
        f"{len(split.standardise)} to standardise, {len(split.calibrate)} to calibrate; {len(dataset.test)} to test"
    )


def promise_in_words(promise: PromiseRecord) -> str:
    """Which false-alarm rate holds, and what a lower one would take."""
    said = f"{promise.num_calibration} calibration parts support a false-alarm rate of {promise.supported:.2%}"
    if promise.supported <= promise.asked:
        return f"{said}, as asked."
    needed = parts_needed(promise.asked)
    images = good_images_needed(needed)
    return f"{said}, not the {promise.asked:.2%} that was asked; that takes {needed}, of {images} good images in all."


def figures_in_words(metrics: Mapping[str, object]) -> list[str]:
    """The figures of a test set, a line each; none where there was no test set."""
    named = {name: metrics[name] for name in LABELS if isinstance(metrics.get(name), float)}
    return [f"{LABELS[name]}: {value:.4f}" for name, value in named.items()]
