"""Places of a store or a state: folders of this machine, or keys of a bucket, read and written alike.

What ``pathlib`` does not do for both is here, by functions; each raises StoreUnusable where a place can't be used.
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
from app.store.errors import MissingFile, StorageAway, StoreUnusable
from app.store.files import INCOMING, locked_folder, reporting_trouble
from app.store.s3 import NOTHING, PROTOCOL, ObjectPath, opened_bucket
from model.bundle import sha256_hex

Something = TypeVar("Something")
Place = Path | ObjectPath
ObjectUrl = Annotated[str, StringConstraints(pattern=rf"^{PROTOCOL}[^/]")]
# As people name a place: a folder, or the address of a bucket.
Location = Annotated[ObjectUrl | Path, Field(union_mode="left_to_right")]
# Where copies of object storage lie, and how much they may take, unless a setting says otherwise.
LOCAL, MOST_COPIED_GIB = Path("local"), 4.0
GIB = 2**30


def place_of(location: Path | str, *, local: Path = LOCAL, most_copied_gib: float = MOST_COPIED_GIB) -> Place:
    """The place that a location names; ``local``: a folder of this machine's own, for copies of object storage."""
    if str(location).startswith("s3:") and not str(location).startswith(PROTOCOL):
        raise StoreUnusable(location, f"object storage is written {PROTOCOL}bucket/prefix")
    if isinstance(location, Path) or not location.startswith(PROTOCOL):
        return Path(location)
    return opened_bucket(location.rstrip("/"), local=local, most_bytes=round(most_copied_gib * GIB))


def machine_folder(place: Place) -> Path:
    """A folder of this machine for what is done with a place: the place itself, or where its copies lie."""
    return place if isinstance(place, Path) else place.bucket.local


def trouble_of(place: Place) -> str | None:
    """Why copies stand in for a place, None where they do not."""
    return None if isinstance(place, Path) else place.bucket.trouble


def is_folder(place: Place) -> bool:
    """Whether there is anything in such a folder; on disk, whether there is one."""
    if isinstance(place, Path):
        return files.is_folder(place)
    with reporting_trouble(place):
        return place.bucket.exists(str(place.key))


def names_in(place: Place, pattern: str, *, holding: str | None = None) -> list[str]:
    """The sorted names of folders in a place that match; none where it does not exist.

    ``holding``: on object storage, where a folder appears with its first file, only those that have this one.
    """
    with reporting_trouble(place):
        if isinstance(place, ObjectPath):
            names = place.bucket.folder_names(str(place.key), holding=holding)
        else:
            entries = list(place.iterdir()) if place.is_dir() else []
            names = sorted(entry.name for entry in entries if entry.is_dir())
    return [name for name in names if re.fullmatch(pattern, name)]


def files_in(place: Place, pattern: str) -> list[str]:
    """The sorted names of files in a place that match; none where it does not exist."""
    with reporting_trouble(place):
        if isinstance(place, ObjectPath):
            names = place.bucket.file_names(str(place.key))
        else:
            names = [entry.name for entry in place.iterdir() if entry.is_file()] if place.is_dir() else []
    return sorted(name for name in names if re.fullmatch(pattern, name))


def read(place: Place) -> bytes | None:
    """The content of a file, None where there is none."""
    with reporting_trouble(place.parent), suppress(FileNotFoundError):
        return place.read_bytes()
    return None


def read_fixed(place: Place, what: str) -> bytes:
    """The content of a file that is written once; raises MissingFile."""
    try:
        return place.read_bytes() if isinstance(place, Path) else place.bucket.read_fixed(str(place.key))
    except FileNotFoundError:
        raise MissingFile(what) from None
    except OSError as error:
        raise files.unusable(place.parent, error) from error


def local_file(place: Place, what: str) -> Path:
    """A file of this machine with the content of one that is written once. Raises MissingFile."""
    if isinstance(place, Path):
        return place
    data = read_fixed(place, what)
    copy = place.bucket.fixed_copy(str(place.key))
    if not copy.is_file() or copy.stat().st_size != len(data):
        raise StoreUnusable(copy.parent, "no room for copies: raise GOODPART_MOST_COPIED_GIB, or free the disk")
    return copy


@contextmanager
def only_fresh(place: Place) -> Iterator[None]:
    """What is read meanwhile is the storage's own: raises StorageAway where a copy stood in."""
    before = 0 if isinstance(place, Path) else place.bucket.num_stood_in
    yield
    if isinstance(place, ObjectPath) and place.bucket.num_stood_in != before:
        raise StorageAway(place, place.bucket.trouble or "it did not answer a moment ago")


