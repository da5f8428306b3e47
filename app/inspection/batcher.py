"""The batcher: one thread a device, which runs the waiting jobs, one micro-batch at a time.

``submit`` returns a future. A job that is cancelled or past its deadline is not run. A crash fails the running jobs and
restarts the thread, a bounded number of times.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from app.errors import ModelError, RunFailed, deadline_error
from app.inference.detector import BUCKETS, Batch, Comparison
from app.inference.version import Version

# After this number of consecutive failed batches the device counts as failed, not the images.
MAX_FAILED_RUNS = 3
# Share of the measured rate that is planned for retries; the rest is for new requests.
RETRY_SHARE = 0.25
MAX_RETRY_AFTER_S = 300.0
# Timeout of the shutdown; a hanging run does not delay the exit.
CLOSE_TIMEOUT_S = 30.0
# Weight of a new batch in the moving average of the rate.
RATE_SMOOTHING = 0.1


@dataclass(frozen=True)
class BatchLimits:
    """Limits of the batcher. ``max_delay_s``: maximum time to wait for a batch to fill; 0 does not wait."""

    max_batch: int = 1
    max_delay_s: float = 0.0
    max_restarts: int = 3


@dataclass
class InferenceJob:
    """One waiting image. ``deadline``: by the batcher's clock, or None. ``started``: by ``time.perf_counter``."""

    batch: Batch
    version: Version
    deadline: float | None
    future: "Future[Comparison]" = field(default_factory=Future)
    started: float = 0.0


