"""Storage paths: local folders or keys of a bucket, with one interface for both.

These functions add what ``pathlib`` does not offer for both; each raises StoreUnusable where the storage can't be used.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, TypeVar
from uuid import uuid4

from pydantic import Field, StringConstraints

from app.store import files
from app.store.errors import MissingFile, StorageUnreachable, StoreUnusable
from app.store.files import INCOMING, translate_os_errors
from app.store.locks import lock_folder
from app.store.s3 import NO_ETAG, PROTOCOL, ObjectPath, open_bucket
from model.bundle import BundleError, sha256_hex

Content = TypeVar("Content")
StoragePath = Path | ObjectPath
ObjectUrl = Annotated[str, StringConstraints(pattern=rf"^{PROTOCOL}[^/]")]
# A location as given by the user: a folder, or the URL of a bucket.
Location = Annotated[ObjectUrl | Path, Field(union_mode="left_to_right")]
# Default folder and size of local copies of object storage.
DEFAULT_LOCAL, DEFAULT_COPIES_GIB = Path("local"), 4.0
GIB = 2**30


def open_storage(
    location: Path | str, *, local: Path = DEFAULT_LOCAL, most_copied_gib: float = DEFAULT_COPIES_GIB
) -> StoragePath:
    """Return the path of a location; ``local``: a folder for copies of object storage."""
    if str(location).startswith("s3:") and not str(location).startswith(PROTOCOL):
        raise StoreUnusable(location, f"object storage is written {PROTOCOL}bucket/prefix")
    if isinstance(location, Path) or not location.startswith(PROTOCOL):
        return Path(location)
    return open_bucket(location.rstrip("/"), local=local, max_bytes=round(most_copied_gib * GIB))


def get_local_folder(path: StoragePath) -> Path:
    """Return a local folder for work on a storage: the storage itself, or the folder of its copies."""
    return path if isinstance(path, Path) else path.bucket.local


def get_error(path: StoragePath) -> str | None:
    """Return why copies are used instead of the storage, or None."""
    return None if isinstance(path, Path) else path.bucket.error


def is_folder(path: StoragePath) -> bool:
    """Whether a folder holds anything; on disk, whether it exists."""
    if isinstance(path, Path):
        return files.is_folder(path)
    with translate_os_errors(path):
        return path.bucket.exists(str(path.key))


def list_folders(path: StoragePath, pattern: str, *, holding: str | None = None) -> list[str]:
    """Return the sorted names of matching folders; empty where the parent does not exist.

    ``holding``: on object storage, where a folder appears with its first file, only folders with this file.
    """
    with translate_os_errors(path):
        if isinstance(path, ObjectPath):
            names = path.bucket.list_folders(str(path.key), holding=holding)
        else:
            entries = list(path.iterdir()) if path.is_dir() else []
            names = sorted(entry.name for entry in entries if entry.is_dir())
    return [name for name in names if re.fullmatch(pattern, name)]


def list_files(path: StoragePath, pattern: str) -> list[str]:
    """Return the sorted names of matching files; empty where the folder does not exist."""
    with translate_os_errors(path):
        if isinstance(path, ObjectPath):
            names = path.bucket.list_files(str(path.key))
        else:
            names = [entry.name for entry in path.iterdir() if entry.is_file()] if path.is_dir() else []
    return sorted(name for name in names if re.fullmatch(pattern, name))


def read(path: StoragePath) -> bytes | None:
    """Return the content of a file, or None."""
    with translate_os_errors(path.parent), suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def read_immutable(path: StoragePath, what: str) -> bytes:
    """Return the content of a file that is written once. Raises MissingFile."""
    try:
        return path.read_bytes() if isinstance(path, Path) else path.bucket.read_immutable(str(path.key))
    except FileNotFoundError:
        raise MissingFile(what) from None
    except OSError as error:
        raise files.to_store_error(path.parent, error) from error


def ensure_local_file(path: StoragePath, what: str) -> Path:
    """Return a local file with the content of one that is written once. Raises MissingFile."""
    if isinstance(path, Path):
        return path
    data = read_immutable(path, what)
    copy = path.bucket.immutable_copy_path(str(path.key))
    if not copy.is_file() or copy.stat().st_size != len(data):
        raise StoreUnusable(copy.parent, "no room for copies: raise GOODPART_MOST_COPIED_GIB, or free the disk")
    return copy


@contextmanager
def refuse_stale(path: StoragePath) -> Iterator[None]:
    """Raise StorageUnreachable where a copy was read instead of the storage."""
    before = 0 if isinstance(path, Path) else path.bucket.num_stale_reads
    yield
    if isinstance(path, ObjectPath) and path.bucket.num_stale_reads != before:
        raise StorageUnreachable(path, path.bucket.error or "it did not answer a moment ago")


def mark_used(*paths: StoragePath) -> None:
    """Mark copies as used, so that they are evicted last."""
    for path in paths:
        if isinstance(path, ObjectPath):
            path.bucket.mark_used(str(path.key))


def set_write_patience(path: StoragePath, *, for_s: float) -> None:
    """Let writes wait up to ``for_s`` for a storage that does not answer."""
    if isinstance(path, ObjectPath):
        path.bucket.patience_s = for_s


@contextmanager
def drop_damaged_copies(*paths: StoragePath) -> Iterator[None]:
    """Drop the copies of these paths where BundleError is raised; the next read takes the original."""
    try:
        yield
    except BundleError:
        for path in paths:
            if isinstance(path, ObjectPath):
                path.bucket.drop_copies(str(path.key))
        raise


def check_writable(path: StoragePath) -> None:
    """Raise StoreUnusable where this user can't create files in a folder, which may not exist yet."""
    if isinstance(path, Path):
        files.check_writable(path)
        return
    probe = path / f".probe-{uuid4().hex}"
    replace(probe, b"")
    remove(probe)


