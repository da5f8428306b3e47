"""The folder in which one training works: its checkpoint, and features that memory does not hold.

It is gone once the training has ended, well or in error; it stays where the training was stopped or killed, or could
not write, so that ``--resume`` goes on.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.store.errors import StoreUnusable
from app.store.files import reporting_trouble
from training.checkpoint import read_checkpoint, write_checkpoint
from training.errors import AlreadyRunning, Stopped

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
    with reporting_trouble(folder):
        new = [place for place in folder.parents if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if not resume:
            emptied(folder)
        place = Workplace(folder)
        try:
            yield place
        except (Stopped, StoreUnusable, KeyboardInterrupt):
            shutil.rmtree(place.features, ignore_errors=True)
            raise
        except BaseException:
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
    """Remove what an earlier run left."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
    shutil.rmtree(folder / "features", ignore_errors=True)


def removed(folder: Path, new: Sequence[Path]) -> None:
    """Remove a workplace, and what it leaves empty: the folders of workplaces, and those that were made for it."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in dict.fromkeys((folder.parent, folder.parent.parent, *new)):
        try:
            parent.rmdir()
        except OSError:  # something else is in it
            return
