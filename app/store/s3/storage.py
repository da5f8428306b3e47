"""The storage that is a bucket: a client, copies of what was read, and retries of writes.

What is written once is read once. Of what changes, the copy is used while the storage does not answer, and ``error``
says so.
"""

import errno
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from uuid import uuid4

from app.store.errors import StoreUnusable
from app.store.files import Unreachable, check_writable
from app.store.s3.client import S3Client, connect, get_name
from app.store.s3.copies import ReadCache
from app.store.s3.retry import retry
from app.store.storage import NO_ETAG

PROTOCOL = "s3://"
# What a folder contains is kept as a copy under these names.
NAMES, ETAGS = ".names", ".etags"


class S3Storage:
    """The objects of a bucket; keys begin with the bucket's name."""

    def __init__(self, client: S3Client, copies: ReadCache) -> None:
        self.client = client
        self.copies = copies
        self.patience_s = 0.0
        self.num_stale_reads = 0

    @property
    def error(self) -> str | None:
        """Why copies are used; None while the storage answers."""
        return self.client.breaker.error

    def get_local_folder(self, key: str) -> Path:  # noqa: ARG002  # one for all
        """Return the folder of the copies."""
        return self.copies.folder

    def is_folder(self, key: str) -> bool:
        """Whether there is an object under a key."""
        return self.client.exists(key)

    def list_folders(self, key: str, *, holding: str | None = None) -> list[str]:
        """Return the names of the folders in a folder, or the last ones where the storage does not answer."""

        def ask() -> bytes:
            return json.dumps(self._list_folders(key, holding)).encode()

        names: list[str] = json.loads(self._read_or_copy(f"{key}/{NAMES}", ask))
        return names

    def _list_folders(self, key: str, holding: str | None) -> list[str]:
        if holding is None:
            return sorted(get_name(entry) for entry in self.client.iter_entries(key) if entry["type"] == "directory")
        paths = (PurePosixPath(found["name"]).relative_to(key) for found in self.client.iter_objects(key))
        return sorted(path.parts[0] for path in paths if path.parts[1:] == (holding,))

    def list_files(self, key: str) -> list[str]:
        """Return the names of the files in a folder."""
        return [get_name(entry) for entry in self.client.iter_entries(key) if entry["type"] != "directory"]

    def list_etags(self, key: str) -> dict[str, str]:
        """Return the tag of each file in a folder, by one request."""
        entries = self.client.iter_entries(key)
        return {get_name(entry): str(entry["ETag"]) for entry in entries if entry["type"] != "directory"}

    def read(self, key: str) -> bytes:
        """Return an object, or its last copy where the storage does not answer."""
        return self._read_or_copy(key, lambda: self.client.get(key, is_large=False))

    def _read_or_copy(self, key: str, ask: Callable[[], bytes]) -> bytes:
        """Return the storage's content, or the last copy where it does not answer."""
        try:
            data = ask()
        except FileNotFoundError:
            self.copies.update_seen(key, None)
            raise
        except Unreachable:
            self.num_stale_reads += 1
            copy = self.copies.read_seen(key)
            if copy is None:
                raise
            return copy
        self.copies.update_seen(key, data)
        return data

    def read_immutable(self, key: str) -> bytes:
        """Return an object that is written once, from its copy if there is one."""
        data = self.copies.read_immutable(key)
        if data is None:
            data = self.client.get(key)
            self.copies.add_immutable(key, data)
        return data

    def make_local_file(self, key: str) -> Path:
        """Return the copy of an object that is written once."""
        data = self.read_immutable(key)
        copy = self.copies.immutable_path(key)
        if not copy.is_file() or copy.stat().st_size != len(data):
            raise StoreUnusable(copy.parent, "no room for copies: raise GOODPART_MOST_COPIED_GIB, or free the disk")
        return copy

    def get_etag(self, key: str) -> str:
        """Return the tag of an object."""
        return self.client.get_etag(key)

    def get_mtime(self, key: str) -> float:
        """Return when the newest object under a key was written."""
        return max((one["LastModified"].timestamp() for one in self.client.iter_objects(key)), default=0.0)

    def touch(self, key: str) -> None:
        """Write an object again."""
        self._write(key, self.read(key))

    def check_writable(self, key: str) -> None:
        """Write an object and remove it."""
        probe = f"{key}/.probe-{uuid4().hex}"
        self._write(probe, b"")
        self.remove(probe)

    def write(self, key: str, data: bytes, *, mode: int) -> None:  # noqa: ARG002  # objects have no mode
        """Write an object."""
        self._write(key, data)

    def compare_and_swap(self, key: str, data: bytes, *, instead_of: str) -> bool:
        """Write an object by a conditional request."""
        try:
            self._write(key, data, instead_of=instead_of)
        except FileExistsError:
            return False
        return True

    def compare_and_remove(self, key: str, *, instead_of: str) -> bool:
        """Compare the tag, then remove: not every storage deletes conditionally."""
        if self.get_etag(key) != instead_of:
            return False
        self.remove(key)
        return True

    def _write(self, key: str, data: bytes, *, instead_of: str | None = None) -> None:
        """Write an object. Raises FileExistsError where its tag is not ``instead_of``."""
        try:
            self._retry(partial(self.client.put, key, data, instead_of=instead_of))
        except (FileExistsError, FileNotFoundError) as error:  # the latter: the object to replace is missing
            # A write whose response was lost is retried and then conflicts with itself.
            if instead_of is None or not self._holds(key, data):
                raise FileExistsError(errno.EEXIST, "another client wrote it at the same time", key) from error
        if instead_of is not None:
            self.copies.update_seen(key, data)

    def _holds(self, key: str, data: bytes) -> bool:
        """Whether an object has this content."""
        try:
            return self.client.get(key) == data
        except FileNotFoundError:
            return False

    def write_folder(self, key: str, contents: Mapping[str, bytes]) -> None:
        """Write many objects; the last one makes them count, and must be new. On an error none counts."""
        *names, last = contents
        try:
            for name in names:
                self._write(f"{key}/{name}", contents[name])
            self._write(f"{key}/{last}", contents[last], instead_of=NO_ETAG)
        except FileExistsError:
            raise
        except OSError:
            self.patience_s = 0.0
            with suppress(OSError):  # what stays behind is pruned
                for name in names:
                    self.remove(f"{key}/{name}")
            raise

    def remove(self, key: str) -> None:
        """Remove an object."""
        with suppress(FileNotFoundError):
            self._retry(partial(self.client.delete, key))
        was_seen = self.copies.seen_path(key).is_file()
        self.copies.drop(key)
        if was_seen:
            self.copies.update_seen(key, None)

    def remove_folder(self, key: str, *, first: str | None) -> None:
        """Remove all objects under a key, this one ``first``."""
        keys = [one["name"] for one in self.client.iter_objects(key)]
        for one in sorted(keys, key=lambda name: name != f"{key}/{first}"):
            self.remove(one)

    def mark_used(self, key: str) -> None:
        """Mark copies as used."""
        self.copies.mark_used(key)

    def drop_copies(self, key: str) -> None:
        """Drop copies."""
        self.copies.drop(key)

    def _retry(self, write: Callable[[], None]) -> None:
        retry(write, for_s=self.patience_s, breaker=self.client.breaker)


@dataclass(frozen=True)
class ObjectPath:
    """A key of a bucket, with the parts of ``pathlib.Path`` that paths need."""

    storage: S3Storage
    key: PurePosixPath

    def __str__(self) -> str:
        return f"{PROTOCOL}{self.key}"

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(self.storage, self.key / name)

    @property
    def name(self) -> str:
        """The last part."""
        return self.key.name

    @property
    def parent(self) -> "ObjectPath":
        """All but the last part."""
        return ObjectPath(self.storage, self.key.parent)

    def with_name(self, name: str) -> "ObjectPath":
        """Another last part."""
        return self.parent / name


def open_bucket(url: str, *, local: Path, max_bytes: int) -> ObjectPath:
    """Return the path of ``s3://bucket/prefix``; ``local``: the folder of the copies, ``max_bytes``: their size.

    Raises StoreUnusable.
    """
    client = connect(url)
    check_writable(local)
    storage = S3Storage(client, ReadCache(local, max_bytes=max_bytes))
    return ObjectPath(storage, PurePosixPath(url.removeprefix(PROTOCOL)))
