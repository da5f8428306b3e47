"""Pictures of figures as SVG inside a page: what a version finds, by size and contrast."""

from collections.abc import Sequence
from html import escape
from math import log2

from training.sensitivity import CONTRASTS, SIZES, Cell, smallest_found

WIDTH, HEIGHT, MARGIN = 260, 150, 34
COLOURS = ("#9ecae1", "#4292c6", "#08306b")  # the faintest contrast first


def sensitivity_html(cells: Sequence[Cell]) -> str:
    """A chart a kind, and in words the smallest defect that is found; empty where nothing was tried."""
    if not cells:
        return ""
    kinds = dict.fromkeys(cell.kind for cell in cells)
    charts = "".join(f"<figure>{chart(cells, kind)}<figcaption>{escape(kind)}</figcaption></figure>" for kind in kinds)
    return (
        "<h2>What it can see</h2><p>Synthetic defects on good parts that nothing was learned from: the share judged "
        f"ng, by size as a share of the shorter side; contrast {key()}. Smallest found at full contrast: "
        f"{escape(smallest_in_words(cells))}.</p>{charts}"
    )


def smallest_in_words(cells: Sequence[Cell]) -> str:
    """The smallest defect of each kind that is found at full contrast."""
    kinds = dict.fromkeys(cell.kind for cell in cells)
    found = {kind: smallest_found(cells, kind=kind, contrast=CONTRASTS[-1]) for kind in kinds}
    return ", ".join(f"{kind} {f'{size:.0%}' if size is not None else 'none'}" for kind, size in found.items())


def key() -> str:
    """Which colour is which contrast."""
    named = zip(COLOURS, CONTRASTS, strict=True)
    return ", ".join(f'<b style="color:{colour}">{contrast:.0%}</b>' for colour, contrast in named)


def chart(cells: Sequence[Cell], kind: str) -> str:
    """Share found over size, a line a contrast."""
    lines = "".join(
        line([cell for cell in cells if (cell.kind, cell.contrast) == (kind, contrast)], colour)
        for contrast, colour in zip(CONTRASTS, COLOURS, strict=True)
    )
    sizes = "".join(
        f'<text x="{x_of(size):.0f}" y="{HEIGHT - 12}" text-anchor="middle">{size:.0%}</text>' for size in SIZES
    )
    shares = "".join(
        f'<text x="{MARGIN - 6}" y="{y_of(share) + 4:.0f}" text-anchor="end">{share:.0%}</text>'
        f'<path d="M{MARGIN} {y_of(share):.0f}H{WIDTH - 10}" stroke="#ddd"/>'
        for share in (0.0, 0.5, 1.0)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" font-size="11" '
        f'aria-label="share of {escape(kind)} defects found, by size">{shares}{sizes}{lines}</svg>'
    )


def line(cells: Sequence[Cell], colour: str) -> str:
    """One contrast's line with its points."""
    points = [(x_of(cell.size), y_of(cell.num_found / cell.num_drawn)) for cell in cells]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}'


def x_of(size: float) -> float:
    """Where a size stands; each doubling is one step."""
    steps = log2(SIZES[-1] / SIZES[0])
    return MARGIN + 12 + (WIDTH - MARGIN - 40) * log2(size / SIZES[0]) / steps


def y_of(share: float) -> float:
    """Where a share stands."""
    return 12 + (HEIGHT - 48) * (1 - share)
