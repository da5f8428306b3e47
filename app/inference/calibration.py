"""Split-conformal calibration: what held-out good parts say about a new part's score.

If a new good part is exchangeable with the ``n`` calibration parts, its score exceeds the ``k``-th smallest of theirs
with a probability of at most ``1 - k / (n + 1)`` (Vovk et al., 2005; Papadopoulos et al., 2002).
"""

import io
import math

import numpy as np
from numpy.typing import NDArray

from app.inference.arrays import ArrayFile
from model.bundle import CALIBRATION, BundleError, PromiseRecord


class BadCalibration(BundleError):
    """Calibration scores that can't be read or don't make sense."""


FILE = ArrayFile(CALIBRATION, {"scores": np.float64}, damage=BadCalibration)


def promise(scores: NDArray[np.float64], *, asked: float) -> PromiseRecord:
    """The threshold whose false-alarm rate is at most ``asked``, or the lowest rate that these scores support.

    With ``n`` scores no rate under ``1 / (n + 1)`` can be promised; then the threshold is the largest score.
    """
    num_scores = len(scores)
    # The small number keeps 0.99 * 200 from becoming 198.00000000000003 and asking for one part more.
    rank = math.ceil((num_scores + 1) * (1 - asked) - 1e-9)
    supported = asked if rank <= num_scores else 1 / (num_scores + 1)
    ordered = np.sort(scores)
    return PromiseRecord(
        asked=asked,
        supported=supported,
        num_calibration=num_scores,
        threshold=float(ordered[min(rank, num_scores) - 1]),
    )


def parts_needed(rate: float) -> int:
    """How many calibration parts it takes to promise this false-alarm rate."""
    return math.ceil(1 / rate - 1e-9) - 1


def p_value(scores: NDArray[np.float64], score: float) -> float:
    """How ordinary a score is among good parts, in ``1 / (n + 1)`` to 1."""
    return (1 + int((scores >= score).sum())) / (len(scores) + 1)


def packed(scores: NDArray[np.float64]) -> bytes:
    """``calibration.npz``: scores of held-out good parts on the absolute scale, float64 (parts)."""
    buffer = io.BytesIO()
    np.savez(buffer, scores=scores)
    return buffer.getvalue()


def unpacked(data: bytes) -> NDArray[np.float64]:
    """The scores in ``calibration.npz``; raises BadCalibration."""
    (scores,) = FILE.unpacked(data)
    if scores.ndim != 1 or len(scores) == 0 or not np.isfinite(scores).all():
        raise BadCalibration("calibration.npz holds no row of finite scores")
    return scores
