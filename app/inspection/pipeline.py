"""The pipeline of an image: bytes -> decode -> Image -> Batch -> teacher -> student -> compare -> Inspection.

``inspect`` runs it in the calling thread, for command line and training. ``Inspector`` runs the same steps for the
service, each in its own thread, so that the event loop neither decodes nor infers.
"""

import asyncio
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.errors import QueueFull, deadline_error
from app.imaging.decode import Image, decode
from app.imaging.heatmap import Heatmap, HeatmapKind, render
from app.imaging.input_check import Guard, check_input
from app.imaging.regions import Region, find_regions, make_grid
from app.inference.calibration import p_value
from app.inference.detector import Batch, Comparison, make_batch, make_blank_batch
from app.inference.explain import Explanation, explain_region
from app.inference.version import Version
from app.inspection.admission import ConcurrencyLimiter
from app.inspection.batcher import Batcher, BatchLimits, InferenceJob
from model.bundle import PromiseRecord

Step = TypeVar("Step")


@dataclass(frozen=True)
class InspectOptions:
    """What an inspection returns besides the verdict."""

    heatmap: HeatmapKind = "none"
    explain: bool = False
    min_region_area_px: int = 0


@dataclass(frozen=True)
class ScaleVerdict:
    """One scale's own score, and its share of the joint score."""

    stride: int
    score: float
    share: float


@dataclass(frozen=True)
class Timings:
    """Milliseconds by step; ``queue`` is the wait for the batcher."""

    decode: float
    queue: float
    inference: float
    render: float


@dataclass(frozen=True)
class Inspection:
    """The result of one inspection.

    ``map``: float32 (h, w) on the absolute scale: good positions have mean 0, spread 1.

    ``explanations``: one a region, in order, if requested. ``warnings``: of the input check.
    """

    version: Version
    image: Image
    verdict: Literal["ok", "ng"]
    score: float
    threshold: float
    p_value: float
    promise: PromiseRecord
    scales: tuple[ScaleVerdict, ...]
    regions: tuple[Region, ...]
    map: NDArray[np.float32]
    heatmap: Heatmap | None
    explanations: tuple[Explanation, ...]
    warnings: tuple[str, ...]
    timings: Timings


@dataclass(frozen=True)
class PreprocessedImage:
    """A decoded image, the same as a batch of one, and the warnings of the input check."""

    image: Image
    batch: Batch
    warnings: tuple[str, ...]


class Stopwatch:
    """Measures the milliseconds of named steps."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._spent_ms: dict[str, float] = {}

    def start(self, step: str) -> None:
        """Start a step."""
        self._started[step] = time.perf_counter()

    def stop(self, step: str) -> None:
        """End a step."""
        self._spent_ms[step] = round((time.perf_counter() - self._started[step]) * 1000, 3)

    def start_next(self, step: str, following: str) -> None:
        """Stop a step and start the following one."""
        self.stop(step)
        self.start(following)

    def time_step(self, step: str, work: Callable[[], Step]) -> Step:
        """Run ``work`` as that step and return its result."""
        self.start(step)
        result = work()
        self.stop(step)
        return result

    def to_timings(self) -> Timings:
        """Return every step's time; 0 for a step that did not run."""
        spent = self._spent_ms
        return Timings(
            decode=spent.get("decode", 0.0),
            queue=spent.get("queue", 0.0),
            inference=spent.get("inference", 0.0),
            render=spent.get("render", 0.0),
        )


def inspect(
    data: bytes,
    version: Version,
    *,
    max_pixels: int,
    options: InspectOptions = InspectOptions(),  # frozen
    guard: Guard = "off",
) -> Inspection:
    """Inspect one image in the calling thread. Raises ImageError or ModelError."""
    stopwatch = Stopwatch()
    preprocessed = stopwatch.time_step("decode", lambda: preprocess(data, version, max_pixels=max_pixels, guard=guard))
    comparison = stopwatch.time_step("inference", lambda: infer(preprocessed.batch, version))
    return postprocess(preprocessed, comparison, version, options=options, stopwatch=stopwatch)


@dataclass(frozen=True)
class AdmissionLimits:
    """Limits on the images in flight, their batching, and the input guard."""

    max_in_flight: int
    batching: BatchLimits = field(default_factory=BatchLimits)
    guard: Guard = "off"


class Inspector:
    """Inspects many images concurrently: a pool decodes, one batcher infers, another pool renders."""

    def __init__(
        self, *, max_pixels: int, num_decoders: int, limits: AdmissionLimits = AdmissionLimits(max_in_flight=64)
    ) -> None:  # frozen
        self.max_pixels = max_pixels
        self.num_decoders = num_decoders
        self.limits = limits
        self.batcher = Batcher(limits.batching)
        self._limiter = ConcurrencyLimiter(limits.max_in_flight, self.queue_full_error)
        # Rendering has its own threads: in the decode pool it would wait behind images to decode and finish too late.
        self._executors = Executors(
            decoders=ThreadPoolExecutor(num_decoders, thread_name_prefix="decode"),
            renderers=ThreadPoolExecutor(num_decoders, thread_name_prefix="render"),
            batcher=self.batcher,
        )

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
        options: InspectOptions = InspectOptions(),  # frozen
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
        task = InspectionTask(data, version, options, deadline, guard=self.limits.guard, max_pixels=self.max_pixels)
        return await asyncio.wrap_future(task.start(self._executors))

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
        self._executors.decoders.shutdown()
        self._executors.renderers.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Executors:
    """The threads of an inspection: one pool decodes, the batcher infers, another pool renders."""

    decoders: Executor
    renderers: Executor
    batcher: Batcher


