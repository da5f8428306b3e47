"""``goodpart score-archive``: inspects a folder of millions of images into Parquet files, one a shard.

A file appears complete and names the images it covers, so that an interrupted run continues and ends with the same
files.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from app.batch.scoring import Scorer
from app.batch.shards import Shard
from app.errors import CommandError
from app.store.files import remove_file, replace_file
from app.store.locks import acquire_lock
from model.bundle import sha256_hex

# Prefix of files that readers of data sets ignore.
ABOUT, LOCK = "_archive.json", "_archive.lock"
DIGEST = b"goodpart.shard"


def mismatch_error(folder: Path, difference: str) -> CommandError:
    """Return the error of a target with results of another version, threshold or shard size."""
    return CommandError(f"{folder} holds other results: {difference}; choose another folder, or empty this one")


@dataclass(frozen=True)
class ArchiveSpec:
    """What the results depend on; two runs into one folder must have the same."""

    source: str
    product: str
    version: str
    threshold: float
    guard: str
    max_pixels: int
    shard_size: int

    def compute_mark(self, shard: Shard) -> bytes:
        """Return the mark of a shard's results: a digest of the spec and of the shard's images."""
        return sha256_hex(f"{json.dumps(asdict(self))}\n{shard.digest}".encode()).encode()


@dataclass(frozen=True)
class Archive:
    """Results in a folder."""

    folder: Path
    spec: ArchiveSpec

    @classmethod
    def open(cls, folder: Path, spec: ArchiveSpec) -> "Archive":
        """Create an archive, or open one to continue. Raises CommandError, StoreUnusable."""
        about = folder / ABOUT
        mine = asdict(spec)
        if about.exists():
            try:
                before = dict(json.loads(about.read_text()))
            except (ValueError, TypeError):
                raise mismatch_error(folder, f"{ABOUT} can't be read") from None
            for name, value in mine.items():
                if before.get(name) != value:
                    raise mismatch_error(folder, f"{name} is {before.get(name)}, not {value}")
        else:
            replace_file(about, (json.dumps(mine, indent=1) + "\n").encode())
        return cls(folder, spec)

    def check(self, scorer: Scorer) -> None:
        """Raise CommandError where the threshold has changed since."""
        if scorer.version.threshold != self.spec.threshold:
            raise mismatch_error(self.folder, f"threshold is {self.spec.threshold}, not {scorer.version.threshold}")

    def has(self, shard: Shard) -> bool:
        """Whether the results of exactly these images exist."""
        try:
            known = pq.read_schema(self.folder / shard.file_name).metadata or {}
        except (OSError, pa.ArrowException):
            return False
        return bool(known.get(DIGEST) == self.spec.compute_mark(shard))

    def write_shard(self, shard: Shard, table: pa.Table) -> None:
        """Write the results of a shard, whole or not at all. Raises StoreUnusable."""
        buffer = pa.BufferOutputStream()
        named = table.replace_schema_metadata({DIGEST: self.spec.compute_mark(shard)})
        pq.write_table(named, buffer, compression="zstd")
        replace_file(self.folder / shard.file_name, buffer.getvalue().to_pybytes())

    def iter_missing(self, all_shards: Iterable[Shard]) -> Iterator[Shard]:
        """Yield the shards without results."""
        return (shard for shard in all_shards if not self.has(shard))

    def finish(self, num_shards: int) -> None:
        """Remove results of images that no longer exist. Raises StoreUnusable, CommandError."""
        if num_shards == 0:
            # Perhaps a share that is not mounted: existing results stay.
            raise CommandError("this folder and its subfolders contain no image")
        for path in self.folder.glob("part-*.parquet"):
            if int(path.stem.removeprefix("part-")) >= num_shards:
                remove_file(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder's lock, if no other process does. Raises CommandError."""
        try:
            lock = acquire_lock(self.folder / LOCK)
        except BlockingIOError:
            raise mismatch_error(self.folder, "another run is writing them") from None
        with lock:
            yield

    def count_verdicts(self) -> dict[str, int]:
        """Return how many images are ok, ng, and not inspected."""
        verdicts: Counter[str | None] = Counter()
        for path in sorted(self.folder.glob("part-*.parquet")):
            verdicts.update(pq.read_table(path, columns=["verdict"])["verdict"].to_pylist())
        return {"ok": verdicts["ok"], "ng": verdicts["ng"], "not judged (see the column 'error')": verdicts[None]}


def score_locally(archive: Archive, source: Path, missing: Iterable[Shard], scorer: Scorer) -> Iterator[int]:
    """Score one shard after the other; yield the number of images of each."""
    for shard in missing:
        archive.write_shard(shard, scorer.score_shard(source, shard))
        yield len(shard.paths)
