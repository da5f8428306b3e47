"""The inference worker: one thread a device, which runs what is waiting, a micro-batch at a time.

Who submits gets a future. A job that is cancelled or whose deadline has passed before its turn is never run. A worker
that dies fails its waiters and is started again, a bounded number of times: nobody waits for ever.
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

from app.errors import DeadlinePassed, ModelError, RunFailed, WorkerDied
from app.inference.detector import BUCKETS, Batch, Comparison
from app.inference.version import Version

# So many batches in a row that the device could not run, and it is the device that is wrong, not an image.
MOST_FAILED_RUNS = 3
# Who was sent away comes back at this share of the rate, so that those who come first have the rest.
RETURNING_SHARE = 0.25
MOST_RETRY_AFTER_S = 300.0
# How long the end is waited for; the process ends without a run that hangs.
MOST_LAST_RUN_S = 30.0
# How fast the measured rate follows: a tenth of each new batch.
RATE_MEMORY = 0.1


@dataclass(frozen=True)
class Limits:
    """How the worker behaves. ``max_delay_s``: how long a batch waits for company; 0 takes what is there."""

    max_batch: int = 1
    max_delay_s: float = 0.0
    most_restarts: int = 3


@dataclass(frozen=True)
class Job:
    """One image that waits. ``deadline``: by the worker's clock, None where there is none."""

    batch: Batch
    version: Version
    deadline: float | None
    future: "Future[Comparison]" = field(default_factory=Future)
    on_start: Callable[[], None] = lambda: None


class Worker:
    """Runs jobs in order. Safe to submit to from any thread."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.fault: str | None = None
        self.on_batch: Callable[[int], None] = lambda _: None
        self._clock = clock
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._is_closing = False
        self._num_restarts = 0
        self._num_failed_runs = 0
        self._last_failure = ""
        self._images_per_s = 0.0
        self._last_turn = 0.0
        self._thread = threading.Thread(target=self._live, name="inference", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """How many jobs have not begun."""
        return len(self._waiting)

    @property
    def trouble(self) -> str | None:
        """Why the device can't be relied on now: the last runs all failed. A run that succeeds ends it."""
        return self._last_failure if self._num_failed_runs >= MOST_FAILED_RUNS else None

    def submit(self, job: Job) -> "Future[Comparison]":
        """Queue a job; raises WorkerDied where there is no worker any more."""
        with self._changed:
            if self.fault is not None or self._is_closing:
                raise WorkerDied(self.fault or "it is shutting down")
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def retry_after_s(self) -> int:
        """When to come again: after what waits now, and behind those who were sent away before.

        Each who is sent away gets a turn of its own, at a share of the rate at which images were judged lately. Sent
        all to the same moment, they would fill the house again, and go on doing so when the rush is long over.
        """
        rate, now = self._images_per_s, self._clock()
        if not rate:
            return 1
        turn = max(self._last_turn + 1 / (RETURNING_SHARE * rate), now + self.num_waiting / rate)
        self._last_turn = min(turn, now + MOST_RETRY_AFTER_S)
        return max(1, math.ceil(self._last_turn - now))

    def close(self) -> None:
        """Finish what waits, then end; a run that hangs is not waited for."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(MOST_LAST_RUN_S)

    def _live(self) -> None:
        while True:
            try:
                self._work()
            except Exception as error:  # noqa: BLE001  # whatever it was, its waiters must hear of it
                if self._died(error):
                    return
            else:
                return

    def _work(self) -> None:
        while (jobs := self._taken()) is not None:
            self._running = jobs
            self._run(jobs)
            self._running = []

    def _died(self, error: Exception) -> bool:
        """Tell the waiters, and say whether that was once too often."""
        why = f"{type(error).__name__}: {error}"
        fail(self._running, WorkerDied(why))
        self._running = []
        self._num_restarts += 1
        if self._num_restarts <= self.limits.most_restarts:
            return False
        with self._changed:
            self.fault = f"the inference worker died {self._num_restarts} times, the last time of {why}"
            fail(self._waiting, WorkerDied(self.fault))
            self._waiting.clear()
        return True

    def _taken(self) -> list[Job] | None:
        """The next jobs of one version, up to a batch of them; None once all is done and nothing more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            if not self._waiting:
                return None
            if self.limits.max_delay_s:
                enough = self.limits.max_batch
                self._changed.wait_for(lambda: len(self._waiting) >= enough, timeout=self._patience_s())
            jobs = [self._waiting.popleft()]
            while len(jobs) < self.limits.max_batch and self._waiting and self._waiting[0].version is jobs[0].version:
                jobs.append(self._waiting.popleft())
            return jobs

    def _patience_s(self) -> float:
        """How long the first in line can wait for company: half of the time that its deadline leaves, at most."""
        deadline = self._waiting[0].deadline
        if deadline is None:
            return self.limits.max_delay_s
        return min(self.limits.max_delay_s, max(0.0, (deadline - self._clock()) / 2))

    def _run(self, jobs: Sequence[Job]) -> None:
        wanted = [job for job in jobs if self._begins(job)]
        if not wanted:
            return
        began = self._clock()
        for job in wanted:
            job.on_start()
        failure = settle(wanted)
        self._num_failed_runs = self._num_failed_runs + 1 if failure else 0
        self._last_failure = str(failure)
        self.on_batch(len(wanted))
        self._note(len(wanted), self._clock() - began)
        self._num_restarts = 0  # it works again: only deaths in a row count

    def _begins(self, job: Job) -> bool:
        """Whether somebody still waits for a job that is in time."""
        if not job.future.set_running_or_notify_cancel():
            return False
        if job.deadline is not None and self._clock() > job.deadline:
            job.future.set_exception(DeadlinePassed())
            return False
        return True

    def _note(self, num_images: int, spent_s: float) -> None:
        rate = num_images / max(spent_s, 1e-6)
        known = self._images_per_s or rate
        self._images_per_s = known + RATE_MEMORY * (rate - known)


def settle(jobs: Sequence[Job]) -> RunFailed | None:
    """Run jobs of one version as one batch; where that fails, each alone, so that none fails for another's image.

    What comes back is how a graph could not be run at all, even with one image.
    """
    try:
        comparisons = jobs[0].version.detector.run(joined([job.batch for job in jobs]))
    except ModelError as error:
        if len(jobs) > 1:
            failures = [settle([job]) for job in jobs]
            return failures[-1]
        jobs[0].future.set_exception(error)
        return error if isinstance(error, RunFailed) else None
    for job, comparison in zip(jobs, comparisons, strict=False):  # what filled the bucket is nobody's
        job.future.set_result(comparison)
    return None


def fail(jobs: Sequence[Job] | deque[Job], error: Exception) -> None:
    """Tell everybody who still waits."""
    for job in jobs:
        with suppress(InvalidStateError):  # answered or cancelled already, perhaps just now
            job.future.set_exception(error)


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches of one as one batch, filled up to the next bucket with its last image."""
    size = next((bucket for bucket in BUCKETS if bucket >= len(batches)), len(batches))
    rows = [*batches, *([batches[-1]] * (size - len(batches)))]
    return Batch(pixels=np.concatenate([row.pixels for row in rows]), valid=np.concatenate([row.valid for row in rows]))
