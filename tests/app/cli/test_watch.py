"""A folder that a line writes to, slowly, concurrently, and with breaks; and a watcher that is killed."""

import csv
import json
import os
import subprocess
import time

import pytest
from commands import goodpart
from serving import GOODPART, until
from writers import images, start

NUM_FILES = 120


def watch(store, folder, *more, wait=True, product="disc"):
    command = ["watch", folder, "--store", store, "--product", product, *more]
    return goodpart(*command) if wait else subprocess.Popen([GOODPART, *command], stderr=subprocess.DEVNULL)


def results(folder):
    return {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in folder.glob("*.json")}


def rows(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "line"
    folder.mkdir()
    return folder


def test_each_image_gets_its_result_beside_it(store_folder, folder, good_bytes, defective_bytes):
    (folder / "a.png").write_bytes(good_bytes)
    (folder / "b.png").write_bytes(defective_bytes)
    (folder / "notes.txt").write_text("none of ours")
    (folder / "c.png").write_bytes(b"no image at all")
    (folder / "a folder.png").mkdir()
    os.utime(folder / "c.png", (time.time() - 100, time.time() - 100))
    done = watch(store_folder, folder, "--once", "--give-up-s", "1")
    assert done.returncode == 0, done.stderr
    found = results(folder)
    assert {name: one.get("verdict") for name, one in found.items()} == {"a.png": "ok", "b.png": "ng", "c.png": None}
    assert "not an image" in found["c.png"]["error"]
    assert [(row["file"], row["verdict"]) for row in rows(folder)] == [("a.png", "ok"), ("b.png", "ng"), ("c.png", "")]
    assert watch(store_folder, folder, "--once").stderr.splitlines()[-1] == "0 done"


@pytest.mark.processes
def test_files_that_are_written_slowly_and_at_once_each_give_one_result_of_the_whole(store_folder, folder):
    files = images(NUM_FILES)
    watcher = watch(store_folder, folder, wait=False)
    try:
        writers = start(folder, files, pause_share=0.05)
        until(lambda: len(list(folder.glob("*.json"))) > NUM_FILES // 4)
        watcher.kill()
        watcher.wait()
        watcher = watch(store_folder, folder, wait=False)
        for writer in writers:
            writer.join()
        until(lambda: len(list(folder.glob("*.json"))) == NUM_FILES, within_s=90)
    finally:
        watcher.terminate()
        watcher.wait()
    found = results(folder)
    assert set(found) == set(files)
    assert all("error" not in one for one in found.values())
    from model.bundle import sha256_hex

    assert {name: one["sha256"] for name, one in found.items()} == {
        name: sha256_hex(data) for name, data in files.items()
    }
    assert sorted(row["file"] for row in rows(folder)) == sorted(files)


def test_a_rewritten_file_is_inspected_again(store_folder, folder, good_bytes, defective_bytes):
    (folder / "latest.png").write_bytes(good_bytes)
    watch(store_folder, folder, "--once")
    (folder / "latest.png").write_bytes(defective_bytes)
    os.utime(folder / "latest.png", (time.time() - 1000, time.time() - 1000))  # a copy may keep its time
    watch(store_folder, folder, "--once")
    assert results(folder)["latest.png"]["verdict"] == "ng"
    assert [row["verdict"] for row in rows(folder)] == ["ok", "ng"]


def test_a_name_that_is_a_formula_is_none_in_the_table(store_folder, folder, good_bytes):
    (folder / "=1+1.png").write_bytes(good_bytes)
    watch(store_folder, folder, "--once")
    watch(store_folder, folder, "--once")
    assert [row["file"] for row in rows(folder)] == ["'=1+1.png"]


def test_once_ends_where_nothing_judges(store_folder, folder, good_bytes):
    (folder / "a.png").write_bytes(good_bytes)
    done = watch(store_folder, folder, "--once", "--give-up-s", "1", product="cup")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "goodpart: error: 'a.png': no product is called 'cup'"


def test_a_table_of_something_else_is_left_alone(store_folder, folder, good_bytes):
    (folder / "a.png").write_bytes(good_bytes)
    (folder / "results.csv").write_text("theirs\n1\n")
    done = watch(store_folder, folder, "--once")
    assert (done.returncode, "a table of something else" in done.stderr) == (1, True)
    assert (folder / "results.csv").read_text() == "theirs\n1\n"


def test_a_file_that_stays_broken_is_given_up_and_says_so(store_folder, folder, good_bytes, monkeypatch):
    from app.cli import watch as module
    from app.main import create_registry
    from app.settings import Settings

    (folder / "cut.png").write_bytes(good_bytes[:900])
    settings = Settings(store=store_folder)
    patience = module.WatchTimeouts(settle_s=0.0, give_up_s=0.5)
    watcher = module.Watcher(
        folder, folder / "out", create_registry(settings), "disc", max_pixels=10**6, guard="off", patience=patience
    )
    monkeypatch.setattr(module, "POLL_INTERVAL_S", 0.02)
    assert watcher.run(once=True) == 1
    assert "truncated" in results(folder / "out")["cut.png"]["error"]
