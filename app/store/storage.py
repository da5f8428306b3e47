"""The interface of a storage: what the store and the state need of a file system or a bucket."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

# The tag of a file that does not exist.
NO_ETAG = "nothing"


class Storage(Protocol):
    """Files by key. Keys have slashes; a folder exists through its files. Methods raise OSError.

    ``num_stale_reads``: how often a copy was read instead of the storage. ``patience_s``: how long writes wait for a
    storage that does not answer.
    """

    num_stale_reads: int
    patience_s: float

    @property
    def error(self) -> str | None:
        """Why copies are read instead of the storage; None while it answers."""

    def get_local_folder(self, key: str) -> Path:
        """Return a folder of this machine for work on the storage."""

    def is_folder(self, key: str) -> bool:
        """Whether a folder exists; in a bucket, whether anything is in it."""

    def list_folders(self, key: str, *, holding: str | None = None) -> list[str]:
        """Return the names of the folders in a folder; with ``holding``, where uploads take time, those with it."""

    def list_files(self, key: str) -> list[str]:
        """Return the names of the files in a folder; empty where there is none."""

    def list_etags(self, key: str) -> dict[str, str]:
        """Return a tag of each file in a folder, by name; a file that changes gets another."""

    def read(self, key: str) -> bytes:
        """Return the content of a file. Raises FileNotFoundError."""

    def read_immutable(self, key: str) -> bytes:
        """Return the content of a file that is written once. Raises FileNotFoundError."""

    def make_local_file(self, key: str) -> Path:
        """Return a local file with the content of one that is written once. Raises FileNotFoundError."""

    def get_etag(self, key: str) -> str:
        """Return a tag of a file's content; ``NO_ETAG`` where there is none."""

    def get_mtime(self, key: str) -> float:
        """Return when a file or folder was last written, in seconds since 1970."""

    def touch(self, key: str) -> None:
        """Set a file's modification time to now."""

    def check_writable(self, key: str) -> None:
        """Raise OSError where this user can't create files in a folder, which may not exist yet."""

    def write(self, key: str, data: bytes, *, mode: int) -> None:
        """Write or replace a file, whole or not at all. ``mode``: where files have one."""

    def compare_and_swap(self, key: str, data: bytes, *, instead_of: str) -> bool:
        """Replace a file if its tag is still ``instead_of``; return whether it was."""

    def compare_and_remove(self, key: str, *, instead_of: str) -> bool:
        """Remove a file if its tag is still ``instead_of``; return whether it was."""

    def write_folder(self, key: str, contents: Mapping[str, bytes]) -> None:
        """Write the read-only files of a folder, whole or not at all. Raises FileExistsError."""

    def remove(self, key: str) -> None:
        """Remove a file, if it exists."""

    def remove_folder(self, key: str, *, first: str | None) -> None:
        """Remove a folder; where that takes many requests, this file ``first``, so that the folder no longer counts."""

    def mark_used(self, key: str) -> None:
        """Mark the copies of a file or folder as used, so that they are evicted last."""

    def drop_copies(self, key: str) -> None:
        """Drop the copies of a file or folder."""
