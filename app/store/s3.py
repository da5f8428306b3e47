"""Object storage with the interface of paths, by fsspec's S3.

What is read is copied to this machine. What is written once is read once; of what changes, the copy is used while the
storage does not answer, and ``Bucket.error`` says so.
"""

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from app.store.errors import StoreUnusable
from app.store.files import INCOMING, Unreachable, check_writable, replace_file

PROTOCOL = "s3://"
CONNECTION = {"connect_timeout": 3, "read_timeout": 5, "retries": {"total_max_attempts": 1}}
NUM_TRIES = 2
# Timeout of requests and small reads; that of large files depends on their size.
SMALL_TIMEOUT_S, LARGE_TIMEOUT_S, MIN_BYTES_PER_S = 8.0, 60.0, 100_000
# Delay after the storage was unreachable; until then local copies are used immediately.
BACKOFF_S = 5.0
# Responses to a failed condition: it does not hold, or another write is in progress.
CONFLICT_STATUSES = {HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED}
# Errors of botocore and aiohttp are not OSErrors; s3fs converts only error responses of the storage.
FOREIGN = {"botocore", "aiobotocore", "aiohttp", "urllib3", "asyncio"}
# Marker files: next to a copy, that the object did not exist; in a folder of copies, the list of its names.
ABSENT, NAMES = ".absent", ".names"
WRITES = {"pipe_file", "rm_file"}
# The ETag of a missing object.
NO_ETAG = "nothing"


