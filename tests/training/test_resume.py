"""A training that is stopped or killed continues where it was, and ends with the weights of one that was not."""

import json
import random
import signal
import subprocess

import pytest
import torch
from commands import goodpart
from drawing import write_mvtec
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save
from serving import GOODPART, until

from app.store.state import State
from app.store.store import Store
from model.bundle import sha256_hex
from training.errors import BadCheckpoint, Stopped
from training.fit.run_directory import get_run_path, open_run_directory
from training.fit.trainer import Trainer
from training.job import TrainingJob
from training.progress import ProgressReporter
from training.release.publish import PublishRequest
from training.settings import read_train_settings

SETTINGS = (
    "height=64",
    "width=64",
    "num_recall_items=300",
    "false_alarm_rate=0.06",
    "memory.num_steps=20",
    "learning.num_steps=30",
    "learning.batch_size=4",
    "learning.eval_interval=5",
    "checkpoint_interval_s=0",
)
STEPS = {"teaching": 20, "learning": 30}
STUDENT = "student.safetensors"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_mvtec(tmp_path_factory.mktemp("data") / "disc", num_train=60, num_test=1)


def make_job(data, store, *settings, reporter=None):
    request = PublishRequest("disc", Store(store), State(store / "state"))
    reporter = reporter or ProgressReporter(Console(quiet=True))
    return TrainingJob(data, request, read_train_settings(None, (*SETTINGS, *settings)), reporter)


def learn(data, store, *settings, resume=False, stop=None):
    """Train the networks without exporting them; ``stop``: a phase and the step after which it is interrupted."""
    reporter = ProgressReporter(Console(quiet=True))
    job = make_job(data, store, *settings, reporter=reporter)
    prepared = job.prepare()
    with open_run_directory(store / "run", resume=resume) as place:
        trainer = Trainer(job.settings, prepared.split, prepared.reader, reporter, place, torch.device("cpu"))
        if stop is not None:
            interrupt(trainer, *stop)
        return trainer.train()


def interrupt(trainer, phase, at):
    """Request the stop of a training at one step of a phase, as a signal would."""
    save_checkpoint = trainer._save

    def save_and_stop(name, running, *rest):
        save_checkpoint(name, running, *rest)
        if (name, running.num_done) == (phase, at):
            trainer.reporter.interruption.signal = signal.SIGTERM

    trainer._save = save_and_stop


def digest(student):
    return sha256_hex(save(student.state_dict()))


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    return digest(learn(data, tmp_path_factory.mktemp("undisturbed")).networks.student)


@pytest.mark.parametrize("phase", STEPS)
def test_a_stopped_training_resumes_at_its_step_and_ends_with_the_same_weights(phase, data, undisturbed, tmp_path):
    at = random.randrange(1, STEPS[phase])  # noqa: S311  # no secret
    with pytest.raises(Stopped):
        learn(data, tmp_path, stop=(phase, at))
    trained = learn(data, tmp_path, resume=True)
    assert digest(trained.networks.student) == undisturbed, f"stopped at step {at} of {phase}"
    assert [step for step, _ in trained.curves[f"{phase}: loss"]] == list(range(1, STEPS[phase] + 1))
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_refused(data, tmp_path):
    with pytest.raises(Stopped):
        learn(data, tmp_path, stop=("teaching", 2))
    path = tmp_path / "run" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadCheckpoint, match="train without --resume"):
        learn(data, tmp_path, resume=True)


def test_distillation_ends_early_where_the_held_out_loss_has_settled(data, tmp_path):
    trained = learn(data, tmp_path, "learning.min_delta=0.9", "learning.patience=2")
    assert trained.curves["learning: loss"][-1][0] == 15, "evaluated at 5, 10 and 15: two without a gain"


def command(data, store, *flags):
    chosen = [word for setting in SETTINGS for word in ("--set", setting)]
    return ["train", "--data", data, "--product", "disc", "--store", store, *chosen, *flags]


def test_a_second_training_of_the_same_data_and_settings_is_refused(data, tmp_path):
    key = make_job(data, tmp_path).prepare().key
    with open_run_directory(get_run_path(tmp_path, "disc", key), resume=False):
        done = goodpart(*command(data, tmp_path))
    assert done.returncode == 1
    assert "is already running" in done.stderr.splitlines()[-1]


def start(data, store, *flags):
    words = [GOODPART, *command(data, store, *flags)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_step(store, phase):
    """The step at which the checkpoint stands, 0 before the phase's first."""
    for path in store.glob("work/disc/*/checkpoint.safetensors"):
        with safe_open(path, framework="np") as file:
            state = json.loads(file.metadata()["plain"])
        return state["state"]["num_done"] if state["phase"] == phase else 0
    return 0


@pytest.mark.processes
def test_resume_after_kill_9_publishes_the_same_weights(data, undisturbed, tmp_path):
    phase = random.choice(list(STEPS))  # noqa: S311  # no secret
    process = start(data, tmp_path)
    until(lambda: read_step(tmp_path, phase) >= 2)
    process.kill()
    process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["work"], "it was not over yet"
    done = goodpart(*command(data, tmp_path, "--resume"))
    assert done.returncode == 0, done.stderr
    assert f"{phase} continues at step " in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["products", "state", "teachers"], "nothing is left"
    folder = Store(tmp_path).training_folder("disc", done.stdout.strip())
    assert sha256_hex((folder / STUDENT).read_bytes()) == undisturbed


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_training_in_one_line_and_keeps_its_checkpoint(number, data, tmp_path):
    process = start(data, tmp_path, "--resume")  # of nothing: it begins at the beginning
    until(lambda: read_step(tmp_path, "teaching") >= 3)
    process.send_signal(number)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert output.splitlines()[-2:] == [
        "a checkpoint is kept: the same command with --resume goes on from it",
        f"goodpart: error: stopped by {number.name}",
    ]
    assert read_step(tmp_path, "teaching") >= 3
