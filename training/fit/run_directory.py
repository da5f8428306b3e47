"""The folder in which one training works: its checkpoint, and features that memory does not hold.

It is gone once the training has ended well. After an end of another kind the checkpoint stays, if there is one, so that
``--resume`` goes on.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.store.files import translate_os_errors
from training.errors import AlreadyRunning
from training.fit.checkpoint import read_checkpoint, write_checkpoint

CHECKPOINT = "checkpoint.safetensors"
LOCK = "lock"
KEY_DIGITS = 16


@dataclass(frozen=True)
class Workplace:
    """An open workplace."""

    folder: Path

    @property
    def features(self) -> Path:
        """Where features lie that memory does not hold."""
        return self.folder / "features"

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return (self.folder / CHECKPOINT).is_file()

    def copied(self, path: Path) -> Path:
        """A copy of a file that others may take away while the training runs. Raises StoreUnusable."""
        copy = self.folder / "confirmed" / path.name
        with translate_os_errors(copy.parent):
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        return copy

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """Where an earlier run of this training stood, None where there is none. Raises BadCheckpoint."""
        return read_checkpoint(self.folder / CHECKPOINT)

    def keep(self, state: dict[str, Any]) -> None:
        """Keep where the training stands. Raises StoreUnusable."""
        write_checkpoint(self.folder / CHECKPOINT, state)


def workplace_of(store: Path, product: str, fingerprint: str) -> Path:
    """Where a training of this fingerprint works."""
    return store / "work" / product / fingerprint[:KEY_DIGITS]


@contextmanager
def opened_workplace(folder: Path, *, resume: bool) -> Iterator[Workplace]:
    """A workplace for one training at a time; emptied first where it does not resume. Raises AlreadyRunning."""
    with translate_os_errors(folder):
        new = [place for place in folder.parents if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        emptied(folder)
        place = Workplace(folder)
        if not resume:
            (folder / CHECKPOINT).unlink(missing_ok=True)
        try:
            yield place
        except BaseException:
            if place.has_checkpoint:
                emptied(folder)
            else:
                removed(folder, new)
            raise
        removed(folder, new)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process. Raises AlreadyRunning."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AlreadyRunning(folder) from None
    try:
        yield
    finally:
        os.close(descriptor)


def emptied(folder: Path) -> None:
    """Remove all but the checkpoint and the lock: what a killed run left is made anew."""
    for place in folder.iterdir():
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)


def removed(folder: Path, new: Sequence[Path]) -> None:
    """Remove a workplace, and what it leaves empty: the folders of workplaces, and those that were made for it."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in dict.fromkeys((folder.parent, folder.parent.parent, *new)):
        try:
            parent.rmdir()
        except OSError:  # something else is in it
            return