class Bucket:
    """Objects, and this machine's copies of them. ``error``: why copies are used; None while the storage answers.

    ``files``: fsspec's file system; ``local``: the folder of the copies; ``max_bytes``: size limit of immutable copies;
    the least recently used go first. ``patience_s``: how long writes wait for a storage that does not answer.
    ``num_stale_reads``: how often a copy was used instead of the storage.
    """

    def __init__(self, files: Any, local: Path, *, max_bytes: int) -> None:  # noqa: ANN401  # fsspec has no types
        self.files = files
        self.local = local
        self.max_bytes = max_bytes
        self.patience_s = 0.0
        self.num_stale_reads = 0
        self.error: str | None = None
        self._retry_at = 0.0
        self._evicting = threading.Lock()

    def read(self, key: str) -> bytes:
        """Return an object that may change, or its last copy where the storage does not answer. Raises OSError."""
        return self._read_or_copy(key, lambda: self._fetch(key, timeout_s=SMALL_TIMEOUT_S))

    def read_immutable(self, key: str) -> bytes:
        """Return an object that is written once, from its copy if there is one. Raises OSError."""
        copy = self.immutable_copy_path(key)
        with suppress(FileNotFoundError):
            data = copy.read_bytes()
            os.utime(copy)
            return data
        data = self._fetch(key, timeout_s=LARGE_TIMEOUT_S)
        self._write_copy(copy, data)
        self._evict()
        return data

    def _fetch(self, key: str, *, timeout_s: float) -> bytes:
        return bytes(self._call("cat_file", key, max_concurrency=1, timeout_s=timeout_s))

    def list_folders(self, key: str, *, holding: str | None = None) -> list[str]:
        """Return the names of the folders in a folder; with ``holding`` those that hold this file.

        Reads as ``read``.
        """

        def ask() -> bytes:
            return json.dumps(self._list_folders(key, holding)).encode()

        names: list[str] = json.loads(self._read_or_copy(f"{key}/{NAMES}", ask))
        return names

    def list_files(self, key: str) -> list[str]:
        """Return the names of the files in a folder. Raises OSError."""
        return [name for name, is_folder in self._iter_entries(key) if not is_folder]

    def exists(self, key: str) -> bool:
        """Whether an object exists, or anything under it. Raises OSError."""
        try:
            return bool(self._call("ls", key, refresh=True))
        except FileNotFoundError:
            return False

    def get_etag(self, key: str) -> str:
        """Return the tag of an object's content; ``NO_ETAG`` where there is none. Raises OSError."""
        try:
            return str(self._call("info", key, refresh=True)["ETag"])
        except FileNotFoundError:
            return NO_ETAG

    def get_mtime(self, key: str) -> float:
        """Return when the newest object under a key was written, in seconds since 1970. Raises OSError."""
        found = self._call("find", key, detail=True).values()
        return float(max((one["LastModified"].timestamp() for one in found), default=0.0))

    def write(self, key: str, data: bytes, *, instead_of: str | None = None) -> None:
        """Write an object. Raises OSError; FileExistsError where its tag is not ``instead_of``."""
        # Conditional writes replace a lock: storage accepts one of two writes that saw the same tag (decision 011).
        condition = {} if instead_of is None else {"IfMatch": instead_of}
        if instead_of == NO_ETAG:
            condition = {"IfNoneMatch": "*"}
        try:
            self._write_patiently(
                "pipe_file", key, data, timeout_s=LARGE_TIMEOUT_S + len(data) / MIN_BYTES_PER_S, **condition
            )
        except (FileExistsError, FileNotFoundError) as error:  # the latter: the object to replace is missing
            # A write whose response was lost is retried and then conflicts with itself.
            if instead_of is None or not self._holds(key, data):
                raise FileExistsError(errno.EEXIST, "another client wrote it at the same time", key) from error
        if instead_of is not None:
            self._update_copy(key, data)

    def _holds(self, key: str, data: bytes) -> bool:
        """Whether an object has this content."""
        try:
            return self._fetch(key, timeout_s=LARGE_TIMEOUT_S) == data
        except FileNotFoundError:
            return False

    def write_folder(self, key: str, files: Mapping[str, bytes]) -> None:
        """Write many objects; the last one makes them count, and must be new. Raises OSError; then none counts."""
        *names, last = files
        try:
            for name in names:
                self.write(f"{key}/{name}", files[name])
            self.write(f"{key}/{last}", files[last], instead_of=NO_ETAG)
        except OSError as error:
            if not isinstance(error, FileExistsError):
                self.patience_s = 0.0
                with suppress(OSError):  # what stays behind is pruned
                    self.remove([f"{key}/{name}" for name in names])
            raise

    def remove(self, keys: list[str]) -> None:
        """Remove objects, in this order; missing ones are skipped. Raises OSError."""
        for key in keys:
            with suppress(FileNotFoundError):
                self._write_patiently("rm_file", key)
            if self._copy_path(key).is_file():
                self._update_copy(key, None)
            self.drop_copy(key)

    def list_keys(self, key: str) -> list[str]:
        """Return the keys of all objects under a key. Raises OSError."""
        return sorted(self._call("find", key))

    def immutable_copy_path(self, key: str) -> Path:
        """Return the path of the copy of an object that is written once."""
        return self.local / "copies/fixed" / key

    def drop_copy(self, key: str) -> None:
        """Drop the copies of an object."""
        for copy in (self.immutable_copy_path(key), self._copy_path(key)):
            if not copy.is_dir():
                copy.unlink(missing_ok=True)

    def drop_copies(self, key: str) -> None:
        """Drop the copies of an object, or of all immutable ones under a key."""
        self.drop_copy(key)
        shutil.rmtree(self.immutable_copy_path(key), ignore_errors=True)

    def mark_used(self, key: str) -> None:
        """Mark the copies of an object, or of all under a key, as used, so that they are evicted last."""
        copy = self.immutable_copy_path(key)
        for path in (copy, *copy.rglob("*")):
            with suppress(FileNotFoundError):
                os.utime(path)

    def _write_patiently(self, what: str, *given: Any, **options: Any) -> None:  # noqa: ANN401  # as ``files``
        """Write, with retries for ``patience_s``. Raises OSError."""
        ends = time.monotonic() + self.patience_s
        pause_s = 1.0
        while True:
            try:
                self._call(what, *given, **options)
            except Unreachable:
                if time.monotonic() + pause_s > ends:
                    raise
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 15.0)
                self._retry_at = 0.0
            else:
                return

    def _call(self, what: str, *given: Any, timeout_s: float = SMALL_TIMEOUT_S, **options: Any) -> Any:  # noqa: ANN401  # as ``files``
        """Call the storage, unless it is in back-off, and note whether it answers.

        Raises Unreachable where it does not, or with a server error; FileNotFoundError, PermissionError (of a write),
        and FileExistsError where a condition does not hold.
        """
        if self.error is not None and time.monotonic() < self._retry_at:
            raise Unreachable(errno.EIO, self.error)
        try:
            answer = getattr(self.files, what)(*given, timeout=timeout_s, **options)
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in FOREIGN:
                raise
            status, code = parse_response(error)
            if status in CONFLICT_STATUSES:
                self.error = None
                raise FileExistsError(errno.EEXIST, code) from error
            is_missing = isinstance(error, FileNotFoundError) and code != "NoSuchBucket"
            if is_missing or (isinstance(error, PermissionError) and what in WRITES):
                self.error = None
                raise
            raise self._to_unreachable(error) from error
        self.error = None
        return answer

    def _to_unreachable(self, error: Exception) -> Unreachable:
        said = str(error).splitlines()
        self.error = f"the object storage does not answer: {said[0] if said else type(error).__name__}"
        self._retry_at = time.monotonic() + BACKOFF_S
        return Unreachable(errno.EIO, self.error)

    def _read_or_copy(self, key: str, ask: Callable[[], bytes]) -> bytes:
        """Return the storage's content, or the last copy where it does not answer."""
        copy = self._copy_path(key)
        try:
            data = ask()
        except FileNotFoundError:
            self._update_copy(key, None)
            raise
        except Unreachable:
            self.num_stale_reads += 1
            if absent_mark(copy).exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key) from None
            if not copy.is_file():
                raise
            return copy.read_bytes()
        self._update_copy(key, data)
        return data

    def _update_copy(self, key: str, data: bytes | None) -> None:
        """Update the copy of an object that may change; None: it does not exist."""
        copy = self._copy_path(key)
        if data is None:
            copy.unlink(missing_ok=True)
            self._write_copy(absent_mark(copy), b"")
        else:
            self._write_copy(copy, data)
            absent_mark(copy).unlink(missing_ok=True)

    def _copy_path(self, key: str) -> Path:
        return self.local / "copies/seen" / key

    def _write_copy(self, copy: Path, data: bytes) -> None:
        """Write a copy, unless it exists. A full disk is no error."""
        with suppress(OSError, StoreUnusable):
            if not copy.is_file() or copy.read_bytes() != data:
                replace_file(copy, data)

    def _evict(self) -> None:
        """Drop the least recently used copies until the rest fits; other processes may do the same."""
        with self._evicting:
            found: dict[Path, os.stat_result] = {}
            for path in (self.local / "copies/fixed").rglob("*"):
                with suppress(FileNotFoundError):
                    if path.is_file() and not path.name.startswith(INCOMING):
                        found[path] = path.stat()
            excess = sum(one.st_size for one in found.values()) - self.max_bytes
            for path in sorted(found, key=lambda path: found[path].st_mtime):
                if excess <= 0:
                    return
                path.unlink(missing_ok=True)
                excess -= found[path].st_size

    def _list_folders(self, key: str, holding: str | None) -> list[str]:
        if holding is None:
            return sorted(name for name, is_folder in self._iter_entries(key) if is_folder)
        paths = (PurePosixPath(found).relative_to(key) for found in self.list_keys(key))
        return sorted(path.parts[0] for path in paths if path.parts[1:] == (holding,))

    def _iter_entries(self, key: str) -> Iterator[tuple[str, bool]]:
        """Yield the entries of a folder: name, and whether it is a folder."""
        try:
            found = self._call("ls", key, detail=True, refresh=True)
        except FileNotFoundError:  # a folder is there only through what is in it
            return
        for entry in found:
            yield PurePosixPath(entry["name"]).name, entry["type"] == "directory"


