"""Every error that a user can cause ends in one line that says what is wrong, and leaves no files."""

import os
import resource
import subprocess

import pytest
from commands import goodpart
from drawing import encode, good_part
from serving import GOODPART

SMALL = ("height=64", "width=64", "num_recall_items=300", "false_alarm_rate=0.06")


def fill(folder, files=None, *, count=24):
    folder.mkdir()
    for index in range(count):
        (folder / f"{index:02}.png").write_bytes(encode(good_part(index)))
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
    return folder


def command(data, store, *flags, settings=()):
    chosen = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
    return ["train", "--quick", "--data", data, "--product", "disc", "--store", store, *chosen, *flags]


def train(data, store, *flags, settings=(), **environment):
    return goodpart(*command(data, store, *flags, settings=settings), **environment)


def train_limited(limit, *arguments, **options):
    """Train in a process whose resources are limited."""
    # Without coverage, whose data file the limits would damage.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment = {**inherited, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [GOODPART, *command(*arguments, **options)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
        env=environment,
    )


FILES = {
    "a text named .png": ({"text.png": b"hello"}, "text.png: these bytes are not an image"),
    "an image cut short": ({"cut.png": encode(good_part(50))[:900]}, "cut.png: the PNG image is truncated"),
    "an empty file": ({"empty.png": b""}, "empty.png: the image is empty (0 bytes)"),
    "colours for print": (
        {"cmyk.jpg": encode(good_part(51).convert("CMYK"), "JPEG")},
        "cmyk.jpg: mode CMYK can't be inspected",
    ),
    "16 bits among 8": ({"deep.png": encode(good_part(52).convert("I;16"))}, "deep.png: the image has 16 bits"),
    "another size": ({"odd.png": encode(good_part(53, size=(50, 40)))}, "1 images are not 96 x 80 pixels"),
    "a region that is none": ({"region.png": b"hello"}, "region.png: the region is not a PNG image"),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_data_is_one_line_and_leaves_nothing(name, tmp_path):
    files, message = FILES[name]
    done = train(fill(tmp_path / "data", files), tmp_path / "store")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("goodpart: error: ")
    assert message in last
    assert not (tmp_path / "store").exists()


SETTINGS = {
    "a misspelt setting": (
        ["num_recal_items=5"],
        "unknown setting 'num_recal_items'; did you mean num_recall_items?",
    ),
    "a value out of range": (["false_alarm_rate=2"], "false_alarm_rate: Input should be less than 1"),
    "a teacher that is none": (["teacher=vgg"], "no teacher is called 'vgg'"),
    "weights that are not there": (["teacher=resnet18", "teacher_weights=/absent.pth"], "/absent.pth"),
    "a region that ignores all": (["ignore=[{x: 0, y: 0, width: 1, height: 1}]"], "the region of interest is empty"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_bad_setting_is_one_line_and_leaves_nothing(name, tmp_path):
    settings, message = SETTINGS[name]
    done = train(fill(tmp_path / "data"), tmp_path / "store", settings=settings)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "store").exists()


def test_a_misspelt_variable_is_one_line(tmp_path):
    done = train(fill(tmp_path / "data"), tmp_path / "store", GOODPART_TRAIN_SED="3")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "goodpart: error: unknown setting 'sed'; did you mean seed?"


@pytest.mark.slow
def test_bad_images_are_left_out_each_with_its_reason_where_that_is_wanted(tmp_path):
    files = {
        name: content for content, _ in FILES.values() for name, content in content.items() if name != "region.png"
    }
    done = train(fill(tmp_path / "data", files), tmp_path / "store", "--skip-bad", settings=["false_alarm_rate=0.2"])
    assert done.returncode == 0, done.stderr
    left_out = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
    assert len(left_out) == 6
    assert all(any(name in line for line in left_out) for name in files)


@pytest.mark.slow
def test_a_disk_that_is_full_is_one_line_and_publishes_nothing(tmp_path):
    """A limit on the size of files stands for the full disk: writing fails in the same place."""
    store = tmp_path / "store"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = train_limited(limit, fill(tmp_path / "data"), store)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"goodpart: error: can't use the store folder {store}")
    assert "File too large" in last
    assert list(store.glob("products/*/versions/*")) == []
    assert list(store.rglob(".incoming-*")) == []


@pytest.mark.slow
def test_too_little_memory_is_one_line(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))

    large = ["num_recall_items=1000000", "height=1024", "width=1024"]
    done = train_limited(limit, fill(tmp_path / "data"), tmp_path / "store", settings=large)
    assert done.returncode == 1
    assert "goodpart: error: out of memory: " in done.stderr.splitlines()[-1]
    assert not (tmp_path / "store/products").exists()


def test_a_reason_must_be_given_to_force(tmp_path):
    done = train(fill(tmp_path / "data"), tmp_path / "store", "--force", " ")
    assert done.returncode == 2
    assert "say why" in done.stderr
