"""``goodpart watch``: judges images that a line writes into a folder, and writes the results beside them.

A file is judged once it is whole: its size and time have not changed for a moment, and it can be decoded. A result is a
JSON file that appears whole, and a row of ``results.csv``; what has its result is not judged again.
"""

import csv
import errno
import io
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.api.schemas import told_of_file
from app.errors import ImageError
from app.imaging.decode import SUFFIXES
from app.imaging.input_check import Guard
from app.inference.registry import Catalogue
from app.inspection.pipeline import judge
from app.store.errors import StoreUnusable
from app.store.files import replace_file, reporting_trouble, safe
from model.bundle import GoodpartError, sha256_hex

TABLE = "results.csv"
COLUMNS = ("file", "at", "verdict", "score", "threshold", "p_value", "version", "sha256", "error")
LOOK_EVERY_S = 0.2


class NothingJudges(GoodpartError):
    """A watcher that was to end when everything is done, and whose product does not judge."""


@dataclass(frozen=True)
class Mark:
    """What tells one content of a file from the next that has its name, without reading it."""

    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> "Mark | None":
        """A file's, None where there is no such file, or something else."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


@dataclass(frozen=True)
class Look:
    """A file as it was seen first, and when."""

    mark: Mark
    since: float


@dataclass(frozen=True)
class Patience:
    """Seconds that a file must not change to be looked at, and after which a broken one will not get better."""

    settle_s: float = 0.5
    give_up_s: float = 30.0


@dataclass
class Watcher:
    """A folder that is watched for one product; results go to ``results``.

    A file that is written anew under its name is judged anew. ``largest``: bytes above which a file is no image.
    """

    folder: Path
    results: Path
    catalogue: Catalogue
    product: str
    max_pixels: int
    guard: Guard
    patience: Patience = Patience()  # frozen
    largest: int = 200_000_000
    told: Callable[[str], None] = print
    _seen: dict[str, Look] = field(default_factory=dict)
    _done: dict[str, Mark] = field(default_factory=dict)
    _tabled: set[tuple[str, str]] = field(default_factory=set)
    _trouble: str | None = None
    _in_trouble_since: float = 0.0

    def run(self, *, once: bool) -> int:
        """Judge what comes, for ever, or until everything that is there is done; how many were judged or given up.

        Raises StoreUnusable where results can't be written at the start, NothingJudges.
        """
        with reporting_trouble(self.results):
            self.results.mkdir(parents=True, exist_ok=True)
        self._tabled = self._rows()
        num_done = 0
        while True:
            self.catalogue.refresh()
            for path in self._settled():
                num_done += self._judged_or_told(path)
            if once and not self._seen:
                return num_done
            if once and self._trouble and time.monotonic() - self._in_trouble_since > self.patience.give_up_s:
                raise NothingJudges(self._trouble)
            time.sleep(LOOK_EVERY_S)

    def _settled(self) -> Iterator[Path]:
        """The files that have not changed for a moment, by name; those that are done are left out."""
        now = time.monotonic()
        try:
            names = sorted(path.name for path in self.folder.iterdir() if path.suffix.lower() in SUFFIXES)
        except OSError as error:  # a share that is away comes back
            self._tell_trouble(f"{self.folder}: {error.strerror}")
            return
        self._seen = {name: self._seen[name] for name in names if name in self._seen}
        self._done = {name: self._done[name] for name in names if name in self._done}
        for name in names:
            mark = Mark.of(self.folder / name)
            if mark is None or self._is_done(name, mark):
                self._seen.pop(name, None)
            elif name not in self._seen or self._seen[name].mark != mark:
                self._seen[name] = Look(mark, now)
            elif now - self._seen[name].since >= self.patience.settle_s:
                yield self.folder / name

    def _is_done(self, name: str, mark: Mark) -> bool:
        """Whether this content has its result, from this run or one before."""
        if name not in self._done:
            with suppress(OSError, ValueError, KeyError):
                told = json.loads(self._result_path(name).read_bytes())["judged"]
                self._done[name] = Mark(told["size"], told["changed_ns"])
        return self._done.get(name) == mark

    def _result_path(self, name: str) -> Path:
        return self.results / f"{name}.json"

    def _judged_or_told(self, path: Path) -> bool:
        """Whether a file is done; what stands in the way is told, and tried again."""
        try:
            return self._judged(path)
        except (GoodpartError, OSError, UnicodeError) as error:
            self._tell_trouble(f"{path.name!a}: {error}")
            return False

    def _tell_trouble(self, why: str) -> None:
        if self._trouble is None:
            self._in_trouble_since = time.monotonic()
        if self._trouble != why:
            self.told(f"waiting: {why}")
        self._trouble = why

    def _judged(self, path: Path) -> bool:
        """Whether a file is done; one that may still be written to is not."""
        look = self._seen[path.name]
        if look.mark.size > self.largest:
            result: dict[str, Any] | None = {"error": f"the file is larger than {self.largest:,} bytes", "sha256": ""}
        else:
            result = self._result_of_whole(path, look)
        if result is None:
            return False
        facts = {"file": path.name, "at": datetime.now(UTC).isoformat(), "judged": asdict(look.mark)}
        self._write(path.name, {**result, **facts})
        self._trouble = None
        self._done[path.name] = look.mark
        del self._seen[path.name]
        return True

    def _result_of_whole(self, path: Path, look: Look) -> dict[str, Any] | None:
        """What comes of a file, None where it may not be whole yet. Raises StoreError, ModelError, OSError."""
        data = path.read_bytes()
        if Mark.of(path) != look.mark or len(data) != look.mark.size:
            return None
        sha256 = sha256_hex(data)
        try:
            return {**self._result_of(path, data), "sha256": sha256}
        except ImageError as error:
            # What can't be read may be the beginning of what can: a line pauses in the middle of a file.
            has_time = time.monotonic() - look.since < self.patience.give_up_s
            return None if has_time else {"error": str(error), "sha256": sha256}

    def _result_of(self, path: Path, data: bytes) -> dict[str, Any]:
        """The answer to an image. Raises ImageError, StoreError, ModelError."""
        version = self.catalogue.serving(self.product)
        inspection = judge(data, version, max_pixels=self.max_pixels, guard=self.guard)
        return told_of_file(inspection, path.name)

    def _write(self, name: str, result: dict[str, Any]) -> None:
        """The row first: a kill in between leaves a file that is judged again, and whose row is there already."""
        row = (str(safe(name)), result["sha256"])
        if row not in self._tabled:
            text = io.StringIO()
            csv.writer(text).writerow([safe(result.get(column, "")) for column in COLUMNS])
            self._append(text.getvalue().encode())
            self._tabled.add(row)
        replace_file(self._result_path(name), json.dumps(result, indent=1).encode() + b"\n")
        self.told(f"{name}  {result.get('verdict', 'error')}  {result.get('score', result.get('error'))}")

    def _append(self, line: bytes) -> None:
        """Add a line whole, after the names of the columns if it is the first. Raises StoreUnusable."""
        table = self.results / TABLE
        with reporting_trouble(self.results), table.open("ab", buffering=0) as file:
            before = file.tell()
            data = line if before else ",".join(COLUMNS).encode() + b"\r\n" + line
            if file.write(data) != len(data):
                file.truncate(before)
                raise StoreUnusable(table, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())

    def _rows(self) -> set[tuple[str, str]]:
        """The files that have their row; a row that a kill has cut is taken out."""
        table = self.results / TABLE
        with reporting_trouble(self.results):
            if not table.exists():
                return set()
            text = table.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            if whole != text:
                replace_file(table, whole)
        rows = list(csv.reader(io.StringIO(whole.decode(errors="replace"))))
        if rows and tuple(rows[0]) != COLUMNS:
            raise StoreUnusable(table, "it is a table of something else; give --results another folder")
        return {(row[0], row[COLUMNS.index("sha256")]) for row in rows[1:] if len(row) == len(COLUMNS)}
