"""Before a version serves: each batch size is run once, and its golden images must come out as in training.

What was exported, copied and loaded on another machine, by another ONNX Runtime, on another device, is not what was
calibrated until this has been seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.errors import GoldenFailed, ImageError
from app.imaging.decode import MOST_PIXELS
from app.inference.arrays import ArrayFile
from app.inference.detector import BUCKETS, blank_batch
from app.inference.version import Loader, Version
from app.inspection.pipeline import acquired, compared, standard_map
from app.store.store import Bundle
from model.bundle import GOLDEN, BundleError

EXPECTED = f"{GOLDEN}/expected.npz"


class BadGolden(BundleError):
    """Golden images without what is expected of them."""


FILE = ArrayFile(EXPECTED, {"scores": np.float64, "maps": np.float32}, damage=BadGolden)


@dataclass(frozen=True)
class Expectation:
    """What training saw of the golden images, by sorted name: scores (images) and maps (images, h, w)."""

    scores: NDArray[np.float64]
    maps: NDArray[np.float32]


def proven(bundle: Bundle, *, loader: Loader, max_batch: int) -> Version:
    """A version loaded, warm, and seen to judge its golden images as in training. Raises ModelError or BundleError."""
    version = loader.load(bundle)
    warm(version, max_batch=max_batch)
    if EXPECTED in bundle.files:
        replay(version, bundle.files)
    return version


def warm(version: Version, *, max_batch: int) -> None:
    """Run every batch size that will be met once: the first run of a shape may take seconds."""
    for size in BUCKETS:
        if size == 1 or size < 2 * max_batch:
            version.detector.run(blank_batch(version.manifest, size=size))


def replay(version: Version, files: Mapping[str, bytes]) -> None:
    """Judge each golden image and hold it against what training saw. Raises GoldenFailed, BadGolden."""
    expected = unpacked_expectation(files[EXPECTED])
    names = sorted(name for name in files if name.startswith(f"{GOLDEN}/") and name != EXPECTED)
    if len(names) != len(expected.scores):
        raise BadGolden(f"{len(names)} golden images, but {len(expected.scores)} expected scores")
    if expected.maps.shape[1:] != version.manifest.map_size:
        raise BadGolden(f"{EXPECTED} holds maps of {expected.maps.shape[1:]}, not of {version.manifest.map_size}")
    tolerance = version.manifest.golden_tolerance.get("float32", 0.0)
    for name, score, map_ in zip(names, expected.scores, expected.maps, strict=True):
        difference = furthest(version, files[name], score=float(score), map_=map_)
        if not difference <= tolerance:  # NaN fails too
            raise GoldenFailed(name, difference=difference, tolerance=tolerance)


def furthest(version: Version, data: bytes, *, score: float, map_: NDArray[np.float32]) -> float:
    """The largest difference between what this image gets here and what it got in training, on the absolute scale."""
    try:
        batch = acquired(data, version, max_pixels=MOST_PIXELS).batch
    except ImageError as error:
        raise BadGolden(f"a golden image can't be judged: {error}") from error
    comparison = compared(batch, version)
    inside = batch.valid[0]
    off_map = np.abs(standard_map(comparison.map, inside, version) - map_ * inside).max()
    off_score = abs(version.manifest.score.standard(comparison.score) - score)
    return float(np.maximum(off_map, off_score))  # unlike max, this passes NaN on


def unpacked_expectation(data: bytes) -> Expectation:
    """What is in ``expected.npz``; raises BadGolden."""
    scores, maps = FILE.unpacked(data)
    if scores.ndim != 1 or len(maps) != len(scores):
        raise BadGolden(f"{EXPECTED} holds {scores.shape} scores and {maps.shape} maps")
    return Expectation(scores, maps)
