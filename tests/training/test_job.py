"""A training job: nothing happens before it is prepared, and nothing is trained before it is asked to."""

import pytest
from drawing import write_mvtec
from opened import count_opened
from rich.console import Console

from app.store.state import State
from app.store.store import Store
from training.errors import TrainingError
from training.job import TrainingJob
from training.progress import ProgressReporter
from training.release.publish import PublishRequest
from training.settings import read_train_settings

SMALL = ("height=64", "width=64", "num_recall_items=300", "false_alarm_rate=0.06")


def make_job(data, store, *settings):
    request = PublishRequest("disc", Store(store), State(store / "state"))
    reporter = ProgressReporter(Console(quiet=True))
    return TrainingJob(data, request, read_train_settings(None, (*SMALL, *settings)), reporter)


def test_a_job_of_a_folder_that_is_not_there_fails_when_it_is_prepared(tmp_path):
    job = make_job(tmp_path / "absent", tmp_path / "store")
    with pytest.raises(TrainingError, match="there is no folder"):
        job.prepare()


def test_preparing_reads_each_file_once_writes_nothing_and_repeats(tmp_path):
    data = write_mvtec(tmp_path / "disc", num_train=30)
    job = make_job(data, tmp_path / "store")
    with count_opened(data) as opened:
        prepared = job.prepare()
    assert opened == dict.fromkeys(data.rglob("*.png"), 1)
    assert not (tmp_path / "store").exists()
    again = job.prepare()
    assert (again.split, again.key, again.digest) == (prepared.split, prepared.key, prepared.digest)
    assert (len(prepared.dataset.good), len(prepared.dataset.test), prepared.expects is not None) == (30, 8, True)


def test_the_key_depends_on_what_is_inspected_and_the_digest_does_not(tmp_path):
    data = write_mvtec(tmp_path / "disc", num_train=30)
    whole = make_job(data, tmp_path / "store").prepare()
    (data / "ignore.png").write_bytes((data / "ground_truth/blot/000_mask.png").read_bytes())
    part = make_job(data, tmp_path / "store").prepare()
    assert part.digest == whole.digest
    assert part.key != whole.key
