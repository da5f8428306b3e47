"""Verification of a version before it serves: each batch size is run, and golden images must give training's results.

Another machine, ONNX Runtime or device may compute something else than what was calibrated.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.errors import ImageError, ModelError
from app.imaging.decode import MAX_PIXELS
from app.inference.arrays import ArrayFile
from app.inference.detector import BUCKETS, make_blank_batch
from app.inference.version import Loader, Version
from app.inspection.pipeline import infer, preprocess, standardise_map
from app.store.store import Bundle
from model.bundle import GOLDEN, BundleError

EXPECTED = f"{GOLDEN}/expected.npz"


FILE = ArrayFile(EXPECTED, {"scores": np.float64, "maps": np.float32})


@dataclass(frozen=True)
class GoldenExpectation:
    """Results of the golden images in training, by sorted name: scores (images) and maps (images, h, w)."""

    scores: NDArray[np.float64]
    maps: NDArray[np.float32]


def load_verified(bundle: Bundle, *, loader: Loader, max_batch: int) -> Version:
    """Load a version, warm it up and verify its golden images. Raises ModelError or BundleError."""
    version = loader.load(bundle)
    warm_up(version, max_batch=max_batch)
    if EXPECTED in bundle.files:
        verify_golden(version, bundle.files)
    return version


def warm_up(version: Version, *, max_batch: int) -> None:
    """Run every batch size once: the first run of a shape may take seconds."""
    for size in BUCKETS:
        if size == 1 or size < 2 * max_batch:
            version.detector.run(make_blank_batch(version.manifest, size=size))


def verify_golden(version: Version, files: Mapping[str, bytes]) -> None:
    """Inspect each golden image and compare with training's result. Raises ModelError, BundleError."""
    expected = unpack_expectation(files[EXPECTED])
    names = sorted(name for name in files if name.startswith(f"{GOLDEN}/") and name != EXPECTED)
    if len(names) != len(expected.scores):
        raise BundleError(f"{len(names)} golden images, but {len(expected.scores)} expected scores")
    if expected.maps.shape[1:] != version.manifest.map_size:
        raise BundleError(f"{EXPECTED} holds maps of {expected.maps.shape[1:]}, not of {version.manifest.map_size}")
    tolerance = version.manifest.golden_tolerance.get("float32", 0.0)
    for name, score, map_ in zip(names, expected.scores, expected.maps, strict=True):
        difference = max_difference(version, files[name], score=float(score), map_=map_)
        if not difference <= tolerance:  # NaN fails too
            raise ModelError(
                f"{name} differs from its result in training by {difference:.3g}; the tolerance is {tolerance:.3g}"
            )


def max_difference(version: Version, data: bytes, *, score: float, map_: NDArray[np.float32]) -> float:
    """Return the largest difference between this result of an image and that of training, on the absolute scale."""
    try:
        batch = preprocess(data, version, max_pixels=MAX_PIXELS).batch
    except ImageError as error:
        raise BundleError(f"a golden image can't be inspected: {error}") from error
    comparison = infer(batch, version)
    inside = batch.valid[0]
    off_map = np.abs(standardise_map(comparison.map, inside, version) - map_ * inside).max()
    off_score = abs(version.manifest.score.standardise(comparison.score) - score)
    return float(np.maximum(off_map, off_score))  # unlike max, this passes NaN on


def unpack_expectation(data: bytes) -> GoldenExpectation:
    """Read ``expected.npz``. Raises BundleError."""
    scores, maps = FILE.read(data)
    if scores.ndim != 1 or len(maps) != len(scores):
        raise BundleError(f"{EXPECTED} holds {scores.shape} scores and {maps.shape} maps")
    return GoldenExpectation(scores, maps)
