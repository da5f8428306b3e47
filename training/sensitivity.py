"""What a version can see: synthetic defects of known size and contrast on good parts that nothing was learned from.

It works before any real defect is at hand, which is how most lines start, and never sets a threshold: synthetic
defects pick the best model in few products only, but a version that misses them misses more than them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from app.engine.decode import loaded, opened
from app.engine.inspector import judge
from app.engine.version import Version
from training.synthetic import KINDS, Defect, as_png, with_defect

SIZES = (0.02, 0.04, 0.08, 0.16, 0.32)
CONTRASTS = (0.25, 0.5, 1.0)
# Good parts that every kind, size and contrast is put onto.
NUM_PARTS = 6
# A size is found if this share of its defects is judged ng.
FOUND_SHARE = 0.9
JUDGED_MODES = ("L", "RGB")


@dataclass(frozen=True)
class Cell:
    """How many defects of one kind, size and contrast were judged ng, of how many."""

    kind: str
    size: float
    contrast: float
    num_found: int
    num_drawn: int


def sensitivity(
    version: Version, parts: Sequence[Path], *, seed: int, max_pixels: int, on_defect: Callable[[int], None]
) -> tuple[Cell, ...]:
    """Every kind, size and contrast on some good parts; none where no part is an 8-bit image."""
    generator = np.random.default_rng(seed)
    pictures = [loaded(opened(path.read_bytes(), max_pixels=max_pixels)) for path in parts[:NUM_PARTS]]
    pictures = [picture for picture in pictures if picture.mode in JUDGED_MODES]
    if not pictures:
        return ()
    cells = []
    for kind in KINDS:
        for size in SIZES:
            for contrast in CONTRASTS:
                defect = Defect(kind, size, contrast)
                found = [is_found(version, one, defect, generator, max_pixels=max_pixels) for one in pictures]
                cells.append(Cell(kind, size, contrast, sum(found), len(found)))
                on_defect(len(found))
    return tuple(cells)


def is_found(
    version: Version, picture: Pillow.Image, defect: Defect, generator: np.random.Generator, *, max_pixels: int
) -> bool:
    """Whether the part is judged ng with this defect on it."""
    defective, _ = with_defect(picture, defect, generator=generator)
    return judge(as_png(defective), version, max_pixels=max_pixels).verdict == "ng"


def num_defects(num_parts: int) -> int:
    """How many defects are drawn, for the progress."""
    return len(KINDS) * len(SIZES) * len(CONTRASTS) * min(num_parts, NUM_PARTS)


def smallest_found(cells: Sequence[Cell], *, kind: str, contrast: float) -> float | None:
    """The smallest size from which on every size is found, as a share of the shorter side; None where none is."""
    smallest = None
    for cell in sorted(cells, key=lambda one: -one.size):
        if (cell.kind, cell.contrast) != (kind, contrast):
            continue
        if cell.num_found < FOUND_SHARE * cell.num_drawn:
            break
        smallest = cell.size
    return smallest
