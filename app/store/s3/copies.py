"""Copies of objects on this machine, so that a service goes on while the storage does not answer.

Of what is written once, the copy is as good as the object. Of what changes, the copy says what was seen last; a mark
beside it says that the object did not exist. A full disk is no error: there are fewer copies then.
"""

import errno
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

from app.store.errors import StoreUnusable
from app.store.files import INCOMING, replace_file

# Marker file next to a copy: the object did not exist.
ABSENT = ".absent"


class ReadCache:
    """The copies of one bucket in a folder. ``max_bytes``: of immutable ones; the least recently used go first."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._evicting = threading.Lock()

    def read_immutable(self, key: str) -> bytes | None:
        """Return the copy of an object that is written once, or None."""
        copy = self.immutable_path(key)
        with suppress(FileNotFoundError):
            data = copy.read_bytes()
            os.utime(copy)
            return data
        return None

    def add_immutable(self, key: str, data: bytes) -> None:
        """Keep a copy of an object that is written once, and evict others."""
        write_copy(self.immutable_path(key), data)
        self._evict()

    def read_seen(self, key: str) -> bytes | None:
        """Return what was seen last of an object that may change, or None.

        Raises FileNotFoundError where it did not exist.
        """
        copy = self.seen_path(key)
        if absent_mark(copy).exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
        return copy.read_bytes() if copy.is_file() else None

    def update_seen(self, key: str, data: bytes | None) -> None:
        """Note what was seen of an object that may change; None: it does not exist."""
        copy = self.seen_path(key)
        if data is None:
            copy.unlink(missing_ok=True)
            write_copy(absent_mark(copy), b"")
        else:
            write_copy(copy, data)
            absent_mark(copy).unlink(missing_ok=True)

    def drop(self, key: str) -> None:
        """Drop the copies of an object, and the immutable ones under a key."""
        for copy in (self.immutable_path(key), self.seen_path(key)):
            if not copy.is_dir():
                copy.unlink(missing_ok=True)
        shutil.rmtree(self.immutable_path(key), ignore_errors=True)

    def mark_used(self, key: str) -> None:
        """Mark the copies of an object, or of all under a key, as used, so that they are evicted last."""
        copy = self.immutable_path(key)
        for path in (copy, *copy.rglob("*")):
            with suppress(FileNotFoundError):
                os.utime(path)

    def immutable_path(self, key: str) -> Path:
        """Return the path of the copy of an object that is written once."""
        return self.folder / "copies/fixed" / key

    def seen_path(self, key: str) -> Path:
        """Return the path of the copy of an object that may change."""
        return self.folder / "copies/seen" / key

    def _evict(self) -> None:
        """Drop the least recently used copies until the rest fits; other processes may do the same."""
        with self._evicting:
            found: dict[Path, os.stat_result] = {}
            for path in (self.folder / "copies/fixed").rglob("*"):
                with suppress(FileNotFoundError):
                    if path.is_file() and not path.name.startswith(INCOMING):
                        found[path] = path.stat()
            excess = sum(one.st_size for one in found.values()) - self.max_bytes
            for path in sorted(found, key=lambda path: found[path].st_mtime):
                if excess <= 0:
                    return
                path.unlink(missing_ok=True)
                excess -= found[path].st_size


def write_copy(copy: Path, data: bytes) -> None:
    """Write a copy, unless it exists."""
    with suppress(OSError, StoreUnusable):
        if not copy.is_file() or copy.read_bytes() != data:
            replace_file(copy, data)


def absent_mark(copy: Path) -> Path:
    """Return the path of the mark that an object does not exist."""
    return copy.with_name(f"{copy.name}{ABSENT}")