class Batcher:
    """Runs jobs in order. Any thread may submit. ``on_batch``: called by the thread with the size of each batch."""

    def __init__(
        self,
        limits: BatchLimits,
        *,
        on_batch: Callable[[int], None] = lambda _num_images: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.error: str | None = None
        self._on_batch = on_batch
        self._clock = clock
        self._waiting: deque[InferenceJob] = deque()
        self._running: list[InferenceJob] = []
        self._changed = threading.Condition()
        self._is_closing = False
        self._num_restarts = 0
        self._num_failed_runs = 0
        self._last_failure = ""
        self._images_per_s = 0.0
        self._last_turn = 0.0
        self._thread = threading.Thread(target=self._run_thread, name="inference", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """The number of jobs that have not started."""
        return len(self._waiting)

    @property
    def device_error(self) -> str | None:
        """Why the device is unreliable: the last runs all failed. None after a run that succeeds."""
        return self._last_failure if self._num_failed_runs >= MAX_FAILED_RUNS else None

    def submit(self, job: InferenceJob) -> "Future[Comparison]":
        """Queue a job. Raises ModelError where the thread has ended."""
        with self._changed:
            if self.error is not None or self._is_closing:
                raise worker_error(self.error or "it is shutting down")
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def reserve_retry_after_s(self) -> int:
        """Return when a refused client should retry: after the waiting jobs, and after the clients refused before it.

        Each refused client gets a turn of its own, at a share of the measured rate. If all of them retried at the same
        moment, they would fill the queue again, long after the peak is over.
        """
        rate, now = self._images_per_s, self._clock()
        if not rate:
            return 1
        turn = max(self._last_turn + 1 / (RETRY_SHARE * rate), now + self.num_waiting / rate)
        self._last_turn = min(turn, now + MAX_RETRY_AFTER_S)
        return max(1, math.ceil(self._last_turn - now))

    def close(self) -> None:
        """Run the waiting jobs and stop; wait at most ``CLOSE_TIMEOUT_S``."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run_thread(self) -> None:
        while True:
            try:
                self._run_until_closed()
            except Exception as error:  # noqa: BLE001  # every error is passed to the waiting requests
                if self._handle_crash(error):
                    return
            else:
                return

    def _run_until_closed(self) -> None:
        while (jobs := self._next_jobs()) is not None:
            self._running = jobs
            self._run_jobs(jobs)
            self._running = []

    def _handle_crash(self, error: Exception) -> bool:
        """Fail the running jobs, and return whether the restarts are used up."""
        why = f"{type(error).__name__}: {error}"
        fail_jobs(self._running, worker_error(why))
        self._running = []
        self._num_restarts += 1
        if self._num_restarts <= self.limits.max_restarts:
            return False
        with self._changed:
            self.error = f"the inference worker died {self._num_restarts} times, the last time of {why}"
            fail_jobs(self._waiting, worker_error(self.error))
            self._waiting.clear()
        return True

    def _next_jobs(self) -> list[InferenceJob] | None:
        """Return the next jobs of one version, up to a batch; None once the batcher is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            if not self._waiting:
                return None
            if self.limits.max_delay_s:
                enough = self.limits.max_batch
                self._changed.wait_for(lambda: len(self._waiting) >= enough, timeout=self._max_delay_s())
            jobs = [self._waiting.popleft()]
            while len(jobs) < self.limits.max_batch and self._waiting and self._waiting[0].version is jobs[0].version:
                jobs.append(self._waiting.popleft())
            return jobs

    def _max_delay_s(self) -> float:
        """Return how long the first job may wait for a batch to fill: at most half of the time to its deadline."""
        deadline = self._waiting[0].deadline
        if deadline is None:
            return self.limits.max_delay_s
        return min(self.limits.max_delay_s, max(0.0, (deadline - self._clock()) / 2))

    def _run_jobs(self, jobs: Sequence[InferenceJob]) -> None:
        wanted = [job for job in jobs if self._should_run(job)]
        if not wanted:
            return
        began = self._clock()
        for job in wanted:
            job.started = time.perf_counter()
        failure = run_batch(wanted)
        self._num_failed_runs = self._num_failed_runs + 1 if failure else 0
        self._last_failure = str(failure)
        self._on_batch(len(wanted))
        self._update_rate(len(wanted), self._clock() - began)
        self._num_restarts = 0  # it works again: only deaths in a row count

    def _should_run(self, job: InferenceJob) -> bool:
        """Whether a job is neither cancelled nor past its deadline."""
        if not job.future.set_running_or_notify_cancel():
            return False
        if job.deadline is not None and self._clock() > job.deadline:
            job.future.set_exception(deadline_error())
            return False
        return True

    def _update_rate(self, num_images: int, spent_s: float) -> None:
        rate = num_images / max(spent_s, 1e-6)
        known = self._images_per_s or rate
        self._images_per_s = known + RATE_SMOOTHING * (rate - known)


def worker_error(why: str) -> ModelError:
    """Return the error of an inference thread that crashed or has ended."""
    return ModelError(f"the inference worker stopped: {why}", kind="worker-died")


def run_batch(jobs: Sequence[InferenceJob]) -> RunFailed | None:
    """Run jobs of one version as one batch; where that fails, run each alone, so that one image fails no other.

    Returns the error where a graph could not be run even with one image.
    """
    try:
        comparisons = jobs[0].version.detector.run(join_batches([job.batch for job in jobs]))
    except ModelError as error:
        if len(jobs) > 1:
            failures = [run_batch([job]) for job in jobs]
            return failures[-1]
        jobs[0].future.set_exception(error)
        return error if isinstance(error, RunFailed) else None
    for job, comparison in zip(jobs, comparisons, strict=False):  # the padding of the bucket has no job
        job.future.set_result(comparison)
    return None


def fail_jobs(jobs: Sequence[InferenceJob] | deque[InferenceJob], error: Exception) -> None:
    """Set an exception on all jobs that are not done."""
    for job in jobs:
        with suppress(InvalidStateError):  # answered or cancelled already, perhaps just now
            job.future.set_exception(error)


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Join batches of one image, filled up to the next bucket with the last image."""
    size = next((bucket for bucket in BUCKETS if bucket >= len(batches)), len(batches))
    rows = [*batches, *([batches[-1]] * (size - len(batches)))]
    return Batch(pixels=np.concatenate([row.pixels for row in rows]), valid=np.concatenate([row.valid for row in rows]))
