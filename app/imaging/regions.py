"""Regions: where the anomaly map exceeds the pixel threshold, as boxes on the posted image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.imaging.decode import Image


@dataclass(frozen=True)
class Region:
    """A connected piece of the map above the pixel threshold, in pixels of the posted image, upright.

    ``peak_row`` and ``peak_column``: the map position where it is highest.
    """

    x: int
    y: int
    width: int
    height: int
    area_px: int
    peak: float
    peak_row: int
    peak_column: int


@dataclass(frozen=True)
class Grid:
    """The map's grid on the posted image: position ``(row, column)`` begins at ``(y, x)`` in pixels."""

    x0: float
    y0: float
    step_x: float
    step_y: float
    width: int
    height: int


def make_grid(image: Image, map_size: tuple[int, int]) -> Grid:
    """Return the grid of a map of this size over an image's canvas."""
    canvas_height, canvas_width = image.pixels.shape[:2]
    scale_x = image.width / image.content.width
    scale_y = image.height / image.content.height
    return Grid(
        x0=-image.content.x * scale_x,
        y0=-image.content.y * scale_y,
        step_x=canvas_width / map_size[1] * scale_x,
        step_y=canvas_height / map_size[0] * scale_y,
        width=image.width,
        height=image.height,
    )


def find_regions(
    map_: NDArray[np.float32], *, threshold: float, grid: Grid, min_area_px: int = 0
) -> tuple[Region, ...]:
    """Return the map's regions above ``threshold``, the highest peak first."""
    labels = label_components(map_ > threshold)
    found = (make_region(labels == label, map_, grid) for label in np.unique(labels) if label > 0)
    kept = (region for region in found if region.area_px >= min_area_px)
    return tuple(sorted(kept, key=lambda region: -region.peak))


def label_components(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Label 8-connected components; 0 where the mask is false. The highest number spreads until nothing changes."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
        spread = np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
        grown = np.where(mask, spread, 0)
        if np.array_equal(grown, labels):
            return labels
        labels = grown


def make_region(piece: NDArray[np.bool_], map_: NDArray[np.float32], grid: Grid) -> Region:
    """Return the box of one component, cut to the image."""
    rows, columns = np.nonzero(piece)
    left = int(max(0, np.floor(grid.x0 + columns.min() * grid.step_x)))
    top = int(max(0, np.floor(grid.y0 + rows.min() * grid.step_y)))
    right = int(min(grid.width, np.ceil(grid.x0 + (columns.max() + 1) * grid.step_x)))
    bottom = int(min(grid.height, np.ceil(grid.y0 + (rows.max() + 1) * grid.step_y)))
    highest = int(map_[rows, columns].argmax())
    area = round(len(rows) * grid.step_x * grid.step_y)
    return Region(
        x=left,
        y=top,
        width=right - left,
        height=bottom - top,
        area_px=max(1, min(area, (right - left) * (bottom - top))),
        peak=float(map_[rows[highest], columns[highest]]),
        peak_row=int(rows[highest]),
        peak_column=int(columns[highest]),
    )
