"""The inspection service: chooses the version, inspects, and updates metrics, drift and shadow."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import cached_property

import structlog

from app.errors import EngineError
from app.inference.registry import ModelRegistry
from app.inference.version import Version
from app.inspection.admission import ConcurrencyLimiter
from app.inspection.drift import DriftMonitor
from app.inspection.inspector import Inspector
from app.inspection.pipeline import Inspection, InspectOptions
from app.inspection.shadow import ShadowRunner
from app.store.errors import UnknownProduct

# Number of threads that load versions for requests. Nothing else uses them.
NUM_LOADERS = 2
# One batch request at a time is allowed per this number of images in flight.
IMAGES_PER_BATCH_SLOT = 16
# Timeout of a test run on a failing device.
PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class InspectionService:
    """Inspects images of clients. ``on_inspected`` is called with each inspection."""

    registry: ModelRegistry
    inspector: Inspector
    shadows: ShadowRunner
    drift: DriftMonitor
    on_inspected: Callable[[Inspection], None]
    _loaders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(NUM_LOADERS, thread_name_prefix="load")
    )

    @cached_property
    def _batch_limiter(self) -> ConcurrencyLimiter:
        """The limiter of requests with many images."""
        return ConcurrencyLimiter(
            max(1, self.inspector.limits.max_in_flight // IMAGES_PER_BATCH_SLOT), self.inspector.queue_full_error
        )

    @property
    def max_concurrent_per_request(self) -> int:
        """The number of images of one request that may be in flight; a batch must leave slots for other clients."""
        limits = self.inspector.limits
        return max(1, min(self.inspector.num_decoders + limits.batching.max_batch, limits.max_in_flight // 2))

    async def get_version(self, product: str, name: str | None = None) -> Version:
        """Return the serving version, or one by name. Raises StoreError, BundleError, ModelError, BadName."""
        loop = asyncio.get_running_loop()
        if name is not None:
            known = self.registry.get_loaded(product, name)
            if known is not None:
                return known
            return await loop.run_in_executor(self._loaders, self.registry.get_or_load, product, name)
        if self.registry.get_status(product).is_evicted:
            return await loop.run_in_executor(self._loaders, self.registry.reload, product)
        return self.registry.get_serving(product)

    def batch_slot(self) -> AbstractContextManager[None]:
        """Use a slot for the body of a request with many images. Raises QueueFull."""
        return self._batch_limiter.slot()

    async def inspect(
        self, data: bytes, version: Version, options: InspectOptions, *, deadline: float | None
    ) -> Inspection:
        """Admit and inspect one image, count it, and offer it to the candidate. Raises as ``Inspector.inspect``."""
        with self.inspector.admit():
            return await self.inspect_admitted(data, version, options, deadline=deadline)

    async def inspect_admitted(
        self, data: bytes, version: Version, options: InspectOptions, *, deadline: float | None
    ) -> Inspection:
        """As ``inspect``, for an image that has been admitted already."""
        inspection = await self.inspector.inspect_admitted(data, version, options, deadline=deadline)
        self.on_inspected(inspection)
        try:
            status = self.registry.get_status(version.product)
        except UnknownProduct:  # taken away while it judged
            return inspection
        if status.serving is not None and status.serving.name == version.name:
            self.drift.add(inspection)
            self.shadows.offer(data, inspection, status)
        return inspection

    async def probe_device(self) -> None:
        """Run a blank image where the last runs failed, since clients stay away while the service is not ready."""
        versions = [status.serving for status in self.registry.list_statuses() if status.serving is not None]
        if self.inspector.batcher.device_error is None or not versions:
            return
        with suppress(EngineError, TimeoutError):
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self.inspector.probe_device(versions[0])


def bind_log_context(inspection: Inspection, *, part_id: str | None) -> None:
    """Add an inspection to the request's log line."""
    structlog.contextvars.bind_contextvars(
        part_id=part_id,
        product=inspection.version.product,
        version=inspection.version.name,
        verdict=inspection.verdict,
        score=round(inspection.score, 4),
        threshold=round(inspection.threshold, 4),
    )
