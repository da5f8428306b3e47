"""A product's region of interest, from pictures beside the data and rectangles in the settings."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.errors import SettingsError
from app.imaging.roi import RegionOfInterest, region_from_png
from model.bundle import BundleError
from training.data.dataset import IGNORE_FILE, INSPECT_FILE
from training.errors import BadImage
from training.settings import Rectangle, TrainSettings

# Finer than any anomaly map of ours, so that a rectangle's edge is the map's own.
SIZE = (512, 512)


def read_region_of_interest(folder: Path, settings: TrainSettings) -> RegionOfInterest | None:
    """Return the region of interest, or None for the whole image. Raises BadImage, SettingsError.

    It is the white of ``region.png`` and the ``inspect`` rectangles, less the white of ``ignore.png`` and the
    ``ignore`` rectangles.
    """
    inspected = [*read_mask(folder / INSPECT_FILE), *draw_rectangles(settings.inspect)]
    ignored = [*read_mask(folder / IGNORE_FILE), *draw_rectangles(settings.ignore)]
    if not inspected and not ignored:
        return None
    inside = np.any(inspected, axis=0) if inspected else np.ones(SIZE, dtype=bool)
    for mask in ignored:
        inside = inside & ~mask
    if not inside.any():
        raise SettingsError("the region of interest is empty: every pixel is ignored")
    return RegionOfInterest(inside, is_blanked=True)


def read_mask(path: Path) -> list[NDArray[np.bool_]]:
    """Return the white of a picture at ``SIZE``, or nothing. Raises BadImage."""
    if not path.is_file():
        return []
    try:
        region = region_from_png(path.read_bytes())
    except BundleError as error:
        raise BadImage(path, str(error)) from error
    middles = [(np.arange(length) + 0.5) / length for length in SIZE]
    return [region.contains(*middles)]


def draw_rectangles(rectangles: Iterable[Rectangle]) -> list[NDArray[np.bool_]]:
    """Return the union of rectangles at ``SIZE``, or nothing."""
    masks = []
    y, x = ((np.arange(length) + 0.5) / length for length in SIZE)
    for box in rectangles:
        rows = (y >= box.y) & (y < box.y + box.height)
        columns = (x >= box.x) & (x < box.x + box.width)
        masks.append(np.outer(rows, columns))
    return [np.any(masks, axis=0)] if masks else []
