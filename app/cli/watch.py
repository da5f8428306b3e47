"""``goodpart watch``: inspects images that appear in a folder, and writes the results beside them.

A file is complete once its size and time are stable and it can be decoded. A result is a JSON file that appears
complete, and a row of ``results.csv``; a file with a result is not inspected again.
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

from app.api.schemas import to_file_result
from app.errors import CommandError, ImageError
from app.imaging.decode import SUFFIXES
from app.imaging.input_check import Guard
from app.inference.registry import ModelRegistry
from app.inspection.pipeline import inspect
from app.store.errors import StoreUnusable
from app.store.files import escape_cell, replace_file, translate_os_errors
from model.bundle import GoodpartError, sha256_hex

TABLE = "results.csv"
COLUMNS = ("file", "at", "verdict", "score", "threshold", "p_value", "version", "sha256", "error")
POLL_INTERVAL_S = 0.2


@dataclass(frozen=True)
class FileMark:
    """Size and time of a file, which identify its content without reading it."""

    size: int
    changed_ns: int

    @classmethod
    def from_path(cls, path: Path) -> "FileMark | None":
        """Return a file's mark, or None where there is no regular file."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


@dataclass(frozen=True)
class SeenFile:
    """A file as it was first seen, and when."""

    mark: FileMark
    since: float


@dataclass(frozen=True)
class WatchTimeouts:
    """``settle_s``: time that a file must be stable; ``give_up_s``: time after which a broken file is reported."""

    settle_s: float = 0.5
    give_up_s: float = 30.0


@dataclass
class Watcher:
    """Watches a folder for one product; results go to ``results``.

    A file that is overwritten is inspected again. ``max_bytes``: larger files are refused.
    """

    folder: Path
    results: Path
    registry: ModelRegistry
    product: str
    max_pixels: int
    guard: Guard
    patience: WatchTimeouts = WatchTimeouts()  # frozen
    max_bytes: int = 200_000_000
    report: Callable[[str], None] = print
    _seen: dict[str, SeenFile] = field(default_factory=dict)
    _done: dict[str, FileMark] = field(default_factory=dict)
    _table_rows: set[tuple[str, str]] = field(default_factory=set)
    _error: str | None = None
    _failing_since: float = 0.0

    def run(self, *, once: bool) -> int:
        """Inspect new files, for ever or until all are done; return the number done.

        Raises StoreUnusable where results can't be written at the start, and CommandError where ``once`` gives up.
        """
        with translate_os_errors(self.results):
            self.results.mkdir(parents=True, exist_ok=True)
        self._table_rows = self._read_rows()
        num_done = 0
        while True:
            self.registry.refresh()
            for path in self._find_stable():
                num_done += self._try_inspect(path)
            if once and not self._seen:
                return num_done
            if once and self._error and time.monotonic() - self._failing_since > self.patience.give_up_s:
                raise CommandError(self._error)
            time.sleep(POLL_INTERVAL_S)

    def _find_stable(self) -> Iterator[Path]:
        """Yield the stable files without a result, by name."""
        now = time.monotonic()
        try:
            names = sorted(path.name for path in self.folder.iterdir() if path.suffix.lower() in SUFFIXES)
        except OSError as error:  # a network share may be available again later
            self._report_error(f"{self.folder}: {error.strerror}")
            return
        self._seen = {name: self._seen[name] for name in names if name in self._seen}
        self._done = {name: self._done[name] for name in names if name in self._done}
        for name in names:
            mark = FileMark.from_path(self.folder / name)
            if mark is None or self._is_done(name, mark):
                self._seen.pop(name, None)
            elif name not in self._seen or self._seen[name].mark != mark:
                self._seen[name] = SeenFile(mark, now)
            elif now - self._seen[name].since >= self.patience.settle_s:
                yield self.folder / name

    def _is_done(self, name: str, mark: FileMark) -> bool:
        """Whether this content has its result, from this run or one before."""
        if name not in self._done:
            with suppress(OSError, ValueError, KeyError):
                judged = json.loads(self._result_path(name).read_bytes())["judged"]
                self._done[name] = FileMark(judged["size"], judged["changed_ns"])
        return self._done.get(name) == mark

    def _result_path(self, name: str) -> Path:
        return self.results / f"{name}.json"

    def _try_inspect(self, path: Path) -> bool:
        """Whether a file is done. Errors are reported, and the file is tried again."""
        try:
            return self._inspect_file(path)
        except (GoodpartError, OSError, UnicodeError) as error:
            self._report_error(f"{path.name!a}: {error}")
            return False

    def _report_error(self, why: str) -> None:
        if self._error is None:
            self._failing_since = time.monotonic()
        if self._error != why:
            self.report(f"waiting: {why}")
        self._error = why

    def _inspect_file(self, path: Path) -> bool:
        """Whether a file is done; one that may still be written to is not."""
        look = self._seen[path.name]
        if look.mark.size > self.max_bytes:
            result: dict[str, Any] | None = {"error": f"the file is larger than {self.max_bytes:,} bytes", "sha256": ""}
        else:
            result = self._inspect_complete(path, look)
        if result is None:
            return False
        facts = {"file": path.name, "at": datetime.now(UTC).isoformat(), "judged": asdict(look.mark)}
        self._write(path.name, {**result, **facts})
        self._error = None
        self._done[path.name] = look.mark
        del self._seen[path.name]
        return True

    def _inspect_complete(self, path: Path, look: SeenFile) -> dict[str, Any] | None:
        """Return the result, or None where the file may be incomplete. Raises StoreError, ModelError, OSError."""
        data = path.read_bytes()
        if FileMark.from_path(path) != look.mark or len(data) != look.mark.size:
            return None
        sha256 = sha256_hex(data)
        try:
            return {**self._inspect(path, data), "sha256": sha256}
        except ImageError as error:
            # An unreadable file may be incomplete: a line may pause in the middle of writing it.
            has_time = time.monotonic() - look.since < self.patience.give_up_s
            return None if has_time else {"error": str(error), "sha256": sha256}

    def _inspect(self, path: Path, data: bytes) -> dict[str, Any]:
        """Return the response to an image. Raises ImageError, StoreError, ModelError."""
        version = self.registry.get_serving(self.product)
        inspection = inspect(data, version, max_pixels=self.max_pixels, guard=self.guard)
        return to_file_result(inspection, path.name)

    def _write(self, name: str, result: dict[str, Any]) -> None:
        """The row first: a kill in between leaves a file that is judged again, and whose row is there already."""
        row = (str(escape_cell(name)), result["sha256"])
        if row not in self._table_rows:
            text = io.StringIO()
            csv.writer(text).writerow([escape_cell(result.get(column, "")) for column in COLUMNS])
            self._append(text.getvalue().encode())
            self._table_rows.add(row)
        replace_file(self._result_path(name), json.dumps(result, indent=1).encode() + b"\n")
        self.report(f"{name}  {result.get('verdict', 'error')}  {result.get('score', result.get('error'))}")

    def _append(self, line: bytes) -> None:
        """Add a line whole, after the names of the columns if it is the first. Raises StoreUnusable."""
        table = self.results / TABLE
        with translate_os_errors(self.results), table.open("ab", buffering=0) as file:
            before = file.tell()
            data = line if before else ",".join(COLUMNS).encode() + b"\r\n" + line
            if file.write(data) != len(data):
                file.truncate(before)
                raise StoreUnusable(table, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())

    def _read_rows(self) -> set[tuple[str, str]]:
        """Return the files that have a row, and remove a row that was cut off."""
        table = self.results / TABLE
        with translate_os_errors(self.results):
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
