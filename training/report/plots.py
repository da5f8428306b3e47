"""The report's plots as SVG, by matplotlib."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from training.evaluation.evaluate import TestScore
from training.evaluation.sensitivity import CONTRASTS, SIZES, Cell

COLOURS = ("#9ecae1", "#4292c6", "#08306b")  # the faintest contrast first
GOOD, DEFECTIVE, LIMIT = "#4292c6", "#c4322b", "#333333"
WIDE, SMALL = (7.0, 2.8), (2.9, 2.1)
Points = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Plot:
    """A plot as SVG in base64, and the text in its place."""

    alt_text: str
    svg: str


def render_curves(curves: Mapping[str, Points]) -> list[Plot]:
    """Render each phase's losses by step; empty without training."""
    phases = dict.fromkeys(name.partition(": ")[0] for name in curves)
    return [render_curve(phase, curves) for phase in phases]


def render_curve(phase: str, curves: Mapping[str, Points]) -> Plot:
    """Render one phase."""
    figure, axes = make_figure(WIDE)
    for name, points in curves.items():
        if name.startswith(f"{phase}: "):
            steps, losses = zip(*points, strict=True)
            is_rare = name.endswith("held_out")
            axes.plot(steps, losses, label=name.partition(": ")[2], marker="o" if is_rare else None, lw=1.2)
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(frameon=False, fontsize=8)
    return to_plot(figure, f"losses of {phase} over steps")


def render_histogram(calibration: Sequence[float], test: Sequence[TestScore], threshold: float) -> Plot:
    """Render the scores of good parts, and of test parts if there are any, with the threshold."""
    good = [one.score for one in test if one.kind == "good"]
    bad = [one.score for one in test if one.kind != "good"]
    figure, axes = make_figure(WIDE)
    everything = [*calibration, *good, *bad, threshold]
    # Scores of defects may be a hundred spreads away; the plot shows the range around the threshold.
    right = min(max(everything), threshold + 4 * (threshold - min(everything)))
    bins = [min(everything) + (right - min(everything)) * i / 40 for i in range(41)]
    for scores, label, colour in (
        (calibration, "calibration", LIMIT),
        (good, "test, good", GOOD),
        (bad, "test, defective", DEFECTIVE),
    ):
        if scores:
            clipped = [min(score, right) for score in scores]
            axes.hist(clipped, bins=bins, label=f"{label} ({len(scores)})", histtype="step", color=colour, density=True)
    axes.axvline(threshold, color=LIMIT, ls="--", lw=1, label=f"threshold {threshold:.2f}")
    axes.set(xlabel="score (the last bar holds all above)", ylabel="density")
    axes.legend(frameon=False, fontsize=8)
    return to_plot(figure, "histogram of scores with the threshold")


def render_roc(test: Sequence[TestScore]) -> Plot | None:
    """Render the ROC curve; None without both kinds of parts."""
    labels = [one.kind != "good" for one in test]
    if not any(labels) or all(labels):
        return None
    alarms, caught, _ = roc_curve(labels, [one.score for one in test])
    figure, axes = make_figure(SMALL)
    axes.plot(alarms, caught, color=GOOD)
    axes.set(xlabel="false alarms", ylabel="defects caught", xlim=(0, 1), ylim=(0, 1.02))
    return to_plot(figure, "share of defects caught over false alarms")


def render_sensitivity(cells: Sequence[Cell]) -> dict[str, Plot]:
    """Render the share of synthetic defects found by size: a plot a kind, a line a contrast."""
    return {kind: render_chart(cells, kind) for kind in dict.fromkeys(cell.kind for cell in cells)}


def render_chart(cells: Sequence[Cell], kind: str) -> Plot:
    """Render one kind."""
    figure, axes = make_figure(SMALL)
    for contrast, colour in zip(CONTRASTS, COLOURS, strict=True):
        own = [cell for cell in cells if (cell.kind, cell.contrast) == (kind, contrast)]
        shares = [cell.num_found / cell.num_drawn for cell in own]
        axes.plot([cell.size for cell in own], shares, color=colour, marker="o", ms=3, label=f"{contrast:.0%}")
    axes.set(xscale="log", ylim=(-0.03, 1.03))
    axes.set_xticks(SIZES, [f"{size:.0%}" for size in SIZES])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=7, title="contrast", title_fontsize=7)
    return to_plot(figure, f"share of {kind} defects found by size")


def make_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes, of ``size`` in inches."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def to_plot(figure: Figure, alt_text: str) -> Plot:
    """Return a figure as SVG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "goodpart"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Plot(alt_text, base64.b64encode(buffer.getvalue()).decode())
