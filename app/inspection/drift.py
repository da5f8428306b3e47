"""Drift: whether recent scores still resemble those of the calibration parts.

A two-sample Kolmogorov-Smirnov test of one full window of scores after the other, so that each score is tested once.
Live parts are not all good: a share of defects shifts the distribution by at most that share, and is allowed for.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from app.inspection.pipeline import Inspection


@dataclass(frozen=True)
class DriftRule:
    """How a window is tested. ``false_alarm_rate``: of the alarm, for each window of parts that have not drifted."""

    window: int = 200
    false_alarm_rate: float = 0.001
    defect_share: float = 0.05


@dataclass(frozen=True)
class DriftResult:
    """One window's test: ``distance`` between the two distributions, and the ``limit`` above which it has drifted."""

    distance: float
    limit: float

    @property
    def has_drifted(self) -> bool:
        """Whether the distance is larger than chance and the assumed defects explain."""
        return self.distance > self.limit


@dataclass
class Window:
    """The scores of one version since its last full window."""

    version: str
    scores: list[float] = field(default_factory=list)
    last: DriftResult | None = None


class DriftMonitor:
    """Tests the scores of every product for drift. Used by the event loop alone."""

    def __init__(self, rule: DriftRule) -> None:
        self.rule = rule
        self._windows: dict[str, Window] = {}

    def add(self, inspection: Inspection) -> None:
        """Add a score of the serving version; a full window is tested and then reset."""
        version = inspection.version
        window = self._windows.get(version.product)
        if window is None or window.version != version.name:
            window = self._windows[version.product] = Window(version.name)
        window.scores.append(inspection.score)
        if len(window.scores) >= self.rule.window:
            window.last = compare_scores(np.array(window.scores), version.calibration, self.rule)
            window.scores = []

    def get_window(self, product: str) -> Window | None:
        """Return a product's window, or None before its first score."""
        return self._windows.get(product)


def compare_scores(recent: NDArray[np.float64], calibration: NDArray[np.float64], rule: DriftRule) -> DriftResult:
    """Test one window."""
    limit = rule.defect_share + chance_distance(len(recent), len(calibration), rule.false_alarm_rate)
    return DriftResult(distance=ks_distance(recent, calibration), limit=limit)


def ks_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the largest vertical distance between two empirical distribution functions, 0 to 1."""
    points = np.concatenate([first, second])
    shares = [np.searchsorted(np.sort(scores), points, side="right") / len(scores) for scores in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def chance_distance(num_first: int, num_second: int, rate: float) -> float:
    """What two samples of one distribution exceed with a probability of at most about ``rate`` (Smirnov, 1939)."""
    return math.sqrt(-math.log(rate / 2) / 2 * (num_first + num_second) / (num_first * num_second))
