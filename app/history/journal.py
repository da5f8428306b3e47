"""What was judged, kept on this machine: an SQLite file that one thread writes, off the way of every inspection.

It is bounded by number, age and size. A disk that is full or slow costs records, never verdicts: what can't be written
is counted and dropped.
"""

import fcntl
import os
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
from typing import Self
from uuid import uuid4

import structlog

from app.history.records import Bounds, Picture, Record, Replay, Search, Standing
from app.store.errors import StoreUnusable

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
# So many records wait for the disk at most, the next is dropped; with so many bytes of images, which are dropped first.
MOST_WAITING, MOST_WAITING_BYTES = 1024, 64_000_000
# Answers that are kept whole for clients that ask again; one that does so does it soon.
MOST_REPLAYS = 1000
# What a sink is owed beyond this is lost to it: a disk has an end.
MOST_OWED = 1_000_000
# Written together, where so many wait: one transaction costs as much as ten.
MOST_TOGETHER = 64
# Records beyond the bounds are taken out at most this often.
TIDY_EVERY_S = 10.0
BUSY_S = 5.0
# How long the end waits for what is still to be written.
END_S = 5.0


@dataclass
class Waiting:
    """A record on its way to the disk; ``done`` gets its sequence number."""

    record: Record
    picture: Picture | None
    replay: Replay | None
    done: "Future[int]" = field(default_factory=Future)

    @property
    def num_bytes(self) -> int:
        """What its image takes."""
        return len(self.picture.data) if self.picture else 0


COLUMNS = (
    "inspection_id, at, product, version, part_id, verdict, score, answer, idempotency_key, sequence, product_sequence"
)