def replace(path: StoragePath, data: bytes, *, mode: int = 0o644) -> None:
    """Write or replace a file, whole or not at all. ``mode``: on disk."""
    if isinstance(path, Path):
        files.replace_file(path, data, mode=mode)
        return
    with translate_os_errors(path):
        path.bucket.write(str(path.key), data)


def get_etag(path: StoragePath) -> str:
    """Return a tag of a file's content, also of no file. Get it before the content is read."""
    if isinstance(path, ObjectPath):
        with translate_os_errors(path):
            return path.bucket.get_etag(str(path.key))
    data = read(path)
    return NO_ETAG if data is None else sha256_hex(data)


def compare_and_swap(path: StoragePath, data: bytes, *, instead_of: str) -> bool:
    """Replace a file if its tag is still ``instead_of``; return whether it was."""
    if isinstance(path, ObjectPath):
        with translate_os_errors(path):
            try:
                path.bucket.write(str(path.key), data, instead_of=instead_of)
            except FileExistsError:
                return False
            return True
    return _if_unchanged(path, instead_of, lambda: replace(path, data))


def compare_and_remove(path: StoragePath, *, instead_of: str) -> bool:
    """Remove a file if its tag is still ``instead_of``; return whether it was.

    On object storage the tag is compared just before, since not every storage deletes conditionally.
    """
    return _if_unchanged(path, instead_of, lambda: remove(path))


def _if_unchanged(path: StoragePath, instead_of: str, act: Callable[[], None]) -> bool:
    """Act on a file if it has this tag, on disk under a lock; return whether it had."""
    with lock_folder(path.parent) if isinstance(path, Path) else nullcontext():
        if get_etag(path) != instead_of:
            return False
        act()
        return True


def read_with_etag(path: StoragePath, read_it: Callable[[], Content]) -> tuple[Content, str]:
    """Read a file from the storage itself, with the tag to replace it by."""
    found = get_etag(path)
    with refuse_stale(path):
        return read_it(), found


def touch(path: StoragePath) -> None:
    """Set a file's modification time to now."""
    with translate_os_errors(path.parent):
        if isinstance(path, Path):
            os.utime(path)
        else:
            path.bucket.write(str(path.key), path.read_bytes())


def write_folder(path: StoragePath, contents: Mapping[str, bytes]) -> None:
    """Create a folder of read-only files, whole or not at all; refused if it exists.

    On object storage it counts once the last of the files exists.
    """
    if isinstance(path, Path):
        files.write_folder(path, contents)
        return
    with translate_os_errors(path):
        path.bucket.write_folder(str(path.key), contents)


def remove(path: StoragePath) -> None:
    """Remove a file, if it exists."""
    if isinstance(path, Path):
        files.remove_file(path)
        return
    with translate_os_errors(path):
        path.bucket.remove([str(path.key)])


def remove_folder(path: StoragePath, *, first: str | None = None) -> None:
    """Remove a folder atomically; on object storage ``first`` is removed first, so that the folder no longer counts."""
    if isinstance(path, Path):
        beside = path.with_name(f"{INCOMING}{uuid4().hex}")
        with translate_os_errors(path.parent):
            path.rename(beside)
            shutil.rmtree(beside)
        return
    with translate_os_errors(path):
        keys = path.bucket.list_keys(str(path.key))
        path.bucket.remove(sorted(keys, key=lambda key: key != f"{path.key}/{first}"))


def get_mtime(path: StoragePath) -> float:
    """Return when a path was last written, in seconds since 1970."""
    with translate_os_errors(path.parent):
        return path.stat().st_mtime if isinstance(path, Path) else path.bucket.get_mtime(str(path.key))
