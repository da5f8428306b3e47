"""Constants of the absolute scale, and the threshold, from good parts that nothing was learned from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.inference.calibration import compute_promise
from app.inference.detector import Comparison
from model.bundle import AffineRecord, PromiseRecord

# So that parts which are all alike, or a test with very few, don't divide by zero.
SMALLEST_SPREAD = 1e-6


@dataclass(frozen=True)
class Calibrated:
    """``scores``: of the calibration parts, on the absolute scale, float64 (parts)."""

    score: AffineRecord
    map: AffineRecord
    pixel_threshold: float
    promise: PromiseRecord
    scores: NDArray[np.float64]


def calibrate(comparisons: Sequence[Comparison], valid: Sequence[NDArray[np.float32]], *, asked: float) -> Calibrated:
    """The constants from raw comparisons of held-out good parts; ``asked``: the false-alarm rate that may be.

    A good part shows a region as rarely as it is judged ng: the pixel threshold comes from the highest position of
    each part as the threshold comes from its score.
    """
    raw_scores = np.array([comparison.score for comparison in comparisons])
    positions = np.concatenate(
        [comparison.map[inside > 0] for comparison, inside in zip(comparisons, valid, strict=True)]
    )
    score, map_ = affine(raw_scores), affine(positions)
    scores = (raw_scores - score.mean) / score.spread
    peaks = np.array([map_.standardise(float(comparison.map.max())) for comparison in comparisons])
    return Calibrated(
        score=score,
        map=map_,
        pixel_threshold=compute_promise(peaks, asked=asked).threshold,
        promise=compute_promise(scores, asked=asked),
        scores=scores,
    )


def affine(raw: NDArray[np.float64] | NDArray[np.float32]) -> AffineRecord:
    """Mean to 0, spread to 1."""
    values = raw.astype(np.float64)
    return AffineRecord(mean=float(values.mean()), spread=max(SMALLEST_SPREAD, float(values.std())))
