"""Object storage, in the shape of paths, so that store and state read it as they read folders; by fsspec's S3.

What was read is kept on this machine. What is written once is never asked for again; of what changes, the copy stands
in while the storage does not answer, and ``Bucket.trouble`` says so.
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

from app.store.errors import ObjectStorageMissing, StoreUnusable
from app.store.files import INCOMING, Away, check_writable, replace_file

PROTOCOL = "s3://"
CONNECTION = {"connect_timeout": 3, "read_timeout": 5, "retries": {"total_max_attempts": 1}}
NUM_TRIES = 2
# A question, or a read of something small, that takes longer has failed; what is large gets time by its size.
SMALL_S, LARGE_S, SLOWEST_BYTES_PER_S = 8.0, 60.0, 100_000
# After it did not answer, the storage is left alone for so long: copies then stand in at once.
REST_S = 5.0
# Answers to a condition that does not hold: it did not, or somebody else is at it.
REFUSALS = {HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED}
# Botocore's and aiohttp's own errors are no OSErrors; s3fs turns only what the storage answers into those.
FOREIGN = {"botocore", "aiobotocore", "aiohttp", "urllib3", "asyncio"}
# Beside a copy: that there was nothing. In a folder of copies: which names were in it.
ABSENT, NAMES = ".absent", ".names"
WRITES = {"pipe_file", "rm_file"}
# The tag of what is not there.
NOTHING = "nothing"


class Bucket:
    """Objects, and this machine's copies of them. ``trouble``: why copies stand in, None while the storage answers.

    ``files``: fsspec's file system of the storage; ``local``: a folder of this machine's own, with the copies in it;
    ``most_bytes``: how much what is written once may take there; what was unused for longest goes first.
    ``patience_s``: how long writes wait for a storage that does not answer. ``num_stood_in``: how often a copy did.
    """

    def __init__(self, files: Any, local: Path, *, most_bytes: int) -> None:  # noqa: ANN401  # fsspec has no types
        self.files = files
        self.local = local
        self.most_bytes = most_bytes
        self.patience_s = 0.0
        self.num_stood_in = 0
        self.trouble: str | None = None
        self._asks_again_at = 0.0
        self._tidying = threading.Lock()

    def read(self, key: str) -> bytes:
        """An object that may change, or while the storage is away what it was last. Raises OSError."""
        return self._remembered(key, lambda: self._fetched(key, timeout_s=SMALL_S))

    def read_fixed(self, key: str) -> bytes:
        """An object that is written once; asked for only once. Raises OSError."""
        copy = self.fixed_copy(key)
        with suppress(FileNotFoundError):
            data = copy.read_bytes()
            os.utime(copy)
            return data
        data = self._fetched(key, timeout_s=LARGE_S)
        self._keep(copy, data)
        self._make_room()
        return data

    def _fetched(self, key: str, *, timeout_s: float) -> bytes:
        return bytes(self._asked("cat_file", key, max_concurrency=1, timeout_s=timeout_s))

    def folder_names(self, key: str, *, holding: str | None = None) -> list[str]:
        """The names of the folders in a folder, of those with such a file in them where one is named; as ``read``."""

        def ask() -> bytes:
            return json.dumps(self._listed(key, holding)).encode()

        names: list[str] = json.loads(self._remembered(f"{key}/{NAMES}", ask))
        return names

    def file_names(self, key: str) -> list[str]:
        """The names of the files in a folder. Raises OSError."""
        return [name for name, is_folder in self._entries(key) if not is_folder]

    def exists(self, key: str) -> bool:
        """Whether there is such an object, or anything under it. Raises OSError."""
        try:
            return bool(self._asked("ls", key, refresh=True))
        except FileNotFoundError:
            return False

    def tag(self, key: str) -> str:
        """What tells this content of an object from any other; ``NOTHING`` where it is not there. Raises OSError."""
        try:
            return str(self._asked("info", key, refresh=True)["ETag"])
        except FileNotFoundError:
            return NOTHING

    def modified(self, key: str) -> float:
        """When the newest object under a key was written, in seconds since 1970. Raises OSError."""
        found = self._asked("find", key, detail=True).values()
        return float(max((one["LastModified"].timestamp() for one in found), default=0.0))

    def write(self, key: str, data: bytes, *, instead_of: str | None = None) -> None:
        """Write an object whole. Raises OSError; FileExistsError where the tag is not ``instead_of`` any more."""
        condition = {} if instead_of is None else {"IfMatch": instead_of}
        if instead_of == NOTHING:
            condition = {"IfNoneMatch": "*"}
        try:
            self._done("pipe_file", key, data, timeout_s=LARGE_S + len(data) / SLOWEST_BYTES_PER_S, **condition)
        except (FileExistsError, FileNotFoundError) as error:  # the latter: what was to be replaced is gone
            # A write whose answer was lost is sent again, and then refused because of itself.
            if instead_of is None or not self._holds(key, data):
                raise FileExistsError(errno.EEXIST, "somebody else wrote it at the same moment", key) from error
        if instead_of is not None:
            self._note(key, data)

    def _holds(self, key: str, data: bytes) -> bool:
        """Whether an object has this content."""
        try:
            return self._fetched(key, timeout_s=LARGE_S) == data
        except FileNotFoundError:
            return False

    def write_folder(self, key: str, files: Mapping[str, bytes]) -> None:
        """Write many objects, the last of which makes them count, and must be new. Raises OSError; then none counts."""
        *names, last = files
        try:
            for name in names:
                self.write(f"{key}/{name}", files[name])
            self.write(f"{key}/{last}", files[last], instead_of=NOTHING)
        except OSError as error:
            if not isinstance(error, FileExistsError):
                self.patience_s = 0.0
                with suppress(OSError):  # what stays behind is pruned
                    self.remove([f"{key}/{name}" for name in names])
            raise

    def remove(self, keys: list[str]) -> None:
        """Take objects away, in this order; those that are not there are gone already. Raises OSError."""
        for key in keys:
            with suppress(FileNotFoundError):
                self._done("rm_file", key)
            if self._seen(key).is_file():
                self._note(key, None)
            self.forget(key)

    def objects(self, key: str) -> list[str]:
        """The keys of all objects under a key. Raises OSError."""
        return sorted(self._asked("find", key))

    def fixed_copy(self, key: str) -> Path:
        """Where the copy of an object lies that is written once."""
        return self.local / "copies/fixed" / key

    def forget(self, key: str) -> None:
        """Drop the copies of an object."""
        for copy in (self.fixed_copy(key), self._seen(key)):
            if not copy.is_dir():
                copy.unlink(missing_ok=True)

    def forget_all(self, key: str) -> None:
        """Drop the copies of an object, or of all that are written once under a key."""
        self.forget(key)
        shutil.rmtree(self.fixed_copy(key), ignore_errors=True)

    def mark_used(self, key: str) -> None:
        """Let the copies of an object, or of all under a key, be the last to go."""
        copy = self.fixed_copy(key)
        for path in (copy, *copy.rglob("*")):
            with suppress(FileNotFoundError):
                os.utime(path)

    def _done(self, what: str, *given: Any, **options: Any) -> None:  # noqa: ANN401  # as ``files``
        """Write, with patience. Raises OSError."""
        ends = time.monotonic() + self.patience_s
        pause_s = 1.0
        while True:
            try:
                self._asked(what, *given, **options)
            except Away:
                if time.monotonic() + pause_s > ends:
                    raise
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 15.0)
                self._asks_again_at = 0.0
            else:
                return

    def _asked(self, what: str, *given: Any, timeout_s: float = SMALL_S, **options: Any) -> Any:  # noqa: ANN401  # as ``files``
        """Call the storage, unless it rests, and note whether it answers.

        Raises Away where it does not, or not as it should; FileNotFoundError, PermissionError (of a write), and
        FileExistsError where a condition does not hold.
        """
        if self.trouble is not None and time.monotonic() < self._asks_again_at:
            raise Away(errno.EIO, self.trouble)
        try:
            answer = getattr(self.files, what)(*given, timeout=timeout_s, **options)
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in FOREIGN:
                raise
            status, code = answer_of(error)
            if status in REFUSALS:
                self.trouble = None
                raise FileExistsError(errno.EEXIST, code) from error
            is_missing = isinstance(error, FileNotFoundError) and code != "NoSuchBucket"
            if is_missing or (isinstance(error, PermissionError) and what in WRITES):
                self.trouble = None
                raise
            raise self._away(error) from error
        self.trouble = None
        return answer

    def _away(self, error: Exception) -> Away:
        said = str(error).splitlines()
        self.trouble = f"the object storage does not answer: {said[0] if said else type(error).__name__}"
        self._asks_again_at = time.monotonic() + REST_S
        return Away(errno.EIO, self.trouble)

    def _remembered(self, key: str, ask: Callable[[], bytes]) -> bytes:
        """What the storage says, and where it says nothing, what it said last."""
        copy = self._seen(key)
        try:
            data = ask()
        except FileNotFoundError:
            self._note(key, None)
            raise
        except Away:
            self.num_stood_in += 1
            if absent(copy).exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key) from None
            if not copy.is_file():
                raise
            return copy.read_bytes()
        self._note(key, data)
        return data

    def _note(self, key: str, data: bytes | None) -> None:
        """Remember what an object that may change holds now, or that it is not there."""
        copy = self._seen(key)
        if data is None:
            copy.unlink(missing_ok=True)
            self._keep(absent(copy), b"")
        else:
            self._keep(copy, data)
            absent(copy).unlink(missing_ok=True)

    def _seen(self, key: str) -> Path:
        return self.local / "copies/seen" / key

    def _keep(self, copy: Path, data: bytes) -> None:
        """Write a copy, unless it is there. A machine without room for it does its work all the same."""
        with suppress(OSError, StoreUnusable):
            if not copy.is_file() or copy.read_bytes() != data:
                replace_file(copy, data)

    def _make_room(self) -> None:
        """Drop the copies that nobody has read for longest, until the others fit; others may do so too."""
        with self._tidying:
            found: dict[Path, os.stat_result] = {}
            for path in (self.local / "copies/fixed").rglob("*"):
                with suppress(FileNotFoundError):
                    if path.is_file() and not path.name.startswith(INCOMING):
                        found[path] = path.stat()
            excess = sum(one.st_size for one in found.values()) - self.most_bytes
            for path in sorted(found, key=lambda path: found[path].st_mtime):
                if excess <= 0:
                    return
                path.unlink(missing_ok=True)
                excess -= found[path].st_size

    def _listed(self, key: str, holding: str | None) -> list[str]:
        if holding is None:
            return sorted(name for name, is_folder in self._entries(key) if is_folder)
        paths = (PurePosixPath(found).relative_to(key) for found in self.objects(key))
        return sorted(path.parts[0] for path in paths if path.parts[1:] == (holding,))

    def _entries(self, key: str) -> Iterator[tuple[str, bool]]:
        """What lies in a folder: name, and whether it is a folder."""
        try:
            found = self._asked("ls", key, detail=True, refresh=True)
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


def answer_of(error: Exception) -> tuple[int | None, str]:
    """Status and code that the storage answered with; None where it did not answer."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode"), response.get("Error", {}).get("Code", "")


def absent(copy: Path) -> Path:
    """The mark beside a copy that there was nothing."""
    return copy.with_name(f"{copy.name}{ABSENT}")


def opened_bucket(url: str, *, local: Path, most_bytes: int) -> ObjectPath:
    """The place that ``s3://bucket/prefix`` names. Address, region and keys are those of the ``AWS_*`` variables.

    Raises ObjectStorageMissing where the package is not installed, StoreUnusable where copies can't be kept.
    """
    try:
        s3fs = import_module("s3fs")
    except ModuleNotFoundError as error:
        raise ObjectStorageMissing(url) from error
    files = s3fs.S3FileSystem(config_kwargs=CONNECTION, use_listings_cache=False, skip_instance_cache=True)
    files.retries = NUM_TRIES
    check_writable(local)
    return ObjectPath(Bucket(files, local, most_bytes=most_bytes), PurePosixPath(url.removeprefix(PROTOCOL)))
