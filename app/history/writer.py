"""The writer of a journal: one thread, which writes the records that were queued.

A full or slow disk loses records, never verdicts; lost records are counted.
"""

import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from app.history.database import JournalDatabase
from app.history.records import InspectionRecord, RetentionPolicy, StoredAnswer, StoredImage
from app.history.retention import prune
from app.store.errors import StoreUnusable

log = structlog.stdlib.get_logger("goodpart.journal")

# Maximum queue to the disk: records, and bytes of their images. Images are dropped first.
MAX_QUEUED_RECORDS, MAX_QUEUED_IMAGE_BYTES = 1024, 64_000_000
# Maximum number of records per transaction: one transaction costs as much as ten.
MAX_BATCH_RECORDS = 64
# Minimum interval between two prunings.
PRUNE_INTERVAL_S = 10.0
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


class JournalWriter:
    """Writes records to a journal. ``num_lost``: records that could not be written; ``error``: why, or None."""

    def __init__(
        self, database: JournalDatabase, retention: RetentionPolicy, *, on_written: Callable[[], None]
    ) -> None:
        self.num_lost = 0
        self.error: str | None = None
        self._database = database
        self._retention = retention
        self._on_written = on_written
        self._queue: queue.Queue[PendingRecord | None] = queue.Queue(MAX_QUEUED_RECORDS)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._pruned_at = 0.0
        self._bytes_waiting = 0
        self._num_lost_by_product: Counter[str] = Counter()
        # Protects the counters shared by callers and the thread.
        self._count_lock = threading.Lock()

    def start(self) -> None:
        """Start the thread. An unusable folder loses records, as a full disk does."""
        try:
            self._database.open().close()
        except (sqlite3.Error, OSError, StoreUnusable) as error:
            self._report_error(str(error))
        self._thread.start()

    def stop(self) -> None:
        """Write the queued records and stop, within ``CLOSE_TIMEOUT_S``."""
        with suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_TIMEOUT_S)
        self._thread.join(CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._database.close()

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

    def _run(self) -> None:
        """Write queued records until the end."""
        connection: sqlite3.Connection | None = None
        while (first := self._queue.get()) is not None:
            together, ends = self._collect_batch(first)
            try:
                connection = connection or self._database.open()
                self._insert(connection, together)
                self.error = None
                with suppress(sqlite3.Error):  # what is too much may go later
                    self._prune(connection)
            except Exception as error:  # noqa: BLE001  # after any error the next record is tried
                self._drop_batch(together, str(error))
                if connection is not None:
                    with suppress(sqlite3.Error):
                        connection.close()
                    connection = None
            if ends:
                break
        if connection is not None:
            connection.close()

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

    def _insert(self, connection: sqlite3.Connection, together: Sequence[PendingRecord]) -> None:
        with self._count_lock:
            lost = dict(self._num_lost_by_product)
        gaps: dict[str, int] = {}
        with connection:
            sequences = [insert_record(connection, waiting, lost, gaps) for waiting in together]
        with self._count_lock:
            for product, number in gaps.items():
                self._num_lost_by_product[product] -= number
            self._bytes_waiting -= sum(waiting.num_bytes for waiting in together)
        for waiting, sequence in zip(together, sequences, strict=True):
            with suppress(InvalidStateError):  # the caller has given up waiting
                waiting.done.set_result(sequence)
        self._on_written()

    def _prune(self, connection: sqlite3.Connection) -> None:
        """Prune the journal from time to time."""
        now = time.monotonic()
        if now - self._pruned_at >= PRUNE_INTERVAL_S:
            self._pruned_at = now
            prune(connection, self._retention)

    def _drop_batch(self, together: Sequence[PendingRecord], why: str) -> None:
        self._report_error(why)
        with self._count_lock:
            self.num_lost += len(together)
            self._num_lost_by_product.update(waiting.record.product for waiting in together)
            self._bytes_waiting -= sum(waiting.num_bytes for waiting in together)
        for waiting in together:
            with suppress(InvalidStateError):  # the caller has given up waiting
                waiting.done.set_exception(StoreUnusable(self._database.path, why))

    def _report_error(self, why: str) -> None:
        if self.error is None:
            log.error("records are lost", path=str(self._database.path), why=why)
        self.error = f"inspections are not recorded: {why}"


def insert_record(
    connection: sqlite3.Connection, waiting: PendingRecord, lost: dict[str, int], gaps: dict[str, int]
) -> int:
    """Return a record's sequence number; that of the earlier record where its request was answered already.

    ``lost``: number of lost records by product, which leave a gap in the product's numbers, so that a client
    notices; the gaps that were inserted are added to ``gaps``.
    """
    record = waiting.record
    if record.idempotency_key is not None:
        before = connection.execute(
            "SELECT sequence FROM inspections WHERE idempotency_key = ?", (record.idempotency_key,)
        ).fetchone()
        if before is not None:
            return int(before[0])
    gap = lost.pop(record.product, 0)
    gaps[record.product] = gaps.get(record.product, 0) + gap
    step = 1 + gap
    (number,) = connection.execute(
        "INSERT INTO counters VALUES (?, ?) ON CONFLICT (product) DO UPDATE SET last = last + ? RETURNING last",
        (record.product, step, step),
    ).fetchone()
    cursor = connection.execute(
        "INSERT INTO inspections (inspection_id, at, product, product_sequence, version, part_id, verdict, score, "
        "answer, idempotency_key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.inspection_id, record.at, record.product, number, record.version, record.part_id,
            record.verdict, record.score, record.answer, record.idempotency_key,
        ),
    )  # fmt: skip
    if waiting.replay is not None and record.idempotency_key is not None:
        replay = (record.idempotency_key, waiting.replay.fingerprint, waiting.replay.answer)
        connection.execute("INSERT OR REPLACE INTO replays VALUES (?, ?, ?)", replay)
    if waiting.picture is not None:
        picture = waiting.picture
        row = (record.inspection_id, picture.media_type, picture.data)
        connection.execute("INSERT INTO images VALUES (?, ?, ?)", row)
    return int(cursor.lastrowid or 0)
