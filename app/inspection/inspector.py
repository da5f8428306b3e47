"""The inspector: runs the pipeline for many images at once, so that the event loop neither decodes nor infers.

Each image has one thread from its bytes to its inspection. Decoding is limited to a few threads at a time, and the
batcher joins the images of all threads to batches.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from app.errors import QueueFull, deadline_error
from app.imaging.input_check import Guard
from app.inference.detector import make_blank_batch
from app.inference.version import Version
from app.inspection.admission import ConcurrencyLimiter
from app.inspection.batcher import Batcher, BatchLimits, InferenceJob
from app.inspection.pipeline import (
    VERDICT_ONLY,
    Inspection,
    InspectOptions,
    PreprocessedImage,
    Timings,
    postprocess,
    preprocess,
    to_ms,
)


@dataclass(frozen=True)
class AdmissionLimits:
    """Limits on the images in flight, their batching, and the input guard."""

    max_in_flight: int
    batching: BatchLimits = field(default_factory=BatchLimits)
    guard: Guard = "off"


class TaskState(StrEnum):
    """Where an image is on its way."""

    ADMITTED = "admitted"
    DECODING = "decoding"
    INFERRING = "inferring"
    RENDERING = "rendering"
    CANCELLED = "cancelled"


class InspectionTask:
    """One image on its way through the pipeline, and the state that it is in. ``deadline``: by ``time.monotonic``."""

    def __init__(self, data: bytes, version: Version, options: InspectOptions, deadline: float | None) -> None:
        self.data = data
        self.version = version
        self.options = options
        self.deadline = deadline
        self.state = TaskState.ADMITTED
        self._job: InferenceJob | None = None
        self._lock = threading.Lock()

    def run(self, inspector: "Inspector") -> Inspection:
        """Run every step in the calling thread. Raises as ``Inspector.inspect``, and CancelledError."""
        with take_turn(inspector.decoders, self.deadline):
            self._enter(TaskState.DECODING)
            started = time.perf_counter()
            preprocessed = preprocess(
                self.data, self.version, max_pixels=inspector.max_pixels, guard=inspector.limits.guard
            )
            decoded = time.perf_counter()
        job = self._submit(preprocessed, inspector.batcher)
        comparison = job.future.result()
        timings = Timings(
            decode=to_ms(decoded - started),
            queue=to_ms(job.started - decoded),
            inference=to_ms(time.perf_counter() - job.started),
        )
        self._enter(TaskState.RENDERING)
        return postprocess(preprocessed, comparison, self.version, options=self.options, timings=timings)

    def cancel(self) -> None:
        """End the task before its next step; an inference that has not started is not run."""
        with self._lock:
            self.state = TaskState.CANCELLED
            if self._job is not None:
                self._job.future.cancel()

    def _submit(self, preprocessed: PreprocessedImage, batcher: Batcher) -> InferenceJob:
        job = InferenceJob(preprocessed.batch, self.version, self.deadline)
        self._enter(TaskState.INFERRING, job)
        batcher.submit(job)
        return job

    def _enter(self, state: TaskState, job: InferenceJob | None = None) -> None:
        """Enter a state. Raises CancelledError once the task is cancelled."""
        with self._lock:
            if self.state is TaskState.CANCELLED:
                raise CancelledError
            self.state, self._job = state, job


@contextmanager
def take_turn(places: threading.Semaphore, deadline: float | None) -> Iterator[None]:
    """Take one of the places to decode, once there is one. Raises EngineError past the deadline."""
    left_s = None if deadline is None else deadline - time.monotonic()
    if (left_s is not None and left_s <= 0) or not places.acquire(timeout=left_s):
        raise deadline_error()
    try:
        yield
    finally:
        places.release()


class Inspector:
    """Inspects many images concurrently.

    ``num_decoders``: the number of images that are decoded at a time; ``on_batch``: as the batcher calls it.
    """

    def __init__(
        self,
        *,
        max_pixels: int,
        num_decoders: int,
        limits: AdmissionLimits = AdmissionLimits(max_in_flight=64),  # frozen
        on_batch: Callable[[int], None] = lambda _num_images: None,
    ) -> None:
        self.max_pixels = max_pixels
        self.num_decoders = num_decoders
        self.limits = limits
        self.batcher = Batcher(limits.batching, on_batch=on_batch)
        self.decoders = threading.BoundedSemaphore(num_decoders)
        self._limiter = ConcurrencyLimiter(limits.max_in_flight, self.queue_full_error)
        self._threads = ThreadPoolExecutor(limits.max_in_flight, thread_name_prefix="inspect")

    @property
    def num_in_flight(self) -> int:
        """The number of images that are admitted and not answered."""
        return self._limiter.num_used

    @property
    def is_idle(self) -> bool:
        """Whether the queue is empty and at most half of the slots are used, so that background work may run."""
        return self.batcher.num_waiting == 0 and self.num_in_flight < self.limits.max_in_flight // 2

    async def inspect(
        self,
        data: bytes,
        version: Version,
        options: InspectOptions = VERDICT_ONLY,
        *,
        deadline: float | None = None,
    ) -> Inspection:
        """Inspect one image without blocking the event loop. ``deadline``: by ``time.monotonic``.

        Raises QueueFull at once, ImageError, ModelError, and EngineError after the deadline. Cancelling the awaiting
        task cancels the inspection.
        """
        with self.admit():
            return await self.inspect_admitted(data, version, options, deadline=deadline)

    async def inspect_admitted(
        self, data: bytes, version: Version, options: InspectOptions, *, deadline: float | None
    ) -> Inspection:
        """As ``inspect``, for an image that has been admitted already."""
        task = InspectionTask(data, version, options, deadline)
        try:
            return await asyncio.wrap_future(self._threads.submit(task.run, self))
        except asyncio.CancelledError:
            task.cancel()
            raise

    async def probe_device(self, version: Version) -> None:
        """Run a blank image, to test whether the device works. Raises ModelError."""
        await asyncio.wrap_future(
            self.batcher.submit(InferenceJob(make_blank_batch(version.manifest, size=1), version, deadline=None))
        )

    def admit(self) -> AbstractContextManager[None]:
        """Use one slot for an image. Raises QueueFull.

        Entered before a body is read: refusing is then cheap, and the bodies in memory are bounded.
        """
        return self._limiter.slot()

    def queue_full_error(self) -> QueueFull:
        """Return the error for a refused client, with the time to retry."""
        return QueueFull(limit=self.limits.max_in_flight, retry_after_s=self.batcher.reserve_retry_after_s())

    def close(self) -> None:
        """Run the batcher's queue, then end the threads; images that are not decoded by then fail."""
        self.batcher.close()
        self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
