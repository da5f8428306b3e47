"""A folder of images cut into shards: some thousand images that follow one another by path."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from app.imaging.decode import SUFFIXES

SIZE = 1000


@dataclass(frozen=True)
class Shard:
    """Images that are judged together. ``paths``: within the folder; ``digest``: of their paths, sizes and times."""

    number: int
    paths: tuple[str, ...]
    digest: str

    @property
    def file(self) -> str:
        """What the file of its results is called."""
        return f"part-{self.number:06}.parquet"


@dataclass
class Count:
    """How many shards have gone by."""

    number: int = 0

    def over(self, all_shards: Iterable[Shard]) -> Iterator[Shard]:
        """The same shards, counted."""
        for shard in all_shards:
            self.number += 1
            yield shard


def shards(source: Path, *, size: int) -> Iterator[Shard]:
    """The images under a folder, ``size`` a shard; no more than a folder's names are in memory. Raises OSError."""
    images = images_under(source)
    for number in count():
        together = tuple(islice(images, size))
        if not together:
            return
        digest = hashlib.sha256()
        for path, mark in together:
            digest.update(f"{path}\0{mark}\n".encode("utf-8", "surrogateescape"))
        yield Shard(number, tuple(path for path, _ in together), digest.hexdigest())


def images_under(folder: Path, within: str = "") -> Iterator[tuple[str, str]]:
    """Every image file's path and what tells one content of it from another, in the order of paths."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{within}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from images_under(Path(entry.path), f"{path}/")
        elif Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file():
            about = entry.stat()
            yield path, f"{about.st_size} {about.st_mtime_ns}"
