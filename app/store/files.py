"""Writing so that a reader never sees half: beside, synced, renamed."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from app.store.errors import StorageAway, StoreUnusable

INCOMING = ".incoming-"
LOCK = ".lock"
READ_ONLY = 0o444
# What a spreadsheet takes for the beginning of a formula.
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


class Away(OSError):
    """What ``StorageAway`` is made of: no answer, or one of trouble on the other side."""


@contextmanager
def reporting_trouble(folder: object) -> Iterator[None]:
    """Turn the operating system's refusals into StoreUnusable."""
    try:
        yield
    except OSError as error:
        raise unusable(folder, error) from error


def unusable(place: object, error: OSError) -> StoreUnusable:
    """The operating system's refusal, or object storage's, as our error."""
    kind = StorageAway if isinstance(error, Away) else StoreUnusable
    return kind(place, error.strerror or str(error))


def is_folder(path: Path) -> bool:
    """Whether there is such a folder. Raises StoreUnusable where this user may not know."""
    with reporting_trouble(path.parent):
        return path.is_dir()


def check_writable(folder: Path) -> None:
    """Raise StoreUnusable where this user could not make files in a folder, which may itself be yet to be made."""
    with reporting_trouble(folder):
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not there.is_dir():
            raise StoreUnusable(there, "it is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise StoreUnusable(there, "this user may not write there; change its owner or mode")


def write_synced(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a new file and wait until the disk has it."""
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's entries."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put a file in place of what was there, whole or not at all. Raises StoreUnusable."""
    beside = path.with_name(f"{INCOMING}{uuid4().hex}")
    with reporting_trouble(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(beside, data, mode=mode)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Take a file away, if it is there. Raises StoreUnusable."""
    with reporting_trouble(path.parent):
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync_folder(path.parent)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder of read-only files appear, whole or not at all. Raises StoreUnusable, also if it exists."""
    beside = folder.with_name(f"{INCOMING}{uuid4().hex}")
    with reporting_trouble(folder.parent):
        try:
            beside.mkdir(parents=True)
            for name, data in files.items():
                (beside / name).parent.mkdir(exist_ok=True)
                write_synced(beside / name, data, mode=READ_ONLY)
            for inner in {(beside / name).parent for name in files} | {beside}:
                sync_folder(inner)
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        sync_folder(folder.parent)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process; waits for whoever holds it. Raises StoreUnusable."""
    with reporting_trouble(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = opened_lock(folder / LOCK)
    try:
        with reporting_trouble(folder):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def opened_lock(path: Path) -> int:
    """A lock's file, for everybody who may write to its folder. Locks over NFS take one that is open for writing."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user's, who made it under a stricter umask
        return os.open(path, os.O_RDONLY)
    with suppress(PermissionError):
        os.fchmod(descriptor, 0o666)
    return descriptor


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock of this file."""
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


def safe(value: object) -> object:
    """A cell that no spreadsheet takes for a formula; numbers are left alone."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value
