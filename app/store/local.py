"""The storage that is a local folder: keys are paths, and there are no copies."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import uuid4

from app.store import files
from app.store.files import INCOMING
from app.store.locks import lock_folder
from app.store.storage import NO_ETAG
from model.bundle import sha256_hex


class LocalStorage:
    """The file system of this machine."""

    num_stale_reads = 0
    patience_s = 0.0
    error: str | None = None

    def get_local_folder(self, key: str) -> Path:
        """Return the folder itself."""
        return Path(key)

    def is_folder(self, key: str) -> bool:
        """Whether a folder exists."""
        return Path(key).is_dir()

    def list_folders(self, key: str, *, holding: str | None = None) -> list[str]:  # noqa: ARG002  # folders come whole
        """Return the names of the folders in a folder."""
        folder = Path(key)
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []

    def list_files(self, key: str) -> list[str]:
        """Return the names of the files in a folder."""
        return list(self.list_etags(key))

    def list_etags(self, key: str) -> dict[str, str]:
        """Return a tag of each file: its identity, which a replaced file does not keep."""
        folder = Path(key)
        if not folder.is_dir():
            return {}
        found = {entry.name: entry.stat() for entry in os.scandir(folder) if entry.is_file()}
        return {name: f"{one.st_ino}-{one.st_mtime_ns}-{one.st_size}" for name, one in found.items()}

    def read(self, key: str) -> bytes:
        """Return the content of a file."""
        return Path(key).read_bytes()

    read_immutable = read

    def make_local_file(self, key: str) -> Path:
        """Return the file itself."""
        return Path(key)

    def get_etag(self, key: str) -> str:
        """Return the digest of a file's content."""
        try:
            return sha256_hex(self.read(key))
        except FileNotFoundError:
            return NO_ETAG

    def get_mtime(self, key: str) -> float:
        """Return the modification time."""
        return Path(key).stat().st_mtime

    def touch(self, key: str) -> None:
        """Set a file's modification time to now."""
        os.utime(key)

    def check_writable(self, key: str) -> None:
        """Look at the first folder above that exists."""
        files.check_writable(Path(key))

    def write(self, key: str, data: bytes, *, mode: int) -> None:
        """Write beside, then rename."""
        files.replace_file(Path(key), data, mode=mode)

    def compare_and_swap(self, key: str, data: bytes, *, instead_of: str) -> bool:
        """Compare and replace under the lock of the folder."""
        return self._act_if_unchanged(key, instead_of, lambda: files.replace_file(Path(key), data))

    def compare_and_remove(self, key: str, *, instead_of: str) -> bool:
        """Compare and remove under the lock of the folder."""
        return self._act_if_unchanged(key, instead_of, lambda: self.remove(key))

    def _act_if_unchanged(self, key: str, instead_of: str, act: Callable[[], None]) -> bool:
        with lock_folder(Path(key).parent):
            if self.get_etag(key) != instead_of:
                return False
            act()
            return True

    def write_folder(self, key: str, contents: Mapping[str, bytes]) -> None:
        """Write the folder beside, then rename it."""
        files.write_folder(Path(key), contents)

    def remove(self, key: str) -> None:
        """Remove a file."""
        files.remove_file(Path(key))

    def remove_folder(self, key: str, *, first: str | None) -> None:  # noqa: ARG002  # renaming is one step
        """Rename the folder, so that it is gone at once, then remove it."""
        folder = Path(key)
        beside = folder.with_name(f"{INCOMING}{uuid4().hex}")
        folder.rename(beside)
        shutil.rmtree(beside)

    def mark_used(self, key: str) -> None:
        """Do nothing: there are no copies."""

    def drop_copies(self, key: str) -> None:
        """Do nothing: there are no copies."""
