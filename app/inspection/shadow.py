"""Shadow judging: a candidate version sees a share of the live images beside the version that serves.

Answers are the serving version's, always. The candidate judges afterwards, and only while no live image waits; what it
would have said otherwise is counted.
"""

import asyncio
from dataclasses import dataclass, field

from app.inference.registry import Standing
from app.inference.version import Version
from app.inspection.pipeline import Inspection, Inspector


@dataclass
class Tally:
    """What came of it so far, for one pair of versions. ``skipped``: due, but live images waited."""

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
        """The share of images that the two judged otherwise; None before the first."""
        return self.num_disagreed / self.judged if self.judged else None

    @property
    def num_disagreed(self) -> int:
        """How many images the two judged otherwise."""
        return self.ng_by_candidate_only + self.ng_by_serving_only


@dataclass
class Shadows:
    """Candidates of all products. Only the event loop comes here."""

    inspector: Inspector
    tallies: dict[str, Tally] = field(default_factory=dict)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    def tally(self, standing: Standing) -> Tally | None:
        """The tally of the pair that stands now, begun anew where the pair has changed; None without a candidate."""
        if standing.serving is None or standing.shadow is None or standing.shadow.candidate is None:
            return None
        pair = (standing.serving.name, standing.shadow.candidate.name)
        known = self.tallies.get(standing.product)
        if known is None or (known.serving, known.candidate) != pair:
            known = self.tallies[standing.product] = Tally(*pair)
        return known

    def offer(self, data: bytes, inspection: Inspection, standing: Standing) -> None:
        """Let the candidate judge an image that the serving version has judged, if it is this image's turn."""
        tally = self.tally(standing)
        if tally is None or standing.shadow is None or standing.shadow.candidate is None:
            return
        tally.seen += 1
        if not is_turn(tally.seen, standing.shadow.share):
            return
        if not self.inspector.is_idle:
            tally.skipped += 1
            return
        task = asyncio.create_task(self._judge(data, inspection, standing.shadow.candidate, tally))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _judge(self, data: bytes, inspection: Inspection, candidate: Version, tally: Tally) -> None:
        try:
            second = await self.inspector.inspect(data, candidate)
        except Exception:  # noqa: BLE001  # whatever it was, it is the candidate's failure, and nobody waits for it
            tally.failed += 1
            return
        tally.judged += 1
        if second.verdict != inspection.verdict:
            tally.ng_by_candidate_only += second.verdict == "ng"
            tally.ng_by_serving_only += inspection.verdict == "ng"


def is_turn(number: int, share: float) -> bool:
    """Whether the image of this number, counted from 1, is among the share: evenly spread, without a die."""
    return int(number * share) > int((number - 1) * share)
