"""Locks on files, shared by processes: the kernel releases a lock when its process ends, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from app.store.files import translate_os_errors

LOCK = ".lock"


def acquire_lock(path: Path, *, waits: bool = False) -> BinaryIO:
    """Create a file if needed and lock it; return it, and close it to release the lock.

    Raises BlockingIOError where the lock is held, unless it ``waits``.
    """
    file = os.fdopen(open_lock_file(path), "rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        file.close()
        raise
    return file


def open_lock_file(path: Path) -> int:
    """Open a lock's file, shared with all who may write to its folder.

    Locks over NFS need one that is open for writing.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user's, who made it under a stricter umask
        return os.open(path, os.O_RDONLY)
    with suppress(PermissionError):
        os.fchmod(descriptor, 0o666)
    return descriptor


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Wait for a folder's lock and hold it. Raises StoreUnusable."""
    with translate_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = acquire_lock(folder / LOCK, waits=True)
    with lock:
        yield


def is_locked(path: Path) -> bool:
    """Whether the lock of this file is held; no file is created."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
