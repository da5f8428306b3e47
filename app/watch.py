"""``goodpart watch``: judges images that a line writes into a folder, and writes the results beside them.

A file is judged once it is whole: its size and time have not changed for a moment, and it can be decoded. A result is a
JSON file that appears whole, and a row of ``results.csv``; what has its result is not judged again.
"""

import csv
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.api.answers import InspectionAnswer
from app.engine.catalogue import Catalogue
from app.engine.errors import ImageError, TruncatedImage
from app.engine.guard import Guard
from app.engine.inspector import judge
from app.store.files import replace_file, reporting_trouble
from model.bundle import GoodpartError, sha256_hex

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
TABLE = "results.csv"
COLUMNS = ("file", "at", "verdict", "score", "threshold", "p_value", "version", "sha256", "error")
LOOK_EVERY_S = 0.2


@dataclass(frozen=True)
class Look:
    """A file as it was seen: whether it is the same is told by size and time of its last change."""

    size: int
    changed_ns: int
    since: float


@dataclass(frozen=True)
class Patience:
    """Seconds that a file must not change to be looked at, and after which a broken one will not get better."""

    settle_s: float = 0.5
    give_up_s: float = 30.0


@dataclass
class Watcher:
    """A folder that is watched for one product; results go to ``results``."""

    folder: Path
    results: Path
    catalogue: Catalogue
    product: str
    max_pixels: int
    guard: Guard
    patience: Patience = Patience()  # frozen
    told: Callable[[str], None] = print
    _seen: dict[str, Look] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)
    _trouble: str | None = None
    _tabled: set[tuple[str, str]] = field(default_factory=set)

    def run(self, *, once: bool) -> int:
        """Judge what comes, for ever, or until everything that is there is done; how many were judged or given up."""
        with reporting_trouble(self.results):
            self.results.mkdir(parents=True, exist_ok=True)
        self._tabled = self._rows()
        num_done = 0
        while True:
            self.catalogue.refresh()
            num_done += sum(self._judged(path) for path in self._settled())
            if once and not self._seen:
                return num_done
            time.sleep(LOOK_EVERY_S)

    def _settled(self) -> Iterator[Path]:
        """The files that have not changed for a moment, by name; those that are done are left out."""
        now = time.monotonic()
        with reporting_trouble(self.folder):
            entries = sorted(os.scandir(self.folder), key=lambda entry: entry.name)
        there = {entry.name for entry in entries}
        self._seen = {name: look for name, look in self._seen.items() if name in there}
        for entry in entries:
            if Path(entry.name).suffix.lower() not in SUFFIXES or entry.name in self._done:
                continue
            with suppress(FileNotFoundError):
                found = entry.stat()
                before = self._seen.get(entry.name)
                if before is None or (before.size, before.changed_ns) != (found.st_size, found.st_mtime_ns):
                    if self._has_result(Path(entry.name), found.st_mtime):
                        self._done.add(entry.name)
                        continue
                    self._seen[entry.name] = Look(found.st_size, found.st_mtime_ns, now)
                elif now - before.since >= self.patience.settle_s:
                    yield self.folder / entry.name

    def _has_result(self, name: Path, changed: float) -> bool:
        try:
            return self._result_path(name).stat().st_mtime >= changed
        except FileNotFoundError:
            return False

    def _result_path(self, path: Path) -> Path:
        return self.results / f"{path.name}.json"

    def _judged(self, path: Path) -> bool:
        """Whether a file is done; one that may still be written to is not."""
        look = self._seen[path.name]
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return False
        if len(data) != look.size:
            return False
        try:
            result = self._result_of(path, data)
        except TruncatedImage as error:
            if time.monotonic() - look.since < self.patience.give_up_s:
                return False  # a line that pauses in the middle of a file
            result = {"file": path.name, "error": str(error)}
        except ImageError as error:
            if not data and time.monotonic() - look.since < self.patience.give_up_s:
                return False
            result = {"file": path.name, "error": str(error)}
        except GoodpartError as error:
            if self._trouble != str(error):
                self.told(f"waiting: {error}")
            self._trouble = str(error)
            return False
        self._trouble = None
        self._write(path, {**result, "at": datetime.now(UTC).isoformat(), "sha256": sha256_hex(data)})
        self._done.add(path.name)
        del self._seen[path.name]
        return True

    def _result_of(self, path: Path, data: bytes) -> dict[str, Any]:
        """The answer to an image. Raises ImageError, StoreError, ModelError."""
        version = self.catalogue.serving(self.product)
        inspection = judge(data, version, max_pixels=self.max_pixels, guard=self.guard)
        answer = InspectionAnswer.of(inspection, inspection_id="", request_id="", part_id=path.name)
        return {"file": path.name, **answer.model_dump(mode="json", exclude={"inspection_id", "request_id", "heatmap"})}

    def _write(self, path: Path, result: dict[str, Any]) -> None:
        """The row first: a kill in between leaves a file that is judged again, and whose row is there already."""
        row = (path.name, result["sha256"])
        if row not in self._tabled:
            text = io.StringIO()
            csv.writer(text).writerow([result.get(column, "") for column in COLUMNS])
            self._append(text.getvalue())
            self._tabled.add(row)
        replace_file(self._result_path(path), json.dumps(result, indent=1).encode() + b"\n")
        self.told(f"{path.name}  {result.get('verdict', 'error')}  {result.get('score', result.get('error'))}")

    def _append(self, line: str) -> None:
        """Add a line in one write, after the names of the columns if it is the first."""
        table = self.results / TABLE
        with reporting_trouble(self.results):
            head = "" if table.exists() and table.stat().st_size else ",".join(COLUMNS) + "\r\n"
            descriptor = os.open(table, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, (head + line).encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

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
        return {(row["file"], row["sha256"]) for row in csv.DictReader(io.StringIO(whole.decode()))}
