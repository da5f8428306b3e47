"""Sensitivity: which synthetic defects of known size and contrast a version finds on held-out good parts.

It works before any real defect is available, and never sets a threshold: synthetic defects select the best model in few
products only, but a version that misses them misses real ones too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from app.imaging.decode import load_image
from app.inference.version import Version
from app.inspection.pipeline import inspect
from training.evaluation.synthetic import KINDS, Defect, place_defect, to_png

SIZES = (0.02, 0.04, 0.08, 0.16, 0.32)
CONTRASTS = (0.25, 0.5, 1.0)
# Good parts that every kind, size and contrast is put onto.
NUM_PARTS = 6
# Larger images are reduced to this size: the network's input is smaller still, and the time grows with the pixels.
MAX_SIDE_PX = 1024
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


def measure_sensitivity(
    version: Version, parts: Sequence[bytes], *, seed: int, max_pixels: int, on_defect: Callable[[int], None]
) -> tuple[Cell, ...]:
    """Try every kind, size and contrast on some good parts; empty where no part is grey or RGB of 8 bits."""
    generator = np.random.default_rng(seed)
    pictures = open_parts(parts[:NUM_PARTS], max_pixels=max_pixels)
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
    """Whether the part is ng with this defect in the inspected area."""
    defective, _ = place_defect(picture, defect, inside=make_inspected_mask(version, picture), generator=generator)
    return inspect(to_png(defective), version, max_pixels=max_pixels).verdict == "ng"


def open_parts(parts: Sequence[bytes], *, max_pixels: int) -> list[Pillow.Image]:
    """Open good parts that can be drawn on, upright, of at most ``MAX_SIDE_PX``."""
    pictures = [load_image(data, max_pixels=max_pixels) for data in parts]
    pictures = [picture for picture in pictures if picture.mode in JUDGED_MODES]
    for picture in pictures:
        picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Pillow.Resampling.BILINEAR)
    return pictures


def make_inspected_mask(version: Version, picture: Pillow.Image) -> NDArray[np.bool_]:
    """Return where the part is inspected, bool (height, width)."""
    if version.roi is None:
        return np.ones((picture.height, picture.width), dtype=bool)
    rows, columns = (np.arange(picture.height) + 0.5) / picture.height, (np.arange(picture.width) + 0.5) / picture.width
    return version.roi.contains(rows, columns)


def compute_recall(cells: Sequence[Cell]) -> float:
    """Return the share of synthetic defects that are found."""
    return sum(cell.num_found for cell in cells) / max(1, sum(cell.num_drawn for cell in cells))


def count_defects(num_parts: int) -> int:
    """Return the number of defects, for the progress."""
    return len(KINDS) * len(SIZES) * len(CONTRASTS) * min(num_parts, NUM_PARTS)


def find_smallest(cells: Sequence[Cell], *, kind: str, contrast: float) -> float | None:
    """Return the smallest size from which on every size is found, as a share of the shorter side, or None."""
    smallest = None
    for cell in sorted(cells, key=lambda one: -one.size):
        if (cell.kind, cell.contrast) != (kind, contrast):
            continue
        if cell.num_found < FOUND_SHARE * cell.num_drawn:
            break
        smallest = cell.size
    return smallest
