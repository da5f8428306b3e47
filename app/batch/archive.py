"""``goodpart score-archive``: judges a folder of millions of images into Parquet files, a shard each.

A file appears whole and says which images it is of. So what was killed goes on where it was, and the files are the same
however often that happened and wherever they were made.
"""

import fcntl
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
from app.store.files import remove_file, replace_file
from model.bundle import GoodpartError, sha256_hex

# Readers of data sets leave alone what begins so.
ABOUT, LOCK = "_archive.json", "_archive.lock"
DIGEST = b"goodpart.shard"


class NoArchive(GoodpartError):
    """A folder without images; perhaps a share that is not mounted, so nothing of its results is taken away."""

    def __init__(self) -> None:
        super().__init__("there is no image to judge, in this folder or below it")


class OtherArchive(GoodpartError):
    """A folder with results by another version, threshold or size of shard."""

    def __init__(self, folder: Path, difference: str) -> None:
        super().__init__(f"{folder} holds other results: {difference}; take another folder, or empty this one")


@dataclass(frozen=True)
class Judge:
    """By what the images of an archive are judged; two runs into one folder must agree on it."""

    source: str
    product: str
    version: str
    threshold: float
    guard: str
    max_pixels: int
    shard_size: int

    def mark(self, shard: Shard) -> bytes:
        """What the results of a shard carry: of which images they are, and by whom."""
        return sha256_hex(f"{json.dumps(asdict(self))}\n{shard.digest}".encode()).encode()


@dataclass(frozen=True)
class Archive:
    """Results in a folder."""

    folder: Path
    judge: Judge

    @classmethod
    def opened(cls, folder: Path, judge: Judge) -> "Archive":
        """A new one, or one to go on with. Raises OtherArchive, StoreUnusable."""
        about = folder / ABOUT
        mine = asdict(judge)
        if about.exists():
            try:
                before = dict(json.loads(about.read_text()))
            except (ValueError, TypeError):
                raise OtherArchive(folder, f"{ABOUT} can't be read") from None
            for name, value in mine.items():
                if before.get(name) != value:
                    raise OtherArchive(folder, f"{name} is {before.get(name)}, not {value}")
        else:
            replace_file(about, (json.dumps(mine, indent=1) + "\n").encode())
        return cls(folder, judge)

    def check(self, scorer: Scorer) -> None:
        """Raise OtherArchive where the threshold has been changed meanwhile."""
        if scorer.version.threshold != self.judge.threshold:
            raise OtherArchive(self.folder, f"threshold is {self.judge.threshold}, not {scorer.version.threshold}")

    def has(self, shard: Shard) -> bool:
        """Whether the results of just these images are there."""
        try:
            known = pq.read_schema(self.folder / shard.file).metadata or {}
        except (OSError, pa.ArrowException):
            return False
        return bool(known.get(DIGEST) == self.judge.mark(shard))

    def put(self, shard: Shard, table: pa.Table) -> None:
        """Let the results of a shard appear. Raises StoreUnusable."""
        buffer = pa.BufferOutputStream()
        named = table.replace_schema_metadata({DIGEST: self.judge.mark(shard)})
        pq.write_table(named, buffer, compression="zstd")
        replace_file(self.folder / shard.file, buffer.getvalue().to_pybytes())

    def missing(self, all_shards: Iterable[Shard]) -> Iterator[Shard]:
        """The shards without results."""
        return (shard for shard in all_shards if not self.has(shard))

    def finish(self, num_shards: int) -> None:
        """Once all is judged: results of images that are gone go too. Raises StoreUnusable, NoArchive."""
        if num_shards == 0:
            raise NoArchive
        for path in self.folder.glob("part-*.parquet"):
            if int(path.stem.removeprefix("part-")) >= num_shards:
                remove_file(path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else writes here meanwhile. Raises OtherArchive; the lock ends with the process."""
        with (self.folder / LOCK).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise OtherArchive(self.folder, "another run is writing them") from None
            yield

    def counted(self) -> dict[str, int]:
        """How many images are ok, ng, and could not be judged."""
        verdicts: Counter[str | None] = Counter()
        for path in sorted(self.folder.glob("part-*.parquet")):
            verdicts.update(pq.read_table(path, columns=["verdict"])["verdict"].to_pylist())
        return {"ok": verdicts["ok"], "ng": verdicts["ng"], "not judged (see the column 'error')": verdicts[None]}


def score_here(archive: Archive, source: Path, missing: Iterable[Shard], scorer: Scorer) -> Iterator[int]:
    """Judge one shard after the other; how many images each had, as it is done."""
    for shard in missing:
        archive.put(shard, scorer.table(source, shard))
        yield len(shard.paths)