def mark_used(*places: Place) -> None:
    """Let the copies of what lies in these places be the last to go for want of room."""
    for place in places:
        if isinstance(place, ObjectPath):
            place.bucket.mark_used(str(place.key))


def be_patient(place: Place, *, for_s: float) -> None:
    """Let writes wait so long for a storage that does not answer."""
    if isinstance(place, ObjectPath):
        place.bucket.patience_s = for_s


@contextmanager
def forgetting_damage(*places: Place, error: type[Exception]) -> Iterator[None]:
    """Where this error is raised, drop the copies of what lies in these places: the next look is at the original."""
    try:
        yield
    except error:
        for place in places:
            if isinstance(place, ObjectPath):
                place.bucket.forget_all(str(place.key))
        raise


def check_writable(place: Place) -> None:
    """Raise StoreUnusable where this user could not make files in a place, which may itself be yet to be made."""
    if isinstance(place, Path):
        files.check_writable(place)
        return
    probe = place / f".probe-{uuid4().hex}"
    replace(probe, b"")
    remove(probe)


def replace(place: Place, data: bytes, *, mode: int = 0o644) -> None:
    """Put a file in place of what was there, whole or not at all. ``mode``: on disk."""
    if isinstance(place, Path):
        files.replace_file(place, data, mode=mode)
        return
    with reporting_trouble(place):
        place.bucket.write(str(place.key), data)


def tag(place: Place) -> str:
    """What tells this content of a file from any other, also from none. Ask before the content is read."""
    if isinstance(place, ObjectPath):
        with reporting_trouble(place):
            return place.bucket.tag(str(place.key))
    data = read(place)
    return NOTHING if data is None else sha256_hex(data)


def swap(place: Place, data: bytes, *, instead_of: str) -> bool:
    """Replace a file if it still has the content of this tag; whether it had."""
    if isinstance(place, ObjectPath):
        with reporting_trouble(place):
            try:
                place.bucket.write(str(place.key), data, instead_of=instead_of)
            except FileExistsError:
                return False
            return True
    return _if_still(place, instead_of, lambda: replace(place, data))


def discard(place: Place, *, instead_of: str) -> bool:
    """Take a file away if it still has the content of this tag; whether it had.

    On object storage the tag is looked at right before, since not every storage deletes under a condition.
    """
    return _if_still(place, instead_of, lambda: remove(place))


def _if_still(place: Place, instead_of: str, act: Callable[[], None]) -> bool:
    """Act on a file if it has the content of this tag, on disk while nobody else may; whether it had."""
    with locked_folder(place.parent) if isinstance(place, Path) else nullcontext():
        if tag(place) != instead_of:
            return False
        act()
        return True


def tagged(place: Place, read_it: Callable[[], Something]) -> tuple[Something, str]:
    """What is read of a place, by the storage itself, and the tag by which it may then be replaced."""
    found = tag(place)
    with only_fresh(place):
        return read_it(), found


def touch(place: Place) -> None:
    """Make a file look as if it had been written now."""
    with reporting_trouble(place.parent):
        if isinstance(place, Path):
            os.utime(place)
        else:
            place.bucket.write(str(place.key), place.read_bytes())


def write_folder(place: Place, contents: Mapping[str, bytes]) -> None:
    """Make a folder of read-only files appear, whole or not at all; also refused if it exists.

    On object storage it counts from when the last of the files is there.
    """
    if isinstance(place, Path):
        files.write_folder(place, contents)
        return
    with reporting_trouble(place):
        place.bucket.write_folder(str(place.key), contents)


def remove(place: Place) -> None:
    """Take a file away, if it is there."""
    if isinstance(place, Path):
        files.remove_file(place)
        return
    with reporting_trouble(place):
        place.bucket.remove([str(place.key)])


def remove_folder(place: Place, *, first: str | None = None) -> None:
    """Take a folder away in one moment, then its files; on object storage ``first`` goes first, by which it counts."""
    if isinstance(place, Path):
        beside = place.with_name(f"{INCOMING}{uuid4().hex}")
        with reporting_trouble(place.parent):
            place.rename(beside)
            shutil.rmtree(beside)
        return
    with reporting_trouble(place):
        keys = place.bucket.objects(str(place.key))
        place.bucket.remove(sorted(keys, key=lambda key: key != f"{place.key}/{first}"))


def modified(place: Place) -> float:
    """When a place was last written to, in seconds since 1970."""
    with reporting_trouble(place.parent):
        return place.stat().st_mtime if isinstance(place, Path) else place.bucket.modified(str(place.key))
