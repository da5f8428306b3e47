"""A training that is stopped or killed goes on where it stood, and ends as one that was not."""

import json
import os
import random
import signal
import subprocess

import pytest
from drawing import write_mvtec
from safetensors import safe_open
from serving import GOODPART, until

from app.store.store import Store
from model.bundle import sha256_hex

SETTINGS = (
    "height=64",
    "width=64",
    "num_recall_items=300",
    "false_alarm_rate=0.06",
    "memory.num_steps=40",
    "learning.num_steps=60",
    "learning.batch_size=4",
    "learning.eval_interval=10",
    "checkpoint_interval_s=0",
)
STEPS = {"teaching": 40, "learning": 60}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_mvtec(tmp_path_factory.mktemp("data") / "disc", num_train=60, num_test=1)


def command(data, store, *flags):
    chosen = [word for setting in SETTINGS for word in ("--set", setting)]
    return [str(GOODPART), "train", "--data", data, "--product", "disc", "--store", store, *chosen, *flags]


def start(data, store, *flags):
    return subprocess.Popen(command(data, store, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(data, store, *flags):
    done = subprocess.run(command(data, store, *flags), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def read_weights(store):
    """Digests of what was learned."""
    (name,) = Store(store).list_versions("disc")
    folder = Store(store).training_folder("disc", name)
    return {path.name: sha256_hex(path.read_bytes()) for path in folder.glob("*.safetensors")}


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    store = tmp_path_factory.mktemp("undisturbed")
    finish(data, store)
    return read_weights(store)


def read_step(store, course):
    """The step at which the checkpoint stands, 0 before the course's first."""
    for path in store.glob("work/disc/*/checkpoint.safetensors"):
        with safe_open(path, framework="np") as file:
            state = json.loads(file.metadata()["plain"])
        return state["state"]["num_done"] if state["phase"] == course else 0
    return 0


@pytest.mark.parametrize("course", STEPS)
def test_resume_after_a_kill_at_a_random_step_gives_the_same_weights(course, data, undisturbed, tmp_path):
    at = random.randrange(1, STEPS[course] - 10)  # noqa: S311  # no secret
    process = start(data, tmp_path)
    until(lambda: read_step(tmp_path, course) >= at)
    process.kill()
    process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["work"], "it was not over yet"
    done = finish(data, tmp_path, "--resume")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["products", "state", "teachers"], "nothing is left"
    assert f"{course} continues at step " in done.stderr
    assert read_weights(tmp_path) == undisturbed, f"killed at step {at} of {course}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_resume_after_a_signal_which_ends_it_in_one_line(number, data, undisturbed, tmp_path):
    process = start(data, tmp_path, "--resume")  # of nothing: it begins at the beginning
    until(lambda: read_step(tmp_path, "learning") >= 3)
    process.send_signal(number)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert output.splitlines()[-2:] == [
        "a checkpoint is kept: the same command with --resume goes on from it",
        f"goodpart: error: stopped by {number.name}",
    ]
    finish(data, tmp_path, "--resume")
    assert read_weights(tmp_path) == undisturbed


def test_resume_of_a_damaged_checkpoint_is_one_line(data, tmp_path):
    process = start(data, tmp_path)
    until(lambda: read_step(tmp_path, "teaching") >= 1)
    process.kill()
    process.communicate()
    (path,) = tmp_path.glob("work/disc/*/checkpoint.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    done = subprocess.run(command(data, tmp_path, "--resume"), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "train without --resume" in done.stderr.splitlines()[-1]


def test_a_second_training_of_the_same_data_and_settings_is_refused(data, tmp_path):
    first = start(data, tmp_path)
    until(lambda: read_step(tmp_path, "teaching") >= 1)
    os.kill(first.pid, signal.SIGSTOP)
    second = subprocess.run(command(data, tmp_path), capture_output=True, text=True, check=False)
    first.kill()
    first.communicate()
    assert second.returncode == 1
    assert "is already running" in second.stderr.splitlines()[-1]


def test_learning_ends_early_where_the_held_out_loss_has_settled(data, tmp_path):
    early = ("--set", "learning.min_delta=0.9", "--set", "learning.patience=2")
    finish(data, tmp_path, *early)
    (name,) = Store(tmp_path).list_versions("disc")
    metrics = json.loads(Store(tmp_path).load_bundle("disc", name).files["metrics.json"])
    assert metrics["curves"]["learning: loss"][-1][0] == 30, "looked at 10, 20 and 30: two without a gain"
