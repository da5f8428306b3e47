"""Storage paths: local folders or keys of a bucket, with one interface for both.

Each function passes a path's key to its storage (``app/store/storage.py``), and raises StoreUnusable where the storage
can't be used.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, StringConstraints

from app.store import files
from app.store.errors import MissingFile, StorageUnreachable, StoreUnusable
from app.store.files import translate_os_errors
from app.store.local import LocalStorage
from app.store.s3.storage import PROTOCOL, ObjectPath, open_bucket
from app.store.storage import Storage
from model.bundle import BundleError

Content = TypeVar("Content")
StoragePath = Path | ObjectPath
ObjectUrl = Annotated[str, StringConstraints(pattern=rf"^{PROTOCOL}[^/]")]
# A location as given by the user: a folder, or the URL of a bucket.
Location = Annotated[ObjectUrl | Path, Field(union_mode="left_to_right")]
# Default folder and size of local copies of object storage.
DEFAULT_LOCAL, DEFAULT_COPIES_GIB = Path("local"), 4.0
GIB = 2**30
LOCAL_STORAGE = LocalStorage()


def open_storage(
    location: Path | str, *, local: Path = DEFAULT_LOCAL, most_copied_gib: float = DEFAULT_COPIES_GIB
) -> StoragePath:
    """Return the path of a location; ``local``: a folder for copies of object storage."""
    if str(location).startswith("s3:") and not str(location).startswith(PROTOCOL):
        raise StoreUnusable(location, f"object storage is written {PROTOCOL}bucket/prefix")
    if isinstance(location, Path) or not location.startswith(PROTOCOL):
        return Path(location)
    return open_bucket(location.rstrip("/"), local=local, max_bytes=round(most_copied_gib * GIB))


def locate(path: StoragePath) -> tuple[Storage, str]:
    """Return the storage of a path, and the path's key there."""
    return (path.storage, str(path.key)) if isinstance(path, ObjectPath) else (LOCAL_STORAGE, str(path))


def get_local_folder(path: StoragePath) -> Path:
    """Return a local folder for work on a storage: the storage itself, or the folder of its copies."""
    storage, key = locate(path)
    return storage.get_local_folder(key)


def get_error(path: StoragePath) -> str | None:
    """Return why copies are used instead of the storage, or None."""
    return locate(path)[0].error


def is_folder(path: StoragePath) -> bool:
    """Whether a folder holds anything; on disk, whether it exists."""
    storage, key = locate(path)
    with translate_os_errors(path.parent):
        return storage.is_folder(key)


def list_folders(path: StoragePath, pattern: str, *, holding: str | None = None) -> list[str]:
    """Return the sorted names of matching folders; empty where the parent does not exist.

    ``holding``: on object storage, where a folder appears with its first file, only folders with this file.
    """
    storage, key = locate(path)
    with translate_os_errors(path):
        names = storage.list_folders(key, holding=holding)
    return [name for name in names if re.fullmatch(pattern, name)]


def list_files(path: StoragePath, pattern: str) -> list[str]:
    """Return the sorted names of matching files; empty where the folder does not exist."""
    storage, key = locate(path)
    with translate_os_errors(path):
        names = storage.list_files(key)
    return sorted(name for name in names if re.fullmatch(pattern, name))


def list_etags(path: StoragePath) -> dict[str, str]:
    """Return a tag of each file in a folder, by name; a file that changes gets another."""
    storage, key = locate(path)
    with translate_os_errors(path):
        return storage.list_etags(key)


def read(path: StoragePath) -> bytes | None:
    """Return the content of a file, or None."""
    storage, key = locate(path)
    with translate_os_errors(path.parent), suppress(FileNotFoundError):
        return storage.read(key)
    return None


def read_immutable(path: StoragePath, what: str) -> bytes:
    """Return the content of a file that is written once. Raises MissingFile."""
    storage, key = locate(path)
    with name_missing(path, what):
        return storage.read_immutable(key)


def make_local_file(path: StoragePath, what: str) -> Path:
    """Return a local file with the content of one that is written once. Raises MissingFile."""
    storage, key = locate(path)
    with name_missing(path, what):
        return storage.make_local_file(key)


