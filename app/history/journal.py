"""The journal of inspections: an SQLite file that one thread writes.

It is bounded by number, age and size. A full or slow disk loses records, never verdicts; lost records are counted.
"""

import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self
from uuid import uuid4

import structlog

from app.history.records import DeliveryCursor, InspectionRecord, RetentionPolicy, Search, StoredAnswer, StoredImage
from app.store.errors import StoreUnusable
from app.store.locks import acquire_lock

log = structlog.stdlib.get_logger("goodpart.journal")

FILE = "journal.db"
SCHEMA = """
CREATE TABLE IF NOT EXISTS inspections (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    inspection_id TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,
    product TEXT NOT NULL,
    product_sequence INTEGER NOT NULL,
    version TEXT NOT NULL,
    part_id TEXT,
    verdict TEXT NOT NULL,
    score REAL NOT NULL,
    answer TEXT NOT NULL,
    idempotency_key TEXT UNIQUE
);
CREATE INDEX IF NOT EXISTS by_part ON inspections (part_id);
CREATE INDEX IF NOT EXISTS by_product ON inspections (product, sequence);
CREATE TABLE IF NOT EXISTS images (inspection_id TEXT PRIMARY KEY, media_type TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS replays (idempotency_key TEXT PRIMARY KEY, asked TEXT NOT NULL, answer TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS identity (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counters (product TEXT PRIMARY KEY, last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sinks (name TEXT PRIMARY KEY, delivered INTEGER NOT NULL, attempted INTEGER NOT NULL);
"""
# Maximum queue to the disk: records, and bytes of their images. Images are dropped first.
MAX_QUEUED_RECORDS, MAX_QUEUED_IMAGE_BYTES = 1024, 64_000_000
# Maximum number of responses stored for retries; clients usually retry soon.
MAX_REPLAYS = 1000
# Maximum number of undelivered results per sink; older ones are dropped to bound the disk space.
MAX_BACKLOG = 1_000_000
# Maximum number of records per transaction: one transaction costs as much as ten.
MAX_BATCH_RECORDS = 64
# Minimum interval between two prunings.
PRUNE_INTERVAL_S = 10.0
BUSY_TIMEOUT_S = 5.0
# Maximum time to wait at shutdown for the queue to be written.
CLOSE_TIMEOUT_S = 5.0


@dataclass
class PendingRecord:
    """A record that waits to be written; ``done`` gets its sequence number."""

    record: InspectionRecord
    picture: StoredImage | None
    replay: StoredAnswer | None
    done: "Future[int]" = field(default_factory=Future)

    @property
    def num_bytes(self) -> int:
        """The size of its image."""
        return len(self.picture.data) if self.picture else 0


COLUMNS = (
    "inspection_id, at, product, version, part_id, verdict, score, answer, idempotency_key, sequence, product_sequence"
)


