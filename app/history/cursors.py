"""Delivery cursors: how far each sink has taken the records of a journal."""

from collections.abc import Sequence

from app.history.database import JournalDatabase
from app.history.records import DeliveryCursor
from app.store.errors import StoreUnusable


class DeliveryCursors:
    """The cursors of all sinks of one journal."""

    def __init__(self, database: JournalDatabase) -> None:
        self._database = database

    def register(self, sink: str) -> None:
        """Start a delivery cursor for a new sink at the current end. Raises StoreUnusable."""
        with self._database.writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO sinks SELECT ?, last, last FROM (SELECT COALESCE(MAX(seq), 0) AS last "
                "FROM sqlite_sequence WHERE name = 'inspections')",
                (sink,),
            )

    def remove_others(self, *, keep: Sequence[str]) -> None:
        """Remove the cursors of all sinks but these. Raises StoreUnusable."""
        with self._database.writing() as connection:
            marks = ", ".join("?" * len(keep))
            connection.execute(f"DELETE FROM sinks WHERE name NOT IN ({marks})", tuple(keep))  # noqa: S608  # marks

    def read(self, sink: str) -> DeliveryCursor:
        """Return the delivery cursor of a sink. Raises StoreUnusable."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT delivered, attempted, "
                "MAX(0, (SELECT COALESCE(MAX(sequence), 0) FROM inspections) - delivered), "
                "(SELECT id FROM identity) FROM sinks WHERE name = ?",
                (sink,),
            ).fetchone()
        if row is None:
            raise StoreUnusable(self._database.path, f"it knows no sink '{sink}'")
        return DeliveryCursor(*row)

    def mark_attempted(self, sink: str, sequence: int) -> None:
        """Note that records up to this one may have been sent. Raises StoreUnusable."""
        with self._database.writing() as connection:
            connection.execute("UPDATE sinks SET attempted = MAX(attempted, ?) WHERE name = ?", (sequence, sink))

    def mark_delivered(self, sink: str, sequence: int) -> None:
        """Note that a sink has taken all records up to this one. Raises StoreUnusable."""
        with self._database.writing() as connection:
            connection.execute("UPDATE sinks SET delivered = ? WHERE name = ?", (sequence, sink))
