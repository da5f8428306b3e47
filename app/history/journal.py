"""The journal of inspections: an SQLite file, bounded by number, age and size."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from app.history.cursors import DeliveryCursors
from app.history.database import JournalDatabase
from app.history.records import InspectionRecord, RetentionPolicy, Search, StoredAnswer, StoredImage
from app.history.writer import JournalWriter

if TYPE_CHECKING:
    from concurrent.futures import Future

COLUMNS = (
    "inspection_id, at, product, version, part_id, verdict, score, answer, idempotency_key, sequence, product_sequence"
)


class Journal:
    """The journal of one service: records can be added, read, and delivered by ``cursors``.

    ``on_written``: called by the writer's thread whenever records were written.
    """

    def __init__(
        self, folder: Path, retention: RetentionPolicy, *, on_written: Callable[[], None] = lambda: None
    ) -> None:
        self._database = JournalDatabase(folder)
        self._writer = JournalWriter(self._database, retention, on_written=on_written)
        self.cursors = DeliveryCursors(self._database)

    def __enter__(self) -> Self:
        """Start the writer."""
        self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write the queued records and stop."""
        self._writer.stop()

    @property
    def num_lost(self) -> int:
        """The number of records that could not be written."""
        return self._writer.num_lost

    @property
    def error(self) -> str | None:
        """Why records can't be written at present, or None."""
        return self._writer.error

    def add(
        self, record: InspectionRecord, picture: StoredImage | None = None, replay: StoredAnswer | None = None
    ) -> "Future[int]":
        """Queue a record without waiting. The future gets its sequence number, or the error."""
        return self._writer.add(record, picture, replay)

    def search(self, search: Search, *, limit: int) -> list[InspectionRecord]:
        """Return the matching records, newest first. Raises StoreUnusable."""
        clause, given = to_sql(search)
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT {COLUMNS} FROM inspections WHERE {clause} ORDER BY sequence DESC LIMIT ?",  # noqa: S608  # ours
                (*given, limit),
            )
            return [InspectionRecord(*row) for row in rows]

    def read_after(self, sequence: int, *, limit: int) -> list[InspectionRecord]:
        """Return the records after a sequence number, in order. Raises StoreUnusable."""
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT {COLUMNS} FROM inspections WHERE sequence > ? ORDER BY sequence LIMIT ?",  # noqa: S608  # ours
                (sequence, limit),
            )
            return [InspectionRecord(*row) for row in rows]

    def read_record(self, inspection_id: str) -> InspectionRecord | None:
        """Return one record, or None. Raises StoreUnusable."""
        return self._find_one("inspection_id", inspection_id)

    def read_replay(self, idempotency_key: str) -> StoredAnswer | None:
        """Return the answer to the request with this key, or None. Raises StoreUnusable."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT asked, answer FROM replays WHERE idempotency_key = ?", (idempotency_key,)
            ).fetchone()
        return StoredAnswer(*row) if row else None

    def read_image(self, inspection_id: str) -> StoredImage | None:
        """Return the image of a record, or None. Raises StoreUnusable."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT media_type, data FROM images WHERE inspection_id = ?", (inspection_id,)
            ).fetchone()
        return StoredImage(*row) if row else None

    def _find_one(self, column: str, value: str) -> InspectionRecord | None:
        with self._database.reading() as connection:
            row = connection.execute(
                f"SELECT {COLUMNS} FROM inspections WHERE {column} = ?",  # noqa: S608  # our own column
                (value,),
            ).fetchone()
        return InspectionRecord(*row) if row else None


def to_sql(search: Search) -> tuple[str, list[object]]:
    """Return the SQL condition of a search, and its parameters."""
    tests = {
        "product = ?": search.product,
        "version = ?": search.version,
        "part_id = ?": search.part_id,
        "verdict = ?": search.verdict,
        "at >= ?": search.since,
        "at < ?": search.until,
        "sequence < ?": search.before,
    }
    given = {test: value for test, value in tests.items() if value is not None}
    return " AND ".join(given) or "1", list(given.values())
