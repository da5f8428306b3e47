"""Shadow inspection: a candidate inspects a share of the live images beside the serving version.

Answers are always those of the serving version. The candidate runs afterwards, and only while no live image waits;
different verdicts are counted.
"""

import asyncio
from dataclasses import dataclass, field

from app.inference.status import ProductStatus
from app.inference.version import Version
from app.inspection.inspector import Inspector
from app.inspection.pipeline import Inspection


@dataclass
class ShadowStats:
    """Counts for one pair of versions. ``skipped``: images that were due while live images waited."""

    serving: str
    candidate: str
    seen: int = 0
    judged: int = 0
    skipped: int = 0
    failed: int = 0
    ng_by_candidate_only: int = 0
    ng_by_serving_only: int = 0

    @property
    def disagreement_rate(self) -> float | None:
        """The share of images with different verdicts; None before the first."""
        return self.num_disagreed / self.judged if self.judged else None

    @property
    def num_disagreed(self) -> int:
        """The number of images with different verdicts."""
        return self.ng_by_candidate_only + self.ng_by_serving_only


@dataclass
class ShadowRunner:
    """Runs the candidates of all products. Used by the event loop alone."""

    inspector: Inspector
    stats: dict[str, ShadowStats] = field(default_factory=dict)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    def get_stats(self, status: ProductStatus) -> ShadowStats | None:
        """Return the counts of the current pair, reset where the pair has changed; None without a candidate."""
        if status.serving is None or status.shadow is None or status.shadow.candidate is None:
            return None
        pair = (status.serving.name, status.shadow.candidate.name)
        known = self.stats.get(status.product)
        if known is None or (known.serving, known.candidate) != pair:
            known = self.stats[status.product] = ShadowStats(*pair)
        return known

    def offer(self, data: bytes, inspection: Inspection, status: ProductStatus) -> None:
        """Let the candidate inspect an image, if the image is in its share."""
        stats = self.get_stats(status)
        if stats is None or status.shadow is None or status.shadow.candidate is None:
            return
        stats.seen += 1
        if not is_turn(stats.seen, status.shadow.share):
            return
        if not self.inspector.is_idle:
            stats.skipped += 1
            return
        task = asyncio.create_task(self._judge(data, inspection, status.shadow.candidate, stats))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _judge(self, data: bytes, inspection: Inspection, candidate: Version, stats: ShadowStats) -> None:
        try:
            second = await self.inspector.inspect(data, candidate)
        except Exception:  # noqa: BLE001  # any error is the candidate's failure and affects no request
            stats.failed += 1
            return
        stats.judged += 1
        if second.verdict != inspection.verdict:
            stats.ng_by_candidate_only += second.verdict == "ng"
            stats.ng_by_serving_only += inspection.verdict == "ng"


def is_turn(number: int, share: float) -> bool:
    """Whether the image of this number, counted from 1, is in the share; spread evenly, not at random."""
    return int(number * share) > int((number - 1) * share)
