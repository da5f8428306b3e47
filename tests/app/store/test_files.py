"""Files that are written whole or not at all."""

import errno
import stat

import pytest

from app.store import files
from app.store.errors import StorageUnreachable, StoreUnusable
from app.store.files import Unreachable


def fail(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_written_and_replaced_with_its_mode(tmp_path):
    path = tmp_path / "new" / "file"
    files.replace_file(path, b"first")
    files.replace_file(path, b"second", mode=0o400)
    assert path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert [one.name for one in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["write_synced", "sync_folder"])
def test_an_error_leaves_no_incomplete_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    files.replace_file(path, b"first")
    monkeypatch.setattr(files, step, fail)
    with pytest.raises(StoreUnusable, match="No space left"):
        files.replace_file(path, b"second")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() in (b"first", b"second")


def test_a_file_that_exists_is_not_written_as_a_new_one(tmp_path):
    (tmp_path / "file").write_bytes(b"first")
    with pytest.raises(FileExistsError):
        files.write_synced(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"


def test_a_folder_is_written_whole_and_read_only(tmp_path):
    folder = tmp_path / "above" / "folder"
    files.write_folder(folder, {"a": b"1", "inner/b": b"2"})
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {"a": b"1", "b": b"2"}
    assert stat.S_IMODE((folder / "inner" / "b").stat().st_mode) == files.READ_ONLY
    assert [one.name for one in folder.parent.iterdir()] == ["folder"]


def test_a_folder_that_exists_is_not_overwritten(tmp_path):
    files.write_folder(tmp_path / "folder", {"a": b"1"})
    with pytest.raises(StoreUnusable):
        files.write_folder(tmp_path / "folder", {"a": b"2"})
    assert (tmp_path / "folder" / "a").read_bytes() == b"1"
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]


def test_an_error_leaves_no_incomplete_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "write_synced", fail)
    with pytest.raises(StoreUnusable, match="No space left"):
        files.write_folder(tmp_path / "folder", {"a": b"1"})
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_removed_once_and_missing_ones_do_not_matter(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for _ in range(2):
        files.remove_file(tmp_path / "file")
    files.remove_file(tmp_path / "absent" / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_one_that_exists_can_be_made_and_below_a_file_not(tmp_path):
    files.check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnusable, match="it is not a folder"):
        files.check_writable(tmp_path / "file" / "inner")


def test_a_folder_that_this_user_may_not_write_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda _, mode: mode != (files.os.W_OK | files.os.X_OK))
    with pytest.raises(StoreUnusable, match="may not write there"):
        files.check_writable(tmp_path)


@pytest.mark.parametrize(
    ("error", "kind", "why"),
    [
        (OSError(errno.EACCES, "Permission denied"), StoreUnusable, "Permission denied"),
        (OSError("no number"), StoreUnusable, "no number"),
        (Unreachable("no answer"), StorageUnreachable, "no answer"),
    ],
)
def test_an_error_of_the_system_becomes_one_of_the_store(error, kind, why):
    with pytest.raises(StoreUnusable, match=why) as caught, files.translate_os_errors("/store"):
        raise error
    assert type(caught.value) is kind
    assert "/store" in str(caught.value)


@pytest.mark.parametrize(("cell", "expected"), [("=1+1", "'=1+1"), ("-2", "'-2"), ("a=b", "a=b"), (-2, -2), ("", "")])
def test_text_that_a_spreadsheet_would_compute_is_escaped(cell, expected):
    assert files.escape_cell(cell) == expected
