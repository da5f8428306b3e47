"""The way of an image: bytes -> decode -> Image -> Batch -> teacher -> T -> student -> S -> compare -> Inspection.

``judge`` walks it in the calling thread, for command line and training. ``Inspector`` walks the same steps for the
service, each in the thread where it belongs, so that the event loop neither decodes nor infers.
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

from app.errors import DeadlinePassed, QueueFull
from app.imaging.decode import Image, decode
from app.imaging.heatmap import Heatmap, Kind, render
from app.imaging.input_check import Guard, checked
from app.imaging.regions import Region, grid_of, regions_of
from app.inference.calibration import p_value
from app.inference.detector import Batch, Comparison, batch_of, blank_batch
from app.inference.explain import Explanation, explained
from app.inference.version import Version
from app.inspection.admission import Places
from app.inspection.batcher import Job, Limits, Worker
from model.bundle import PromiseRecord

Step = TypeVar("Step")


@dataclass(frozen=True)
class Wish:
    """What the asker wants besides the verdict."""

    heatmap: Kind = "none"
    explain: bool = False
    min_region_area_px: int = 0


@dataclass(frozen=True)
class ScaleVerdict:
    """One scale's own score, and the share that it put into the joint score."""

    stride: int
    score: float
    share: float


@dataclass(frozen=True)
class Timings:
    """Milliseconds a step took; ``queue`` is the wait for the inference worker."""

    decode: float
    queue: float
    inference: float
    render: float


@dataclass(frozen=True)
class Inspection:
    """One judgement. ``map``: float32 (h, w) on the absolute scale, where good positions have mean 0 and spread 1.

    ``explanations``: one a region, in order, where they were wished for. ``warnings``: what the input guard found.
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
class Taken:
    """An image on its way, as it was decoded and as a batch of one, and what the input guard found."""

    image: Image
    batch: Batch
    warnings: tuple[str, ...]


class Stopwatch:
    """Adds up milliseconds by the name of a step."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._spent_ms: dict[str, float] = {}

    def start(self, step: str) -> None:
        """Begin a step."""
        self._started[step] = time.perf_counter()

    def stop(self, step: str) -> None:
        """End a step."""
        self._spent_ms[step] = round((time.perf_counter() - self._started[step]) * 1000, 3)

    def next(self, step: str, following: str) -> None:
        """End a step and begin the one that follows it."""
        self.stop(step)
        self.start(following)

    def timed(self, step: str, work: Callable[[], Step]) -> Step:
        """Do the work as that step and pass its result on."""
        self.start(step)
        result = work()
        self.stop(step)
        return result

    def timings(self) -> Timings:
        """Every step's time; 0 for a step that was not taken."""
        spent = self._spent_ms
        return Timings(
            decode=spent.get("decode", 0.0),
            queue=spent.get("queue", 0.0),
            inference=spent.get("inference", 0.0),
            render=spent.get("render", 0.0),
        )


def judge(
    data: bytes,
    version: Version,
    *,
    max_pixels: int,
    wish: Wish = Wish(),  # frozen
    guard: Guard = "off",
) -> Inspection:
    """Inspect one image here and now. Raises ImageError or ModelError."""
    watch = Stopwatch()
    taken = watch.timed("decode", lambda: acquired(data, version, max_pixels=max_pixels, guard=guard))
    comparison = watch.timed("inference", lambda: compared(taken.batch, version))
    return concluded(taken, comparison, version, wish=wish, watch=watch)


@dataclass(frozen=True)
class Room:
    """How many images may be in hand at once, from their admission to their answer, and which are let in."""

    limit: int
    worker: Limits = field(default_factory=Limits)
    guard: Guard = "off"


