"""Locks that processes share."""

import os
import subprocess
import sys

import pytest

from app.store.locks import acquire_lock, is_locked, lock_folder

HOLDER = """
import sys, time
from pathlib import Path
from app.store.locks import acquire_lock
lock = acquire_lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_a_held_lock_is_refused_until_it_is_released(tmp_path):
    path = tmp_path / "lock"
    with acquire_lock(path):
        assert is_locked(path)
        with pytest.raises(BlockingIOError):
            acquire_lock(path)
    assert not is_locked(path)
    acquire_lock(path).close()


@pytest.mark.processes
def test_a_killed_process_releases_its_lock(tmp_path):
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert is_locked(path)
        holder.kill()
        holder.wait()
    assert not is_locked(path)


def test_a_folder_is_made_and_locked_and_no_lock_is_made_by_looking(tmp_path):
    path = tmp_path / "new" / ".lock"
    assert not is_locked(path)
    assert not path.exists()
    with lock_folder(path.parent):
        assert is_locked(path)
    assert not is_locked(path)


def test_a_file_that_can_only_be_read_is_locked_too(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    path.touch()
    opened = os.open

    def refuse_writing(name, flags, mode=0o777):
        if flags & os.O_RDWR:
            raise PermissionError
        return opened(name, flags, mode)

    monkeypatch.setattr(os, "open", refuse_writing)
    with acquire_lock(path):
        assert is_locked(path)
