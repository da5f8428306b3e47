import threading
from types import SimpleNamespace

import numpy as np
import pytest

from app.errors import EngineError, ModelError, RunFailed
from app.inference.detector import Batch
from app.inspection.batcher import Batcher, BatchLimits, InferenceJob, join_batches


class FakeDetector:
    """Answers each image with its first pixel. ``gate`` holds it back; ``poison`` is a pixel that it can't bear."""

    def __init__(self, *, poison=None, error=ModelError):
        self.gate = threading.Event()
        self.gate.set()
        self.has_begun = threading.Event()
        self.sizes = []
        self.poison = poison
        self.error = error

    def run(self, batch):
        self.has_begun.set()
        assert self.gate.wait(10)
        self.sizes.append(len(batch.pixels))
        if self.poison in batch.pixels[:, 0, 0, 0]:
            raise self.error("compare.onnx")
        return [int(value) for value in batch.pixels[:, 0, 0, 0]]


@pytest.fixture
def make_worker():
    workers = []

    def make(**limits):
        workers.append(Batcher(BatchLimits(**limits)))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


def image(value):
    return Batch(np.full((1, 2, 2, 3), value, np.uint8), np.ones((1, 2, 2), np.float32))


def job(version, value, *, deadline=None):
    return InferenceJob(image(value), version, deadline)


def make_version(detector):
    return SimpleNamespace(detector=detector)


def hold(worker, detector, version):
    """The worker busy with a first job, so that what follows waits."""
    detector.gate.clear()
    detector.has_begun.clear()
    first = worker.submit(job(version, 0))
    assert detector.has_begun.wait(10)
    return first


def test_everyone_gets_their_own_answer(make_worker):
    version = make_version(FakeDetector())
    worker = make_worker(max_batch=4)
    futures = [worker.submit(job(version, value)) for value in range(20)]
    assert [future.result(10) for future in futures] == list(range(20))


def test_what_waits_is_run_as_one_batch_filled_to_a_bucket(make_worker):
    detector = FakeDetector()
    version, worker = make_version(detector), make_worker(max_batch=4)
    hold(worker, detector, version)
    futures = [worker.submit(job(version, value)) for value in (1, 2, 3)]
    detector.gate.set()
    assert [future.result(10) for future in futures] == [1, 2, 3]
    assert detector.sizes == [1, 4]


def test_versions_are_not_mixed_in_a_batch(make_worker):
    detector, other = FakeDetector(), FakeDetector()
    version, worker = make_version(detector), make_worker(max_batch=8)
    hold(worker, detector, version)
    futures = [worker.submit(job(one, 5)) for one in (version, make_version(other), version)]
    detector.gate.set()
    assert [future.result(10) for future in futures] == [5, 5, 5]
    assert (detector.sizes, other.sizes) == ([1, 1, 1], [1])


def test_a_job_that_was_cancelled_is_never_run(make_worker):
    detector = FakeDetector()
    version, worker = make_version(detector), make_worker()
    first = hold(worker, detector, version)
    waiting = worker.submit(job(version, 1))
    assert waiting.cancel()
    detector.gate.set()
    assert first.result(10) == 0
    assert worker.submit(job(version, 2)).result(10) == 2
    assert len(detector.sizes) == 2


def test_a_job_whose_deadline_has_passed_is_never_run():
    now = [0.0]
    detector = FakeDetector()
    version, worker = make_version(detector), Batcher(BatchLimits(), clock=lambda: now[0])
    hold(worker, detector, version)
    late, in_time = worker.submit(job(version, 1, deadline=5.0)), worker.submit(job(version, 2, deadline=50.0))
    now[0] = 10.0
    detector.gate.set()
    with pytest.raises(EngineError, match="the deadline passed"):
        late.result(10)
    assert in_time.result(10) == 2
    assert len(detector.sizes) == 2
    worker.close()


def test_an_image_that_fails_does_not_fail_its_neighbours(make_worker):
    detector = FakeDetector(poison=7)
    version, worker = make_version(detector), make_worker(max_batch=4)
    hold(worker, detector, version)
    good, bad, other = (worker.submit(job(version, value)) for value in (1, 7, 3))
    detector.gate.set()
    assert (good.result(10), other.result(10)) == (1, 3)
    with pytest.raises(ModelError, match=r"compare\.onnx"):
        bad.result(10)