@dataclass(frozen=True)
class ObjectPath:
    """A key of a bucket, read as a ``pathlib.Path`` is."""

    bucket: Bucket
    key: PurePosixPath

    def __str__(self) -> str:
        return f"{PROTOCOL}{self.key}"

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(self.bucket, self.key / name)

    @property
    def name(self) -> str:
        """The last part."""
        return self.key.name

    @property
    def parent(self) -> "ObjectPath":
        """All but the last part."""
        return ObjectPath(self.bucket, self.key.parent)

    def with_name(self, name: str) -> "ObjectPath":
        """Another last part."""
        return self.parent / name

    def read_bytes(self) -> bytes:
        """The object's content. Raises OSError."""
        return self.bucket.read(str(self.key))


def parse_response(error: Exception) -> tuple[int | None, str]:
    """Return status and code of the storage's response; None where it did not answer."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode"), response.get("Error", {}).get("Code", "")


def absent_mark(copy: Path) -> Path:
    """Return the path of the mark that an object does not exist."""
    return copy.with_name(f"{copy.name}{ABSENT}")


def open_bucket(url: str, *, local: Path, max_bytes: int) -> ObjectPath:
    """Return the path of ``s3://bucket/prefix``. Address, region and keys are those of the ``AWS_*`` variables.

    Raises StoreUnusable where the package is not installed or copies can't be written.
    """
    try:
        s3fs = import_module("s3fs")
    except ModuleNotFoundError as error:
        raise StoreUnusable(url, "pip install 'goodpart[s3]'") from error
    files = s3fs.S3FileSystem(config_kwargs=CONNECTION, use_listings_cache=False, skip_instance_cache=True)
    files.retries = NUM_TRIES
    check_writable(local)
    return ObjectPath(Bucket(files, local, max_bytes=max_bytes), PurePosixPath(url.removeprefix(PROTOCOL)))