class Journal:
    """The records of one service. ``num_lost``: those that the disk did not take."""

    def __init__(self, folder: Path, bounds: Bounds) -> None:
        self.path = folder / FILE
        self.bounds = bounds
        self.num_lost = 0
        self.on_written: Callable[[], None] = lambda: None
        self.trouble: str | None = None
        self._queue: queue.Queue[Waiting | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._tidied_at = 0.0
        self._bytes_waiting = 0
        self._lost_of: Counter[str] = Counter()
        # Of what is counted by who adds and by who writes.
        self._counting = threading.Lock()
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Begin to write. A folder that can't be used costs records, as a full disk does."""
        try:
            self._opened().close()
        except (sqlite3.Error, OSError, StoreUnusable) as error:
            self._tell_trouble(str(error))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write what waits, and end; a disk that hangs is not waited for."""
        with suppress(queue.Full):
            self._queue.put(None, timeout=END_S)
        self._thread.join(END_S)
        if self._lock is not None and not self._thread.is_alive():
            os.close(self._lock)
            self._lock = None

    def add(self, record: Record, picture: Picture | None = None, replay: Replay | None = None) -> "Future[int]":
        """Keep a record; never waits. What comes back gets its sequence number, or says why there is none."""
        with self._counting:
            if picture is not None and self._bytes_waiting + len(picture.data) > MOST_WAITING_BYTES:
                picture = None
            waiting = Waiting(record, picture, replay)
            self._bytes_waiting += waiting.num_bytes
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            self._fail([waiting], "too many records wait for the disk")
        return waiting.done

    def found(self, search: Search, *, most: int) -> list[Record]:
        """The newest records that match, the newest first. Raises StoreUnusable."""
        clause, given = search.clause()
        with self._reading() as database:
            rows = database.execute(
                f"SELECT {COLUMNS} FROM inspections WHERE {clause} ORDER BY sequence DESC LIMIT ?",  # noqa: S608  # ours
                (*given, most),
            )
            return [Record(*row) for row in rows]

    def after(self, sequence: int, *, most: int) -> list[Record]:
        """The records that follow, in order. Raises StoreUnusable."""
        with self._reading() as database:
            rows = database.execute(
                f"SELECT {COLUMNS} FROM inspections WHERE sequence > ? ORDER BY sequence LIMIT ?",  # noqa: S608  # ours
                (sequence, most),
            )
            return [Record(*row) for row in rows]

    def record(self, inspection_id: str) -> Record | None:
        """One record, None where it is not kept. Raises StoreUnusable."""
        return self._one("inspection_id", inspection_id)

    def replay(self, idempotency_key: str) -> Replay | None:
        """What the request that had this key was answered, if that is still known. Raises StoreUnusable."""
        with self._reading() as database:
            row = database.execute(
                "SELECT asked, answer FROM replays WHERE idempotency_key = ?", (idempotency_key,)
            ).fetchone()
        return Replay(*row) if row else None

    def picture(self, inspection_id: str) -> Picture | None:
        """The image of a record, where images are kept. Raises StoreUnusable."""
        with self._reading() as database:
            row = database.execute(
                "SELECT media_type, data FROM images WHERE inspection_id = ?", (inspection_id,)
            ).fetchone()
        return Picture(*row) if row else None

    def begin_sink(self, name: str) -> None:
        """Owe records to this sink from now on, if it is a new one. Raises StoreUnusable."""
        with self._changing() as database:
            database.execute(
                "INSERT OR IGNORE INTO sinks SELECT ?, last, last FROM (SELECT COALESCE(MAX(seq), 0) AS last "
                "FROM sqlite_sequence WHERE name = 'inspections')",
                (name,),
            )

    def forget_sinks(self, *, but: Sequence[str]) -> None:
        """Owe nothing any more to sinks that are not among these. Raises StoreUnusable."""
        with self._changing() as database:
            marks = ", ".join("?" * len(but))
            database.execute(f"DELETE FROM sinks WHERE name NOT IN ({marks})", tuple(but))  # noqa: S608  # marks

    def standing(self, sink: str) -> Standing:
        """How far a sink has come. Raises StoreUnusable."""
        with self._reading() as database:
            row = database.execute(
                "SELECT delivered, attempted, "
                "MAX(0, (SELECT COALESCE(MAX(sequence), 0) FROM inspections) - delivered), "
                "(SELECT id FROM identity) FROM sinks WHERE name = ?",
                (sink,),
            ).fetchone()
        if row is None:
            raise StoreUnusable(self.path, f"it knows no sink '{sink}'")
        return Standing(*row)

    def attempt(self, sink: str, sequence: int) -> None:
        """Note that records up to this one may have been sent. Raises StoreUnusable."""
        with self._changing() as database:
            database.execute("UPDATE sinks SET attempted = MAX(attempted, ?) WHERE name = ?", (sequence, sink))

    def deliver(self, sink: str, sequence: int) -> None:
        """Note that a sink has taken all records up to this one. Raises StoreUnusable."""
        with self._changing() as database:
            database.execute("UPDATE sinks SET delivered = ? WHERE name = ?", (sequence, sink))

    def _one(self, column: str, value: str) -> Record | None:
        with self._reading() as database:
            row = database.execute(
                f"SELECT {COLUMNS} FROM inspections WHERE {column} = ?",  # noqa: S608  # our own column
                (value,),
            ).fetchone()
        return Record(*row) if row else None

    def _opened(self) -> sqlite3.Connection:
        """The file, made if need be, to be written to. Raises StoreUnusable where another service writes to it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        database = sqlite3.connect(self.path, timeout=BUSY_S)
        database.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing by this; a machine that loses power may lose the last moments.
        database.execute("PRAGMA synchronous = NORMAL")
        if database.execute("PRAGMA user_version").fetchone() == (0,):
            database.executescript(SCHEMA)
            with database:
                known = "INSERT INTO identity SELECT ? WHERE NOT EXISTS (SELECT 1 FROM identity)"
                database.execute(known, (uuid4().hex[:12],))
            database.execute("PRAGMA user_version = 1")
        return database

    def _take_lock(self) -> None:
        """One service writes to a journal: two would send each other's results. The lock ends with the process."""
        if self._lock is not None:
            return
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise StoreUnusable(self.path, "another service keeps its records there; set GOODPART_LOCAL") from None
        self._lock = descriptor

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=BUSY_S)) as database:
                yield database
        except sqlite3.Error as error:
            raise StoreUnusable(self.path, str(error)) from error

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(self._opened()) as database, database:
                yield database
        except (sqlite3.Error, OSError) as error:
            raise StoreUnusable(self.path, str(error)) from error

    def _write(self) -> None:
        """Write what comes until the end is told."""
        database: sqlite3.Connection | None = None
        while (first := self._queue.get()) is not None:
            together, ends = self._together(first)
            try:
                database = database or self._opened()
                self._insert(database, together)
                self.trouble = None
                with suppress(sqlite3.Error):  # what is too much may go later
                    self._tidy(database)
            except Exception as error:  # noqa: BLE001  # whatever the disk says, the next record is tried again
                self._fail(together, str(error))
                if database is not None:
                    with suppress(sqlite3.Error):
                        database.close()
                    database = None
            if ends:
                break
        if database is not None:
            database.close()

    def _together(self, first: Waiting) -> tuple[list[Waiting], bool]:
        """All that waits by now, and whether the end was told."""
        together = [first]
        while len(together) < MOST_TOGETHER:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                return together, False
            if following is None:
                return together, True
            together.append(following)
        return together, False

    def _insert(self, database: sqlite3.Connection, together: Sequence[Waiting]) -> None:
        with self._counting:
            lost = dict(self._lost_of)
        gaps: dict[str, int] = {}
        with database:
            sequences = [self._insert_one(database, waiting, lost, gaps) for waiting in together]
        with self._counting:
            for product, number in gaps.items():
                self._lost_of[product] -= number
            self._bytes_waiting -= sum(waiting.num_bytes for waiting in together)
        for waiting, sequence in zip(together, sequences, strict=True):
            with suppress(InvalidStateError):  # nobody waits for it any more
                waiting.done.set_result(sequence)
        self.on_written()

    def _insert_one(
        self, database: sqlite3.Connection, waiting: Waiting, lost: dict[str, int], gaps: dict[str, int]
    ) -> int:
        """A record's sequence number; that of the record before, where its request was answered already.

        ``lost``: what was lost of each product, which leaves a gap in its numbers, so that who counts misses it; what
        got its gap goes from there to ``gaps``.
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
            replay = (record.idempotency_key, waiting.replay.asked, waiting.replay.answer)
            database.execute("INSERT OR REPLACE INTO replays VALUES (?, ?, ?)", replay)
        if waiting.picture is not None:
            picture = waiting.picture
            row = (record.inspection_id, picture.media_type, picture.data)
            database.execute("INSERT INTO images VALUES (?, ?, ?)", row)
        return int(cursor.lastrowid or 0)

    def _tidy(self, database: sqlite3.Connection) -> None:
        """Take out what is beyond the bounds, and not owed to a sink any more."""
        now = time.monotonic()
        if now - self._tidied_at < TIDY_EVERY_S:
            return
        self._tidied_at = now
        with database:
            (owed,) = database.execute("SELECT COALESCE(MIN(delivered), 9e18) FROM sinks").fetchone()
            (last,) = database.execute("SELECT COALESCE(MAX(sequence), 0) FROM inspections").fetchone()
            owed = max(owed, last - MOST_OWED)
            database.execute(
                "DELETE FROM replays WHERE rowid <= (SELECT COALESCE(MAX(rowid), 0) FROM replays) - ?", (MOST_REPLAYS,)
            )
            oldest = time.time() - self.bounds.days * 86_400
            database.execute(
                "DELETE FROM inspections WHERE sequence <= ? AND (sequence <= ? OR at < ?)",
                (owed, last - self.bounds.records, oldest),
            )
            database.execute("DELETE FROM images WHERE inspection_id NOT IN (SELECT inspection_id FROM inspections)")
            self._drop_images(database)

    def _drop_images(self, database: sqlite3.Connection) -> None:
        """The oldest images go until the others fit."""
        room = self.bounds.images_mb * 1e6
        rows = database.execute("SELECT rowid, LENGTH(data) FROM images ORDER BY rowid DESC").fetchall()
        for rowid, size in rows:
            room -= size
            if room < 0:
                database.execute("DELETE FROM images WHERE rowid <= ?", (rowid,))
                return

    def _fail(self, together: Sequence[Waiting], why: str) -> None:
        self._tell_trouble(why)
        with self._counting:
            self.num_lost += len(together)
            self._lost_of.update(waiting.record.product for waiting in together)
            self._bytes_waiting -= sum(waiting.num_bytes for waiting in together)
        for waiting in together:
            with suppress(InvalidStateError):  # nobody waits for it any more
                waiting.done.set_exception(StoreUnusable(self.path, why))

    def _tell_trouble(self, why: str) -> None:
        if self.trouble is None:
            log.error("records are lost", path=str(self.path), why=why)
        self.trouble = f"inspections are not recorded: {why}"
