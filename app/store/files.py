"""Atomic files: written under a temporary name, synced, renamed, so that a reader never sees an incomplete file."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from app.store.errors import StorageUnreachable, StoreUnusable

INCOMING = ".incoming-"
READ_ONLY = 0o444
# Characters that start a formula in spreadsheets.
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


class Unreachable(OSError):
    """The storage did not answer, or answered with a server error."""


@contextmanager
def translate_os_errors(folder: object) -> Iterator[None]:
    """Translate OSError to StoreUnusable."""
    try:
        yield
    except OSError as error:
        raise to_store_error(folder, error) from error


def to_store_error(place: object, error: OSError) -> StoreUnusable:
    """Return an OSError as StoreUnusable."""
    kind = StorageUnreachable if isinstance(error, Unreachable) else StoreUnusable
    return kind(place, error.strerror or str(error))


def check_writable(folder: Path) -> None:
    """Raise StoreUnusable where this user can't create files in a folder, which may not exist yet."""
    with translate_os_errors(folder):
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not there.is_dir():
            raise StoreUnusable(there, "it is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise StoreUnusable(there, "this user may not write there; change its owner or mode")


def write_synced(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a new file and sync it."""
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync the folder's entries."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write or replace a file, whole or not at all. Raises StoreUnusable."""
    beside = path.with_name(f"{INCOMING}{uuid4().hex}")
    with translate_os_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(beside, data, mode=mode)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Remove a file, if it exists. Raises StoreUnusable."""
    with translate_os_errors(path.parent):
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync_folder(path.parent)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Create a folder of read-only files, whole or not at all. Raises StoreUnusable, also if it exists."""
    beside = folder.with_name(f"{INCOMING}{uuid4().hex}")
    with translate_os_errors(folder.parent):
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


def escape_cell(value: object) -> object:
    """Escape a text cell that a spreadsheet would take for a formula; numbers are unchanged."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value
