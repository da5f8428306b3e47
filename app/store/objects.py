"""Object storage, in the shape of paths, so that store and state read it as they read folders; by fsspec's S3.

What was read is kept on this machine. What is written once is never asked for again; of what changes, the copy stands
in while the storage does not answer, and ``Bucket.trouble`` says so.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from app.store.errors import ObjectStorageMissing, StoreUnusable
from app.store.files import check_writable, replace_file

PROTOCOL = "s3://"
# A read or write of one object that takes longer has failed.
TIMEOUT_S = 60.0
CONNECTION = {"connect_timeout": 3, "read_timeout": 10, "retries": {"total_max_attempts": 1}}
NUM_TRIES = 3
# After it did not answer, the storage is left alone for so long: copies then stand in at once.
REST_S = 5.0
# Botocore's and aiohttp's own errors are no OSErrors; s3fs turns only what the storage answers into those.
FOREIGN = {"botocore", "aiobotocore", "aiohttp", "urllib3", "asyncio"}
# Beside a copy: that there was nothing. In a folder of copies: which names were in it.
ABSENT, NAMES = ".absent", ".names"
# The tag of what is not there.
NOTHING = "nothing"


class Bucket:
    """Objects, and this machine's copies of them. ``trouble``: why copies stand in, None while the storage answers.

    ``files``: fsspec's file system of the storage; ``local``: a folder of this machine's own, with the copies in it;
    ``most_bytes``: how much what is written once may take there; what was unused for longest goes first.
    """

    def __init__(self, files: Any, local: Path, *, most_bytes: int) -> None:  # noqa: ANN401  # fsspec has no types
        self.files = files
        self.local = local
        self.most_bytes = most_bytes
        self.trouble: str | None = None
        self._asks_again_at = 0.0

    def read(self, key: str) -> bytes:
        """An object that may change, or while the storage is away what it was last. Raises OSError."""
        return self._remembered(key, lambda: bytes(self._asked("cat_file", key, max_concurrency=1)))

    def read_fixed(self, key: str) -> bytes:
        """An object that is written once; asked for only once. Raises OSError."""
        copy = self.fixed_copy(key)
        with suppress(FileNotFoundError):
            data = copy.read_bytes()
            os.utime(copy)
            return data
        data = bytes(self._asked("cat_file", key, max_concurrency=1))
        self._keep(copy, data)
        self._make_room()
        return data

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
        return bool(self._asked("exists", key))

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
            self._asked("pipe_file", key, data, **condition)
        except OSError as error:
            if instead_of is None or not is_refusal(error):
                raise
            # A write whose answer was lost is sent again, and then refused because of itself.
            if self._asked("cat_file", key, max_concurrency=1) != data:
                raise FileExistsError(errno.EEXIST, "somebody else wrote it at the same moment", key) from error

    def write_folder(self, key: str, files: Mapping[str, bytes]) -> None:
        """Write many objects, the last of which makes them count, and must be new. Raises OSError; then none counts."""
        *names, last = files
        try:
            self._asked("pipe", {f"{key}/{name}": files[name] for name in names})
            self.write(f"{key}/{last}", files[last], instead_of=NOTHING)
        except OSError as error:
            if not isinstance(error, FileExistsError):
                with suppress(OSError):  # what stays behind is pruned
                    self.remove([f"{key}/{name}" for name in names])
            raise

    def remove(self, keys: list[str]) -> None:
        """Take objects away, in this order; those that are not there are gone already. Raises OSError."""
        for key in keys:
            with suppress(FileNotFoundError):
                self._asked("rm_file", key)
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

    def _asked(self, what: str, *given: Any, **options: Any) -> Any:  # noqa: ANN401  # as ``files``
        """Call the storage, unless it rests, and note whether it answers. Raises OSError."""
        if self.trouble is not None and time.monotonic() < self._asks_again_at:
            raise OSError(errno.EIO, self.trouble)
        try:
            answer = getattr(self.files, what)(*given, timeout=TIMEOUT_S, **options)
        except OSError as error:
            is_answer = isinstance(error, FileNotFoundError | PermissionError) or is_refusal(error)
            if is_answer:
                self.trouble = None
                raise
            raise self._away(error) from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in FOREIGN:
                raise
            raise self._away(error) from error
        self.trouble = None
        return answer

    def _away(self, error: Exception) -> OSError:
        said = str(error).splitlines()
        self.trouble = f"the object storage does not answer: {said[0] if said else type(error).__name__}"
        self._asks_again_at = time.monotonic() + REST_S
        return OSError(errno.EIO, self.trouble)

    def _remembered(self, key: str, ask: Callable[[], bytes]) -> bytes:
        """What the storage says, and where it says nothing, what it said last."""
        copy = self._seen(key)
        absent = copy.with_name(f"{copy.name}{ABSENT}")
        try:
            data = ask()
        except FileNotFoundError:
            copy.unlink(missing_ok=True)
            self._keep(absent, b"")
            raise
        except OSError:
            if absent.exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key) from None
            if self.trouble is None or not copy.exists():
                raise
            return copy.read_bytes()
        self._keep(copy, data)
        absent.unlink(missing_ok=True)
        return data

    def _seen(self, key: str) -> Path:
        return self.local / "copies/seen" / key

    def _keep(self, copy: Path, data: bytes) -> None:
        """Write a copy, unless it is there. A machine without room for it does its work all the same."""
        with suppress(OSError, StoreUnusable):
            if not copy.is_file() or copy.read_bytes() != data:
                replace_file(copy, data)

    def _make_room(self) -> None:
        """Drop the copies that nobody has read for longest, until the others fit."""
        found = [path for path in (self.local / "copies/fixed").rglob("*") if path.is_file()]
        told = {path: path.stat() for path in found}
        excess = sum(one.st_size for one in told.values()) - self.most_bytes
        for path in sorted(found, key=lambda path: told[path].st_mtime):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= told[path].st_size

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


def is_refusal(error: OSError) -> bool:
    """Whether the storage answered that a condition does not hold, or that somebody else is at it."""
    return error.errno in {errno.EINVAL, errno.EBUSY, errno.EEXIST}


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