@dataclass
class InspectionTask:
    """One image on its way through the threads: decode pool -> batcher -> render pool -> event loop.

    Each step submits the next one itself. Waking the event loop in between would cost more than some steps do.
    """

    data: bytes
    version: Version
    options: InspectOptions
    deadline: float | None
    guard: Guard
    max_pixels: int
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    done: "Future[Inspection]" = field(default_factory=Future)

    def start(self, executors: Executors) -> "Future[Inspection]":
        """Start the task. The future can be cancelled until the batcher runs the image."""
        executors.decoders.submit(self._run_step, partial(self._preprocess, executors))
        return self.done

    def _preprocess(self, executors: Executors) -> None:
        if self.done.cancelled():
            return
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise deadline_error()
        decoding = partial(preprocess, self.data, self.version, max_pixels=self.max_pixels, guard=self.guard)
        preprocessed = self.stopwatch.time_step("decode", decoding)
        self.stopwatch.start("queue")
        on_start = partial(self.stopwatch.start_next, "queue", "inference")
        job = InferenceJob(preprocessed.batch, self.version, self.deadline, on_start=on_start)
        job.future.add_done_callback(partial(self._on_compared, executors.renderers, preprocessed))
        # A weak reference, since futures keep their callbacks: a cycle would keep images until garbage collection.
        waiting = weakref.ref(job.future)
        self.done.add_done_callback(lambda done: cancel_pending(waiting()) if done.cancelled() else None)
        executors.batcher.submit(job)

    def _on_compared(
        self, renderers: Executor, preprocessed: PreprocessedImage, comparison: "Future[Comparison]"
    ) -> None:
        if comparison.cancelled() or comparison.exception() is not None:
            self._run_step(comparison.result)  # the result is an error, so no rendering thread is needed
        else:
            renderers.submit(self._run_step, partial(self._postprocess, preprocessed, comparison))

    def _postprocess(self, preprocessed: PreprocessedImage, comparison: "Future[Comparison]") -> None:
        compared_ = comparison.result()
        self.stopwatch.stop("inference")
        self._set_result(
            postprocess(preprocessed, compared_, self.version, options=self.options, stopwatch=self.stopwatch)
        )

    def _set_result(self, inspection: Inspection) -> None:
        with suppress(InvalidStateError):  # the caller has given up waiting
            self.done.set_result(inspection)

    def _run_step(self, step: Callable[[], object]) -> None:
        """Run a step; an exception is set on the future."""
        try:
            step()
        except Exception as error:  # noqa: BLE001  # not swallowed: it is raised where the result is awaited
            with suppress(InvalidStateError):
                self.done.set_exception(error)


def cancel_pending(waiting: "Future[Comparison] | None") -> None:
    """Cancel an inference that has not started."""
    if waiting is not None:
        waiting.cancel()


def preprocess(data: bytes, version: Version, *, max_pixels: int, guard: Guard = "off") -> PreprocessedImage:
    """Decode, check and batch an image by the version's rules. Raises ImageError."""
    image = decode(data, version.manifest.input, max_pixels=max_pixels)
    warnings = check_input(image, version.manifest.expects, guard)
    return PreprocessedImage(image, make_batch([image], map_size=version.manifest.map_size, roi=version.roi), warnings)


def infer(batch: Batch, version: Version) -> Comparison:
    """Run teacher, student and comparison on a batch of one."""
    return version.detector.run(batch)[0]


def postprocess(
    preprocessed: PreprocessedImage,
    comparison: Comparison,
    version: Version,
    *,
    options: InspectOptions,
    stopwatch: Stopwatch,
) -> Inspection:
    """Convert raw values to the absolute scale, then derive verdict, regions and heat-map."""
    manifest, image = version.manifest, preprocessed.image
    score = manifest.score.standardise(comparison.score)
    map_ = standardise_map(comparison.map, preprocessed.batch.valid[0], version)
    verdict: Literal["ok", "ng"] = "ng" if score > version.threshold else "ok"
    regions = find_regions(
        map_,
        threshold=version.region_threshold,
        grid=make_grid(image, manifest.map_size),
        min_area_px=options.min_region_area_px,
    )
    if verdict == "ok" and version.is_region_bound_to_verdict:
        regions = ()
    heatmap = stopwatch.time_step("render", lambda: render(map_, image, kind=options.heatmap))
    shown = regions if options.explain else ()
    return Inspection(
        version=version,
        image=image,
        verdict=verdict,
        score=score,
        threshold=version.threshold,
        p_value=p_value(version.calibration, score),
        promise=version.promise,
        scales=to_scale_verdicts(comparison, version),
        regions=regions,
        map=map_,
        heatmap=heatmap,
        explanations=tuple(explain_region(region, comparison, manifest, version.patches) for region in shown),
        warnings=preprocessed.warnings,
        timings=stopwatch.to_timings(),
    )


def standardise_map(raw: NDArray[np.float32], valid: NDArray[np.float32], version: Version) -> NDArray[np.float32]:
    """Return the raw map on the absolute scale; 0 outside the part."""
    constants = version.manifest.map
    standard = (raw - constants.mean) / constants.spread * valid
    return standard.astype(np.float32)


def to_scale_verdicts(comparison: Comparison, version: Version) -> tuple[ScaleVerdict, ...]:
    """Return each scale's numbers, the first scale first; maps of one stride are joined by their weights."""
    manifest = version.manifest
    weights = np.array([scale.weight for scale in manifest.scales])
    verdicts = []
    for stride in manifest.strides:
        own = np.array([scale.stride == stride for scale in manifest.scales])
        weight = weights[own] if weights[own].any() else np.ones(int(own.sum()))
        score = np.average(comparison.scale_scores[own], weights=weight)
        verdicts.append(ScaleVerdict(stride, float(score), float(comparison.scale_shares[own].sum())))
    return tuple(verdicts)
