"""Calibration: constants of the absolute scale, and the threshold, from held-out good parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.inference.calibration import compute_promise
from app.inference.detector import Comparison
from model.bundle import AffineRecord, PromiseRecord

# So that parts which are all alike, or a test with very few, don't divide by zero.
MIN_SPREAD = 1e-6


@dataclass(frozen=True)
class Calibration:
    """Constants and threshold. ``scores``: of the calibration parts, on the absolute scale, float64 (parts)."""

    score: AffineRecord
    map: AffineRecord
    pixel_threshold: float
    promise: PromiseRecord
    scores: NDArray[np.float64]


def calibrate(comparisons: Sequence[Comparison], valid: Sequence[NDArray[np.float32]], *, asked: float) -> Calibration:
    """Calibrate by raw comparisons of held-out good parts; ``asked``: the requested false-alarm rate.

    A good part shows a region as rarely as it is ng: the pixel threshold comes from the highest position of each part
    as the threshold comes from its score.
    """
    raw_scores = np.array([comparison.score for comparison in comparisons])
    positions = np.concatenate(
        [comparison.map[inside > 0] for comparison, inside in zip(comparisons, valid, strict=True)]
    )
    score, map_ = fit_affine(raw_scores), fit_affine(positions)
    scores = (raw_scores - score.mean) / score.spread
    peaks = np.array([map_.standardise(float(comparison.map.max())) for comparison in comparisons])
    return Calibration(
        score=score,
        map=map_,
        pixel_threshold=compute_promise(peaks, asked=asked).threshold,
        promise=compute_promise(scores, asked=asked),
        scores=scores,
    )


def fit_affine(raw: NDArray[np.float64] | NDArray[np.float32]) -> AffineRecord:
    """Return constants that map the mean to 0 and the spread to 1."""
    values = raw.astype(np.float64)
    return AffineRecord(mean=float(values.mean()), spread=max(MIN_SPREAD, float(values.std())))