class Inspector:
    """Inspects for many askers at once: a pool decodes and renders, one worker infers."""

    def __init__(self, *, max_pixels: int, num_decoders: int, room: Room = Room(limit=64)) -> None:  # frozen
        self.max_pixels = max_pixels
        self.num_decoders = num_decoders
        self.room = room
        self.worker = Worker(room.worker)
        self._places = Places(room.limit, self.refusal)
        # What is judged is told by threads of its own: behind a crowd that waits to be decoded it would come too late.
        self._hands = Hands(
            decoders=ThreadPoolExecutor(num_decoders, thread_name_prefix="decode"),
            tellers=ThreadPoolExecutor(num_decoders, thread_name_prefix="tell"),
            worker=self.worker,
        )

    @property
    def num_in_hand(self) -> int:
        """Images admitted and not answered."""
        return self._places.num_taken

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits, so that something may be done that nobody waits for."""
        return self.worker.num_waiting == 0 and self.num_in_hand < self.room.limit // 2

    async def inspect(
        self,
        data: bytes,
        version: Version,
        wish: Wish = Wish(),  # frozen
        *,
        deadline: float | None = None,
    ) -> Inspection:
        """Inspect one image without holding up the event loop. ``deadline``: by ``time.monotonic``.

        Raises QueueFull at once, DeadlinePassed, ImageError, ModelError. Where the awaiting task is cancelled, the
        image is not judged any more.
        """
        with self.admitted():
            return await self.judge(data, version, wish, deadline=deadline)

    async def judge(self, data: bytes, version: Version, wish: Wish, *, deadline: float | None) -> Inspection:
        """As ``inspect``, for who has been admitted already."""
        errand = Errand(data, version, wish, deadline, guard=self.room.guard, max_pixels=self.max_pixels)
        return await asyncio.wrap_future(errand.begin(self._hands))

    async def try_run(self, version: Version) -> None:
        """Send an empty picture through the worker, to see whether the device runs. Raises ModelError."""
        await asyncio.wrap_future(
            self.worker.submit(Job(blank_batch(version.manifest, size=1), version, deadline=None))
        )

    def admitted(self) -> AbstractContextManager[None]:
        """One image more in hand; raises QueueFull.

        Entered before a body is read: a refusal then costs little, and no more bodies are in memory than have room.
        """
        return self._places.taken()

    def refusal(self) -> QueueFull:
        """What who comes too many is told, with a turn to come again."""
        return QueueFull(limit=self.room.limit, retry_after_s=self.worker.retry_after_s())

    def close(self) -> None:
        """Finish what waits for the worker, then end the threads; what is not decoded by then fails."""
        self.worker.close()
        self._hands.decoders.shutdown()
        self._hands.tellers.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Hands:
    """The threads that an image goes through: decoded by one pool, judged by the worker, told by another pool."""

    decoders: Executor
    tellers: Executor
    worker: Worker


@dataclass
class Errand:
    """One image on its way from thread to thread: decoder -> inference worker -> teller, and only then back.

    Each step hands over to the next one itself. To wake the event loop in between would cost more than some steps do.
    """

    data: bytes
    version: Version
    wish: Wish
    deadline: float | None
    guard: Guard
    max_pixels: int
    watch: Stopwatch = field(default_factory=Stopwatch)
    done: "Future[Inspection]" = field(default_factory=Future)

    def begin(self, hands: Hands) -> "Future[Inspection]":
        """Send it off. What comes back can be cancelled until the worker takes the image."""
        hands.decoders.submit(self._step, partial(self._acquire, hands))
        return self.done

    def _acquire(self, hands: Hands) -> None:
        if self.done.cancelled():
            return
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise DeadlinePassed
        decoding = partial(acquired, self.data, self.version, max_pixels=self.max_pixels, guard=self.guard)
        taken = self.watch.timed("decode", decoding)
        self.watch.start("queue")
        on_start = partial(self.watch.next, "queue", "inference")
        job = Job(taken.batch, self.version, self.deadline, on_start=on_start)
        job.future.add_done_callback(partial(self._compared, hands.tellers, taken))
        # Weakly, since futures keep their callbacks: in a circle, images and maps would wait for the garbage collector.
        waiting = weakref.ref(job.future)
        self.done.add_done_callback(lambda done: call_off(waiting()) if done.cancelled() else None)
        hands.worker.submit(job)

    def _compared(self, tellers: Executor, taken: Taken, comparison: "Future[Comparison]") -> None:
        if comparison.cancelled() or comparison.exception() is not None:
            self._step(comparison.result)  # it raises at once, and needs no thread to be told
        else:
            tellers.submit(self._step, partial(self._conclude, taken, comparison))

    def _conclude(self, taken: Taken, comparison: "Future[Comparison]") -> None:
        compared_ = comparison.result()
        self.watch.stop("inference")
        self._settle(concluded(taken, compared_, self.version, wish=self.wish, watch=self.watch))

    def _settle(self, inspection: Inspection) -> None:
        with suppress(InvalidStateError):  # nobody waits for it any more
            self.done.set_result(inspection)

    def _step(self, step: Callable[[], object]) -> None:
        """Take a step; whatever goes wrong is told to who waits."""
        try:
            step()
        except Exception as error:  # noqa: BLE001  # not swallowed: it is raised where the result is awaited
            with suppress(InvalidStateError):
                self.done.set_exception(error)


def call_off(waiting: "Future[Comparison] | None") -> None:
    """Let an image not be judged any more, where its turn has not come."""
    if waiting is not None:
        waiting.cancel()


def acquired(data: bytes, version: Version, *, max_pixels: int, guard: Guard = "off") -> Taken:
    """Bytes -> Image -> Batch of one, by the version's rule, guard and region of interest. Raises ImageError."""
    image = decode(data, version.manifest.input, max_pixels=max_pixels)
    warnings = checked(image, version.manifest.expects, guard)
    return Taken(image, batch_of([image], map_size=version.manifest.map_size, interest=version.interest), warnings)


