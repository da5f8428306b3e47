"""Split-conformal calibration: what scores of held-out good parts say about a new part's score.

If a new good part is exchangeable with the ``n`` calibration parts, its score exceeds the ``k``-th smallest of theirs
with a probability of at most ``1 - k / (n + 1)`` (Vovk et al., 2005; Papadopoulos et al., 2002).
"""

import math

import numpy as np
from numpy.typing import NDArray

from app.inference.arrays import ArrayFile, pack_arrays
from model.bundle import CALIBRATION, BundleError, PromiseRecord

FILE = ArrayFile(CALIBRATION, {"scores": np.float64})


def compute_promise(scores: NDArray[np.float64], *, asked: float) -> PromiseRecord:
    """Return the threshold whose false-alarm rate is at most ``asked``, or the lowest rate that the scores support.

    With ``n`` scores no rate under ``1 / (n + 1)`` can be promised; then the threshold is the largest score.
    """
    num_scores = len(scores)
    # 1e-9 compensates rounding: 0.99 * 200 is 198.00000000000003, which would require one more part.
    rank = math.ceil((num_scores + 1) * (1 - asked) - 1e-9)
    supported = asked if rank <= num_scores else 1 / (num_scores + 1)
    ordered = np.sort(scores)
    return PromiseRecord(
        asked=asked,
        supported=supported,
        num_calibration=num_scores,
        threshold=float(ordered[min(rank, num_scores) - 1]),
    )


def min_calibration_parts(rate: float) -> int:
    """Return the number of calibration parts that a false-alarm rate requires."""
    return math.ceil(1 / rate - 1e-9) - 1


def p_value(scores: NDArray[np.float64], score: float) -> float:
    """Return the p-value of a score among good parts, in ``1 / (n + 1)`` to 1."""
    return (1 + int((scores >= score).sum())) / (len(scores) + 1)


def pack_scores(scores: NDArray[np.float64]) -> bytes:
    """Return ``calibration.npz``: scores of held-out good parts on the absolute scale, float64 (parts)."""
    return pack_arrays(scores=scores)


def unpack_scores(data: bytes) -> NDArray[np.float64]:
    """Return the scores in ``calibration.npz``. Raises BundleError."""
    (scores,) = FILE.read(data)
    if scores.ndim != 1 or len(scores) == 0 or not np.isfinite(scores).all():
        raise BundleError("calibration.npz holds no row of finite scores")
    return scores
