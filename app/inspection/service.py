"""A live inspection from the choice of its version to its bookkeeping, for every door that images come in by."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import cached_property

import structlog

from app.errors import EngineError
from app.inference.registry import Catalogue
from app.inference.version import Version
from app.inspection.admission import Places
from app.inspection.drift import Drift
from app.inspection.pipeline import Inspection, Inspector, Wish
from app.inspection.shadow import Shadows
from app.store.errors import UnknownProduct

# Threads that load versions for requests; whatever they do, nothing else waits for them.
NUM_LOADERS = 2
# For so many images that may be in hand there may be one request with many of them.
IMAGES_A_BATCH = 16
# How long a trial run of a device in trouble may take.
TRIAL_S = 10.0


@dataclass(frozen=True)
class Judging:
    """Who takes part in an inspection. ``on_judged`` counts it."""

    catalogue: Catalogue
    inspector: Inspector
    shadows: Shadows
    drift: Drift
    on_judged: Callable[[Inspection], None]
    _loaders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(NUM_LOADERS, thread_name_prefix="load")
    )

    @cached_property
    def _many(self) -> Places:
        """Places for requests with many images."""
        return Places(max(1, self.inspector.room.limit // IMAGES_A_BATCH), self.inspector.refusal)

    @property
    def most_of_one_request(self) -> int:
        """How many images of one request may be in hand: a batch must not fill the house, others come too."""
        room = self.inspector.room
        return max(1, min(self.inspector.num_decoders + room.worker.max_batch, room.limit // 2))

    async def version(self, product: str, name: str | None = None) -> Version:
        """The version that serves, or one by name. Raises StoreError, BundleError, ModelError, BadName."""
        loop = asyncio.get_running_loop()
        if name is not None:
            known = self.catalogue.known(product, name)
            if known is not None:
                return known
            return await loop.run_in_executor(self._loaders, self.catalogue.named, product, name)
        if self.catalogue.standing(product).is_resting:
            return await loop.run_in_executor(self._loaders, self.catalogue.woken, product)
        return self.catalogue.serving(product)

    def place_for_many(self) -> AbstractContextManager[None]:
        """A place for the body of a request with many images, of which few may be in memory. Raises QueueFull."""
        return self._many.taken()

    async def inspect(self, data: bytes, version: Version, wish: Wish, *, deadline: float | None) -> Inspection:
        """One image, admitted, judged, counted, and shown to a candidate. Raises as ``Inspector.inspect``."""
        with self.inspector.admitted():
            return await self.judge(data, version, wish, deadline=deadline)

    async def judge(self, data: bytes, version: Version, wish: Wish, *, deadline: float | None) -> Inspection:
        """As ``inspect``, for an image that has been admitted already."""
        inspection = await self.inspector.judge(data, version, wish, deadline=deadline)
        self.on_judged(inspection)
        try:
            standing = self.catalogue.standing(version.product)
        except UnknownProduct:  # taken away while it judged
            return inspection
        if standing.serving is not None and standing.serving.name == version.name:
            self.drift.add(inspection)
            self.shadows.offer(data, inspection, standing)
        return inspection

    async def try_device(self) -> None:
        """Where the last runs failed, run something: health is red until a run succeeds, and clients stay away."""
        versions = [standing.serving for standing in self.catalogue.standings() if standing.serving is not None]
        if self.inspector.worker.trouble is None or not versions:
            return
        with suppress(EngineError, TimeoutError):
            async with asyncio.timeout(TRIAL_S):
                await self.inspector.try_run(versions[0])


def note(inspection: Inspection, *, part_id: str | None) -> None:
    """What the request's log line tells of the judgement."""
    structlog.contextvars.bind_contextvars(
        part_id=part_id,
        product=inspection.version.product,
        version=inspection.version.name,
        verdict=inspection.verdict,
        score=round(inspection.score, 4),
        threshold=round(inspection.threshold, 4),
    )
