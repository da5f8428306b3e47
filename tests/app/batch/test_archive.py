"""A folder of images judged into Parquet: whole files, the same however often it was killed."""

import shutil
import signal
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import goodpart
from conftest import FIXTURE
from drawing import defective_part, encode, good_part
from serving import GOODPART, until

from app.batch.shards import iter_images, iter_shards
from app.inspection.pipeline import inspect

NUM_IMAGES, SHARD = 60, 7


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Images in folders within folders, among them one that is none, and other files."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(NUM_IMAGES):
        image = encode((defective_part if number % 5 == 0 else good_part)(number))
        path = folder / f"lot{number % 3}" / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image)
    (folder / "lot1" / "torn.png").write_bytes(b"words")
    (folder / "notes.txt").write_text("no image")
    return folder


def command(source, target, *more):
    shard = ("--shard-size", str(SHARD))
    return ["score-archive", source, target, "--store", FIXTURE, "--product", "disc", *shard, *more]


def score(source, target, *more):
    return goodpart(*command(source, target, *more))


def tables(target):
    return {path.name: pq.read_table(path) for path in target.glob("part-*.parquet")}


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    target = tmp_path_factory.mktemp("undisturbed")
    done = score(source, target)
    assert done.returncode == 0, done.stderr
    return tables(target), done.stdout


def test_a_row_an_image_says_what_the_engine_says(source, undisturbed, tiny_version):
    parts, said = undisturbed
    rows = pa.concat_tables(parts[name] for name in sorted(parts)).to_pylist()
    assert [row["path"] for row in rows] == sorted(
        path.relative_to(source).as_posix() for path in source.rglob("*.png")
    )
    for row in rows[::9]:
        inspection = inspect((source / row["path"]).read_bytes(), tiny_version, max_pixels=10**6)
        assert (row["verdict"], row["score"], row["p_value"]) == (
            inspection.verdict,
            inspection.score,
            inspection.p_value,
        )
        assert [one["score"] for one in row["scales"]] == [one.score for one in inspection.scales]
        assert len(row["regions"]) == len(inspection.regions)
    (torn,) = [row for row in rows if row["error"]]
    assert (torn["path"], torn["verdict"], "not an image" in torn["error"]) == ("lot1/torn.png", None, True)
    assert "1 not judged" in said


@pytest.mark.processes
def test_what_is_killed_goes_on_and_ends_with_the_same_files(source, tmp_path, undisturbed):
    for kill in range(3):
        wanted = len(tables(tmp_path)) + 1 + kill % 2
        process = subprocess.Popen(
            [GOODPART, *command(source, tmp_path)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        until(lambda wanted=wanted: len(list(tmp_path.glob("part-*.parquet"))) >= wanted)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = score(source, tmp_path)
    assert done.returncode == 0, done.stderr
    assert tables(tmp_path) == undisturbed[0]


def test_changed_images_are_scored_again_and_results_of_deleted_ones_are_removed(source, tmp_path):
    images, target = tmp_path / "images", tmp_path / "target"
    shutil.copytree(source, images)
    score(images, target)
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    (images / "lot2" / "059.png").write_bytes(encode(good_part(999)))
    shutil.rmtree(images / "lot0")
    assert score(images, target).returncode == 0
    rows = pa.concat_tables(tables(target).values()).to_pylist()
    assert {row["path"] for row in rows} == {path.relative_to(images).as_posix() for path in images.rglob("*.png")}
    assert len(tables(target)) < len(before) - 1
    again = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    score(images, target)
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == again


def test_results_of_another_version_or_threshold_are_not_mixed(source, tmp_path):
    score(source, tmp_path)
    done = score(source, tmp_path, "--shard-size", "8")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "shard_size is 7, not 8" in done.stderr


def test_the_folder_is_one_table_for_whatever_reads_parquet(source, tmp_path, undisturbed):
    score(source, tmp_path)
    assert pq.read_table(tmp_path).num_rows == sum(table.num_rows for table in undisturbed[0].values())


def test_images_of_another_folder_are_not_taken_for_these(source, tmp_path):
    score(source, tmp_path / "target")
    shutil.copytree(source, tmp_path / "other")
    done = score(tmp_path / "other", tmp_path / "target")
    assert (done.returncode, "source is" in done.stderr) == (1, True)


def test_images_come_in_one_order_and_a_shard_knows_its_own(tmp_path):
    for name in ("b/1.png", "a/2.png", "a/10.png", "a.png", "c/d/e.JPG", "x.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert [path for path, _ in iter_images(tmp_path)] == ["a/10.png", "a/2.png", "a.png", "b/1.png", "c/d/e.JPG"]
    first = list(iter_shards(tmp_path, size=2))
    assert [len(one.paths) for one in first] == [2, 2, 1]
    (tmp_path / "a.png").write_bytes(b"more")
    changed = [one.digest != other.digest for one, other in zip(first, iter_shards(tmp_path, size=2), strict=True)]
    assert changed == [False, True, False]


def test_a_share_that_is_not_there_takes_no_results_away(source, tmp_path):
    images = Path(shutil.copytree(source, tmp_path / "images"))
    score(images, tmp_path / "target")
    for path in images.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = score(images, tmp_path / "target")
    assert (done.returncode, done.stderr.count("\n"), "contain no image" in done.stderr) == (1, 1, True)
    assert tables(tmp_path / "target")
