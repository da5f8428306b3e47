"""Calibration: constants of the absolute scale, and the threshold, from held-out good parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.inference.calibration import compute_promise
from app.inference.detector import Comparison
from model.bundle import AffineRecord, PromiseRecord

# Prevents division by zero for identical parts or a test with very few.
MIN_SPREAD = 1e-6


@dataclass(frozen=True)
class Calibration:
    """Constants and threshold. ``scores``: of the calibration parts, on the absolute scale, float64 (parts)."""

    score: AffineRecord
    promise: PromiseRecord
    scores: NDArray[np.float64]


def calibrate(comparisons: Sequence[Comparison], *, asked: float) -> Calibration:
    """Return scale and threshold from raw comparisons of held-out good parts; ``asked``: the false-alarm rate.

    The score is a mean of map values, so map and score have one scale.
    """
    raw_scores = np.array([comparison.score for comparison in comparisons])
    score = to_affine(raw_scores)
    scores = (raw_scores - score.mean) / score.spread
    return Calibration(score=score, promise=compute_promise(scores, asked=asked), scores=scores)


def to_affine(raw: NDArray[np.float64]) -> AffineRecord:
    """Return the scale on which these values have mean 0 and spread 1."""
    return AffineRecord(mean=float(raw.mean()), spread=max(MIN_SPREAD, float(raw.std())))