class Journal:
    """The journal of one service. ``num_lost``: records that could not be written; ``error``: why, or None."""

    def __init__(self, folder: Path, retention: RetentionPolicy) -> None:
        self.path = folder / FILE
        self.retention = retention
        self.num_lost = 0
        self.on_written: Callable[[], None] = lambda: None
        self.error: str | None = None
        self._queue: queue.Queue[PendingRecord | None] = queue.Queue(MAX_QUEUED_RECORDS)
        self._thread = threading.Thread(target=self._run_writer, name="journal", daemon=True)
        self._pruned_at = 0.0
        self._bytes_waiting = 0
        self._num_lost_by_product: Counter[str] = Counter()
        # Protects the counters shared by callers and the writer thread.
        self._count_lock = threading.Lock()
        self._lock: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Start the writer. An unusable folder loses records, as a full disk does."""
        try:
            self._open().close()
        except (sqlite3.Error, OSError, StoreUnusable) as error:
            self._report_error(str(error))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write the queued records and stop, within ``CLOSE_TIMEOUT_S``."""
        with suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_TIMEOUT_S)
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._lock is not None and not self._thread.is_alive():
            self._lock.close()
            self._lock = None

    def add(
        self, record: InspectionRecord, picture: StoredImage | None = None, replay: StoredAnswer | None = None
    ) -> "Future[int]":
        """Queue a record without waiting. The future gets its sequence number, or the error."""
        with self._count_lock:
            if picture is not None and self._bytes_waiting + len(picture.data) > MAX_QUEUED_IMAGE_BYTES:
                picture = None
            waiting = PendingRecord(record, picture, replay)
            self._bytes_waiting += waiting.num_bytes
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            self._drop_batch([waiting], "too many records wait for the disk")
        return waiting.done

    def search(self, search: Search, *, limit: int) -> list[InspectionRecord]:
        """Return the matching records, newest first. Raises StoreUnusable."""
        clause, given = search.to_sql()
        with self._read_connection() as database:
            rows = database.execute(
                f"SELECT {COLUMNS} FROM inspections WHERE {clause} ORDER BY sequence DESC LIMIT ?",  # noqa: S608  # ours
                (*given, limit),
            )
            return [InspectionRecord(*row) for row in rows]

    def read_after(self, sequence: int, *, limit: int) -> list[InspectionRecord]:
        """Return the records after a sequence number, in order. Raises StoreUnusable."""
        with self._read_connection() as database:
            rows = database.execute(
                f"SELECT {COLUMNS} FROM inspections WHERE sequence > ? ORDER BY sequence LIMIT ?",  # noqa: S608  # ours
                (sequence, limit),
            )
            return [InspectionRecord(*row) for row in rows]

    def read_record(self, inspection_id: str) -> InspectionRecord | None:
        """Return one record, or None. Raises StoreUnusable."""
        return self._find_one("inspection_id", inspection_id)

    def read_replay(self, idempotency_key: str) -> StoredAnswer | None:
        """Return the answer to the request with this key, or None. Raises StoreUnusable."""
        with self._read_connection() as database:
            row = database.execute(
                "SELECT asked, answer FROM replays WHERE idempotency_key = ?", (idempotency_key,)
            ).fetchone()
        return StoredAnswer(*row) if row else None

    def read_image(self, inspection_id: str) -> StoredImage | None:
        """Return the image of a record, or None. Raises StoreUnusable."""
        with self._read_connection() as database:
            row = database.execute(
                "SELECT media_type, data FROM images WHERE inspection_id = ?", (inspection_id,)
            ).fetchone()
        return StoredImage(*row) if row else None

    def register_sink(self, name: str) -> None:
        """Start a delivery cursor for a new sink at the current end. Raises StoreUnusable."""
        with self._write_connection() as database:
            database.execute(
                "INSERT OR IGNORE INTO sinks SELECT ?, last, last FROM (SELECT COALESCE(MAX(seq), 0) AS last "
                "FROM sqlite_sequence WHERE name = 'inspections')",
                (name,),
            )

    def remove_other_sinks(self, *, keep: Sequence[str]) -> None:
        """Remove the cursors of all sinks but these. Raises StoreUnusable."""
        with self._write_connection() as database:
            marks = ", ".join("?" * len(keep))
            database.execute(f"DELETE FROM sinks WHERE name NOT IN ({marks})", tuple(keep))  # noqa: S608  # marks

    def read_cursor(self, sink: str) -> DeliveryCursor:
        """Return the delivery cursor of a sink. Raises StoreUnusable."""
        with self._read_connection() as database:
            row = database.execute(
                "SELECT delivered, attempted, "
                "MAX(0, (SELECT COALESCE(MAX(sequence), 0) FROM inspections) - delivered), "
                "(SELECT id FROM identity) FROM sinks WHERE name = ?",
                (sink,),
            ).fetchone()
        if row is None:
            raise StoreUnusable(self.path, f"it knows no sink '{sink}'")
        return DeliveryCursor(*row)

    def mark_attempted(self, sink: str, sequence: int) -> None:
        """Note that records up to this one may have been sent. Raises StoreUnusable."""
        with self._write_connection() as database:
            database.execute("UPDATE sinks SET attempted = MAX(attempted, ?) WHERE name = ?", (sequence, sink))

    def mark_delivered(self, sink: str, sequence: int) -> None:
        """Note that a sink has taken all records up to this one. Raises StoreUnusable."""
        with self._write_connection() as database:
            database.execute("UPDATE sinks SET delivered = ? WHERE name = ?", (sequence, sink))

    def _find_one(self, column: str, value: str) -> InspectionRecord | None:
        with self._read_connection() as database:
            row = database.execute(
                f"SELECT {COLUMNS} FROM inspections WHERE {column} = ?",  # noqa: S608  # our own column
                (value,),
            ).fetchone()
        return InspectionRecord(*row) if row else None

    def _open(self) -> sqlite3.Connection:
        """Open the file for writing and create it if needed.

        Raises StoreUnusable where another service writes to it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._acquire_lock()
        database = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S)
        database.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing; a power failure may lose the last moments.
        database.execute("PRAGMA synchronous = NORMAL")
        if database.execute("PRAGMA user_version").fetchone() == (0,):
            database.executescript(SCHEMA)
            with database:
                known = "INSERT INTO identity SELECT ? WHERE NOT EXISTS (SELECT 1 FROM identity)"
                database.execute(known, (uuid4().hex[:12],))
            database.execute("PRAGMA user_version = 1")
        return database

    def _acquire_lock(self) -> None:
        """Acquire the lock of the journal: two writers would send each other's results."""
        try:
            self._lock = self._lock or acquire_lock(self.path.with_suffix(".lock"))
        except BlockingIOError:
            raise StoreUnusable(self.path, "another service keeps its records there; set GOODPART_LOCAL") from None

    @contextmanager
    def _read_connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)) as database:
                yield database
        except sqlite3.Error as error:
            raise StoreUnusable(self.path, str(error)) from error

    @contextmanager
    def _write_connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(self._open()) as database, database:
                yield database
        except (sqlite3.Error, OSError) as error:
            raise StoreUnusable(self.path, str(error)) from error

    def _run_writer(self) -> None:
        """Write queued records until the end."""
        database: sqlite3.Connection | None = None
        while (first := self._queue.get()) is not None:
            together, ends = self._collect_batch(first)
            try:
                database = database or self._open()
                self._insert(database, together)
                self.error = None
                with suppress(sqlite3.Error):  # what is too much may go later
                    self._prune(database)
            except Exception as error:  # noqa: BLE001  # after any error the next record is tried
                self._drop_batch(together, str(error))
                if database is not None:
                    with suppress(sqlite3.Error):
                        database.close()
                    database = None
            if ends:
                break
        if database is not None:
            database.close()

    def _collect_batch(self, first: PendingRecord) -> tuple[list[PendingRecord], bool]:
        """Return the queued records, and whether the end was queued."""
        together = [first]
        while len(together) < MAX_BATCH_RECORDS:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                return together, False
            if following is None:
                return together, True
            together.append(following)
        return together, False

    def _insert(self, database: sqlite3.Connection, together: Sequence[PendingRecord]) -> None:
        with self._count_lock:
            lost = dict(self._num_lost_by_product)
        gaps: dict[str, int] = {}
        with database:
            sequences = [self._insert_one(database, waiting, lost, gaps) for waiting in together]
        with self._count_lock:
            for product, number in gaps.items():
                self._num_lost_by_product[product] -= number
            self._bytes_waiting -= sum(waiting.num_bytes for waiting in together)
        for waiting, sequence in zip(together, sequences, strict=True):
            with suppress(InvalidStateError):  # the caller has given up waiting
                waiting.done.set_result(sequence)
        self.on_written()

    def _insert_one(
        self, database: sqlite3.Connection, waiting: PendingRecord, lost: dict[str, int], gaps: dict[str, int]
    ) -> int:
        """Return a record's sequence number; that of the earlier record where its request was answered already.

        ``lost``: number of lost records by product, which leave a gap in the product's numbers, so that a client
        notices; the gaps that were inserted are added to ``gaps``.
        """
        record = waiting.record
        if record.idempotency_key is not None:
            before = database.execute(
                "SELECT sequence FROM inspections WHERE idempotency_key = ?", (record.idempotency_key,)
            ).fetchone()
            if before is not None:
                return int(before[0])
        gap = lost.pop(record.product, 0)
        gaps[record.product] = gaps.get(record.product, 0) + gap
        step = 1 + gap
        (number,) = database.execute(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT (product) DO UPDATE SET last = last + ? RETURNING last",
            (record.product, step, step),
        ).fetchone()
        cursor = database.execute(
            "INSERT INTO inspections (inspection_id, at, product, product_sequence, version, part_id, verdict, score, "
            "answer, idempotency_key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.inspection_id, record.at, record.product, number, record.version, record.part_id,
                record.verdict, record.score, record.answer, record.idempotency_key,
            ),
        )  # fmt: skip
        if waiting.replay is not None and record.idempotency_key is not None:
            replay = (record.idempotency_key, waiting.replay.fingerprint, waiting.replay.answer)
            database.execute("INSERT OR REPLACE INTO replays VALUES (?, ?, ?)", replay)
        if waiting.picture is not None:
            picture = waiting.picture
            row = (record.inspection_id, picture.media_type, picture.data)
            database.execute("INSERT INTO images VALUES (?, ?, ?)", row)
        return int(cursor.lastrowid or 0)

    def _prune(self, database: sqlite3.Connection) -> None:
        """Delete records beyond the retention policy that every sink has taken."""
        now = time.monotonic()
        if now - self._pruned_at < PRUNE_INTERVAL_S:
            return
        self._pruned_at = now
        with database:
            (delivered,) = database.execute("SELECT COALESCE(MIN(delivered), 9e18) FROM sinks").fetchone()
            (last,) = database.execute("SELECT COALESCE(MAX(sequence), 0) FROM inspections").fetchone()
            delivered = max(delivered, last - MAX_BACKLOG)
            database.execute(
                "DELETE FROM replays WHERE rowid <= (SELECT COALESCE(MAX(rowid), 0) FROM replays) - ?", (MAX_REPLAYS,)
            )
            oldest = time.time() - self.retention.days * 86_400
            database.execute(
                "DELETE FROM inspections WHERE sequence <= ? AND (sequence <= ? OR at < ?)",
                (delivered, last - self.retention.records, oldest),
            )
            database.execute("DELETE FROM images WHERE inspection_id NOT IN (SELECT inspection_id FROM inspections)")
            self._prune_images(database)

    def _prune_images(self, database: sqlite3.Connection) -> None:
        """Delete the oldest images until the rest fits."""
        room = self.retention.images_mb * 1e6
        rows = database.execute("SELECT rowid, LENGTH(data) FROM images ORDER BY rowid DESC").fetchall()
        for rowid, size in rows:
            room -= size
            if room < 0:
                database.execute("DELETE FROM images WHERE rowid <= ?", (rowid,))
                return

    def _drop_batch(self, together: Sequence[PendingRecord], why: str) -> None:
        self._report_error(why)
        with self._count_lock:
            self.num_lost += len(together)
            self._num_lost_by_product.update(waiting.record.product for waiting in together)
            self._bytes_waiting -= sum(waiting.num_bytes for waiting in together)
        for waiting in together:
            with suppress(InvalidStateError):  # the caller has given up waiting
                waiting.done.set_exception(StoreUnusable(self.path, why))

    def _report_error(self, why: str) -> None:
        if self.error is None:
            log.error("records are lost", path=str(self.path), why=why)
        self.error = f"inspections are not recorded: {why}"