def compared(batch: Batch, version: Version) -> Comparison:
    """Batch -> teacher -> T -> student -> S -> compare -> Comparison."""
    return version.detector.run(batch)[0]


def concluded(taken: Taken, comparison: Comparison, version: Version, *, wish: Wish, watch: Stopwatch) -> Inspection:
    """Comparison -> Inspection: raw values to the absolute scale, then verdict, regions and heat-map."""
    manifest, image = version.manifest, taken.image
    score = manifest.score.standard(comparison.score)
    map_ = standard_map(comparison.map, taken.batch.valid[0], version)
    regions = regions_of(
        map_,
        threshold=manifest.pixel_threshold,
        grid=grid_of(image, manifest.map_size),
        min_area_px=wish.min_region_area_px,
    )
    heatmap = watch.timed("render", lambda: render(map_, image, kind=wish.heatmap))
    shown = regions if wish.explain else ()
    return Inspection(
        version=version,
        image=image,
        verdict="ng" if score > version.threshold else "ok",
        score=score,
        threshold=version.threshold,
        p_value=p_value(version.calibration, score),
        promise=version.promise,
        scales=scale_verdicts(comparison, version),
        regions=regions,
        map=map_,
        heatmap=heatmap,
        explanations=tuple(explained(region, comparison, manifest, version.patches) for region in shown),
        warnings=taken.warnings,
        timings=watch.timings(),
    )


def standard_map(raw: NDArray[np.float32], valid: NDArray[np.float32], version: Version) -> NDArray[np.float32]:
    """The raw map on the absolute scale; 0, as ordinary as can be, where a position is no part of the part."""
    constants = version.manifest.map
    standard = (raw - constants.mean) / constants.spread * valid
    return standard.astype(np.float32)


def scale_verdicts(comparison: Comparison, version: Version) -> tuple[ScaleVerdict, ...]:
    """Each scale's numbers, the first scale first."""
    return tuple(
        ScaleVerdict(stride=scale.stride, score=float(score), share=float(share))
        for scale, score, share in zip(
            version.manifest.scales,
            comparison.scale_scores,
            comparison.scale_shares,
            strict=True,
        )
    )