def test_a_worker_that_dies_fails_its_jobs_and_is_restarted(make_worker):
    version = make_version(FakeDetector(poison=7, error=ZeroDivisionError))
    worker = make_worker(max_restarts=2)
    with pytest.raises(ModelError, match="ZeroDivisionError"):
        worker.submit(job(version, 7)).result(10)
    assert worker.submit(job(version, 1)).result(10) == 1
    assert worker.error is None


def test_only_deaths_in_a_row_count(make_worker):
    version = make_version(FakeDetector(poison=7, error=ZeroDivisionError))
    worker = make_worker(max_restarts=1)
    for _ in range(4):
        with pytest.raises(ModelError, match="the inference worker stopped"):
            worker.submit(job(version, 7)).result(10)
        assert worker.submit(job(version, 1)).result(10) == 1
    assert worker.error is None


def test_waiting_for_a_batch_to_fill_never_exceeds_a_deadline():
    limits = BatchLimits(max_batch=4, max_delay_s=30.0)
    version, worker = make_version(FakeDetector()), Batcher(limits, clock=lambda: 0.0)
    assert worker.submit(job(version, 3, deadline=0.2)).result(10) == 3
    worker.close()


def test_a_worker_that_dies_too_often_fails_all_and_says_why(make_worker):
    detector = FakeDetector(poison=7, error=ZeroDivisionError)
    version, worker = make_version(detector), make_worker(max_restarts=0)
    hold(worker, detector, version)
    dying, waiting = worker.submit(job(version, 7)), worker.submit(job(version, 1))
    detector.gate.set()
    for future in (dying, waiting):
        with pytest.raises(ModelError, match="the inference worker stopped"):
            future.result(10)
    assert "died 1 times" in worker.error
    with pytest.raises(ModelError, match="the inference worker stopped"):
        worker.submit(job(version, 1))


def test_room_is_promised_by_the_rate_of_the_last_batches():
    now = [0.0]
    detector = FakeDetector()
    version, worker = make_version(detector), Batcher(BatchLimits(), clock=lambda: now[0])
    assert worker.reserve_retry_after_s() == 1  # nothing is known yet
    first = hold(worker, detector, version)
    now[0] = 2.0  # one image took two seconds
    detector.gate.set()
    first.result(10)
    hold(worker, detector, version)
    for value in range(5):
        worker.submit(job(version, value))
    assert worker.reserve_retry_after_s() == 10
    assert worker.reserve_retry_after_s() == 18  # behind the first, at a quarter of the rate
    now[0] = 12.0
    assert worker.reserve_retry_after_s() == 16
    assert [worker.reserve_retry_after_s() for _ in range(50)][-1] == 300  # the upper bound
    detector.gate.set()
    worker.close()


def test_a_device_that_fails_repeatedly_is_unhealthy_until_a_run_succeeds():
    detector = FakeDetector(poison=9, error=lambda _: RunFailed("out of memory"))
    version, worker = make_version(detector), Batcher(BatchLimits())
    for number in range(3):
        assert worker.device_error is None, number
        with pytest.raises(RunFailed):
            worker.submit(job(version, 9)).result(10)
        worker.submit(InferenceJob(image(9), version, 0.0)).exception(10)  # one whose deadline passed is no run
    assert "out of memory" in worker.device_error
    assert worker.submit(job(version, 1)).result(10) == 1
    worker.close()
    assert worker.device_error is None


def test_closing_finishes_what_waits():
    detector = FakeDetector()
    version, worker = make_version(detector), Batcher(BatchLimits())
    hold(worker, detector, version)
    waiting = worker.submit(job(version, 4))
    detector.gate.set()
    worker.close()
    assert waiting.result(0) == 4
    with pytest.raises(ModelError, match="shutting down"):
        worker.submit(job(version, 1))


def test_a_batch_is_filled_with_its_last_image():
    batch = join_batches([image(1), image(2), image(3)])
    assert batch.pixels[:, 0, 0, 0].tolist() == [1, 2, 3, 3]
    assert batch.valid.shape == (4, 2, 2)
