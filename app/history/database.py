"""The SQLite file of a journal: its tables, its lock, and connections to read and to write."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from app.store.errors import StoreUnusable
from app.store.locks import acquire_lock

FILE = "journal.db"
VERSION = 1
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
BUSY_TIMEOUT_S = 5.0


class JournalDatabase:
    """The file of one journal. One process writes to it at a time; any may read."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock: BinaryIO | None = None

    def open(self) -> sqlite3.Connection:
        """Open the file for writing and create it if needed.

        Raises sqlite3.Error, OSError, and StoreUnusable where another service writes to it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._acquire_lock()
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S)
        connection.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing; a power failure may lose the last moments.
        connection.execute("PRAGMA synchronous = NORMAL")
        if connection.execute("PRAGMA user_version").fetchone() == (0,):
            create_tables(connection)
        return connection

    def close(self) -> None:
        """Release the lock, so that another process may write."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that can't write. Raises StoreUnusable."""
        try:
            with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise StoreUnusable(self.path, str(error)) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction. Raises StoreUnusable."""
        try:
            with closing(self.open()) as connection, connection:
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise StoreUnusable(self.path, str(error)) from error

    def _acquire_lock(self) -> None:
        """Acquire the lock of the journal: two writers would send each other's results."""
        try:
            self._lock = self._lock or acquire_lock(self.path.with_suffix(".lock"))
        except BlockingIOError:
            raise StoreUnusable(self.path, "another service keeps its records there; set GOODPART_LOCAL") from None


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables, and the journal's identity unless there is one."""
    connection.executescript(SCHEMA)
    with connection:
        new = "INSERT INTO identity SELECT ? WHERE NOT EXISTS (SELECT 1 FROM identity)"
        connection.execute(new, (uuid4().hex[:12],))
    connection.execute(f"PRAGMA user_version = {VERSION}")
