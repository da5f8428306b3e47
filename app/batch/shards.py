"""Shards of a folder of images: about a thousand images that follow one another by path."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from app.imaging.decode import SUFFIXES

DEFAULT_SHARD_SIZE = 1000


@dataclass(frozen=True)
class Shard:
    """Images that are scored together. ``paths``: within the folder; ``digest``: of paths, sizes and times."""

    number: int
    paths: tuple[str, ...]
    digest: str

    @property
    def file_name(self) -> str:
        """The name of the results file."""
        return f"part-{self.number:06}.parquet"


@dataclass
class ShardCounter:
    """Counts the shards that pass."""

    number: int = 0

    def count(self, all_shards: Iterable[Shard]) -> Iterator[Shard]:
        """Yield the same shards, counted."""
        for shard in all_shards:
            self.number += 1
            yield shard


def iter_shards(source: Path, *, size: int) -> Iterator[Shard]:
    """Yield the images under a folder, ``size`` a shard, with the names of one folder in memory. Raises OSError."""
    images = iter_images(source)
    for number in count():
        together = tuple(islice(images, size))
        if not together:
            return
        digest = hashlib.sha256()
        for path, mark in together:
            digest.update(f"{path}\0{mark}\n".encode("utf-8", "surrogateescape"))
        yield Shard(number, tuple(path for path, _ in together), digest.hexdigest())


def iter_images(folder: Path, within: str = "") -> Iterator[tuple[str, str]]:
    """Yield every image file's path with its size and time, in the order of paths."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{within}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from iter_images(Path(entry.path), f"{path}/")
        elif Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file():
            about = entry.stat()
            yield path, f"{about.st_size} {about.st_mtime_ns}"