@contextmanager
def name_missing(path: StoragePath, what: str) -> Iterator[None]:
    """Translate OSError: of a file that does not exist to MissingFile, others to StoreUnusable."""
    try:
        yield
    except FileNotFoundError:
        raise MissingFile(what) from None
    except OSError as error:
        raise files.to_store_error(path.parent, error) from error


@contextmanager
def refuse_stale(path: StoragePath) -> Iterator[None]:
    """Raise StorageUnreachable where a copy was read instead of the storage."""
    storage, _ = locate(path)
    before = storage.num_stale_reads
    yield
    if storage.num_stale_reads != before:
        raise StorageUnreachable(path, storage.error or "it did not answer a moment ago")


def mark_used(*paths: StoragePath) -> None:
    """Mark copies as used, so that they are evicted last."""
    for path in paths:
        storage, key = locate(path)
        storage.mark_used(key)


def set_write_patience(path: StoragePath, *, for_s: float) -> None:
    """Let writes wait up to ``for_s`` for a storage that does not answer."""
    locate(path)[0].patience_s = for_s


@contextmanager
def drop_damaged_copies(*paths: StoragePath) -> Iterator[None]:
    """Drop the copies of these paths where BundleError is raised; the next read takes the original."""
    try:
        yield
    except BundleError:
        for path in paths:
            storage, key = locate(path)
            storage.drop_copies(key)
        raise


def check_writable(path: StoragePath) -> None:
    """Raise StoreUnusable where this user can't create files in a folder, which may not exist yet."""
    storage, key = locate(path)
    with translate_os_errors(path):
        storage.check_writable(key)


def replace(path: StoragePath, data: bytes, *, mode: int = 0o644) -> None:
    """Write or replace a file, whole or not at all. ``mode``: on disk."""
    storage, key = locate(path)
    with translate_os_errors(path):
        storage.write(key, data, mode=mode)


def get_etag(path: StoragePath) -> str:
    """Return a tag of a file's content, also of no file. Get it before the content is read."""
    storage, key = locate(path)
    with translate_os_errors(path.parent):
        return storage.get_etag(key)


def compare_and_swap(path: StoragePath, data: bytes, *, instead_of: str) -> bool:
    """Replace a file if its tag is still ``instead_of``; return whether it was."""
    storage, key = locate(path)
    with translate_os_errors(path):
        return storage.compare_and_swap(key, data, instead_of=instead_of)


def compare_and_remove(path: StoragePath, *, instead_of: str) -> bool:
    """Remove a file if its tag is still ``instead_of``; return whether it was.

    On object storage the tag is compared just before, since not every storage deletes conditionally.
    """
    storage, key = locate(path)
    with translate_os_errors(path):
        return storage.compare_and_remove(key, instead_of=instead_of)


def read_with_etag(path: StoragePath, read_it: Callable[[], Content]) -> tuple[Content, str]:
    """Read a file from the storage itself, with the tag to replace it by."""
    found = get_etag(path)
    with refuse_stale(path):
        return read_it(), found


def touch(path: StoragePath) -> None:
    """Set a file's modification time to now."""
    storage, key = locate(path)
    with translate_os_errors(path.parent):
        storage.touch(key)


def write_folder(path: StoragePath, contents: Mapping[str, bytes]) -> None:
    """Create a folder of read-only files, whole or not at all; refused if it exists.

    On object storage it counts once the last of the files exists.
    """
    storage, key = locate(path)
    with translate_os_errors(path):
        storage.write_folder(key, contents)


def remove(path: StoragePath) -> None:
    """Remove a file, if it exists."""
    storage, key = locate(path)
    with translate_os_errors(path):
        storage.remove(key)


def remove_folder(path: StoragePath, *, first: str | None = None) -> None:
    """Remove a folder atomically; on object storage ``first`` is removed first, so that the folder no longer counts."""
    storage, key = locate(path)
    with translate_os_errors(path.parent):
        storage.remove_folder(key, first=first)


def get_mtime(path: StoragePath) -> float:
    """Return when a path was last written, in seconds since 1970."""
    storage, key = locate(path)
    with translate_os_errors(path.parent):
        return storage.get_mtime(key)
