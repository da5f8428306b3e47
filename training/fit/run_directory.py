"""The directory of one run: its checkpoint, and features that memory does not hold.

It is removed after a successful run. After an interrupted one the checkpoint stays, so that ``--resume`` can continue.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.store.files import translate_os_errors
from app.store.locks import acquire_lock
from training.errors import AlreadyRunning
from training.fit.checkpoint import read_checkpoint, write_checkpoint

CHECKPOINT = "checkpoint.safetensors"
LOCK = "lock"
KEY_DIGITS = 16


@dataclass(frozen=True)
class RunDirectory:
    """An open run directory."""

    folder: Path

    @property
    def features(self) -> Path:
        """The folder of features that memory does not hold."""
        return self.folder / "features"

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint."""
        return (self.folder / CHECKPOINT).is_file()

    def copy_file(self, path: Path) -> Path:
        """Copy a file that may be removed while the training runs. Raises StoreUnusable."""
        copy = self.folder / "confirmed" / path.name
        with translate_os_errors(copy.parent):
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        return copy

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """The state of an earlier run, or None. Raises BadCheckpoint."""
        return read_checkpoint(self.folder / CHECKPOINT)

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Save the state of the training. Raises StoreUnusable."""
        write_checkpoint(self.folder / CHECKPOINT, state)


def get_run_path(store: Path, product: str, fingerprint: str) -> Path:
    """Return the path of a run by its key."""
    return store / "work" / product / fingerprint[:KEY_DIGITS]


@contextmanager
def open_run_directory(folder: Path, *, resume: bool) -> Iterator[RunDirectory]:
    """Open a run directory for one process; it is emptied first unless it resumes. Raises AlreadyRunning."""
    with translate_os_errors(folder):
        new = [run_directory for run_directory in folder.parents if not run_directory.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = acquire_lock(folder / LOCK)
    except BlockingIOError:
        raise AlreadyRunning(folder) from None
    with lock:
        empty_folder(folder)
        run_directory = RunDirectory(folder)
        if not resume:
            (folder / CHECKPOINT).unlink(missing_ok=True)
        try:
            yield run_directory
        except BaseException:
            if run_directory.has_checkpoint:
                empty_folder(folder)
            else:
                remove_folders(folder, new)
            raise
        remove_folders(folder, new)


def empty_folder(folder: Path) -> None:
    """Remove everything but the checkpoint and the lock."""
    for run_directory in folder.iterdir():
        if run_directory.is_dir():
            shutil.rmtree(run_directory, ignore_errors=True)


def remove_folders(folder: Path, new: Sequence[Path]) -> None:
    """Remove a run directory, and the parent folders that are empty then."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in dict.fromkeys((folder.parent, folder.parent.parent, *new)):
        try:
            parent.rmdir()
        except OSError:  # something else is in it
            return
