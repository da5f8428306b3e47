"""The storage that is a local folder."""

import os

import pytest

from app.store.files import INCOMING
from app.store.local import LocalStorage
from app.store.storage import NO_ETAG

STORAGE = LocalStorage()


@pytest.fixture
def key(tmp_path):
    return str(tmp_path / "folder" / "file")


def write(key, data):
    STORAGE.write(key, data, mode=0o644)


def test_files_and_folders_are_listed_apart(tmp_path):
    for name in ("b/x", "a/x", "file"):
        write(str(tmp_path / name), b"1")
    assert STORAGE.list_folders(str(tmp_path)) == ["a", "b"]
    assert STORAGE.list_files(str(tmp_path)) == ["file"]
    assert STORAGE.is_folder(str(tmp_path / "a"))
    assert not STORAGE.is_folder(str(tmp_path / "file"))
    absent = str(tmp_path / "absent")
    assert (STORAGE.list_folders(absent), STORAGE.list_files(absent), STORAGE.list_etags(absent)) == ([], [], {})


def test_a_replaced_file_has_another_tag_even_with_the_same_size_and_time(tmp_path):
    path = tmp_path / "file"
    write(str(path), b"one")
    first, times = STORAGE.list_etags(str(tmp_path)), path.stat().st_mtime_ns
    assert STORAGE.list_etags(str(tmp_path)) == first
    (tmp_path / "other").write_bytes(b"two")
    os.utime(tmp_path / "other", ns=(times, times))
    (tmp_path / "other").replace(path)
    assert STORAGE.list_etags(str(tmp_path)) != first


def test_a_file_is_swapped_only_if_it_is_what_was_read(key):
    assert STORAGE.get_etag(key) == NO_ETAG
    assert STORAGE.compare_and_swap(key, b"first", instead_of=NO_ETAG)
    assert not STORAGE.compare_and_swap(key, b"second", instead_of=NO_ETAG)
    etag = STORAGE.get_etag(key)
    assert STORAGE.compare_and_swap(key, b"second", instead_of=etag)
    assert not STORAGE.compare_and_swap(key, b"third", instead_of=etag)
    assert STORAGE.read(key) == STORAGE.read_immutable(key) == b"second"


def test_a_file_is_removed_only_if_it_is_what_was_read(key):
    write(key, b"first")
    assert not STORAGE.compare_and_remove(key, instead_of="another")
    assert STORAGE.read(key) == b"first"
    assert STORAGE.compare_and_remove(key, instead_of=STORAGE.get_etag(key))
    assert STORAGE.get_etag(key) == NO_ETAG


def test_a_removed_folder_leaves_nothing_behind(tmp_path):
    STORAGE.write_folder(str(tmp_path / "folder"), {"a": b"1", "inner/b": b"2"})
    STORAGE.remove_folder(str(tmp_path / "folder"), first="a")
    assert list(tmp_path.iterdir()) == []
    assert not any(path.name.startswith(INCOMING) for path in tmp_path.iterdir())


def test_a_touched_file_is_new(key):
    write(key, b"1")
    os.utime(key, (5, 5))
    assert STORAGE.get_mtime(key) == 5
    STORAGE.touch(key)
    assert STORAGE.get_mtime(key) > 1e9


def test_a_local_file_needs_no_copy(key):
    write(key, b"1")
    assert str(STORAGE.make_local_file(key)) == key
    assert str(STORAGE.get_local_folder(key)) == key
    STORAGE.mark_used(key)
    STORAGE.drop_copies(key)
    assert STORAGE.read(key) == b"1"
