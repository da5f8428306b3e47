"""Pruning of a journal: what is beyond its bounds and was delivered to every sink is deleted."""

import sqlite3
import time

from app.history.records import RetentionPolicy

# Maximum number of responses stored for retries; clients usually retry soon.
MAX_REPLAYS = 1000
# Maximum number of undelivered results per sink; older ones are dropped to bound the disk space.
MAX_BACKLOG = 1_000_000


def prune(connection: sqlite3.Connection, policy: RetentionPolicy) -> None:
    """Delete what is beyond the policy, in one transaction. Raises sqlite3.Error."""
    with connection:
        connection.execute(
            "DELETE FROM replays WHERE rowid <= (SELECT COALESCE(MAX(rowid), 0) FROM replays) - ?", (MAX_REPLAYS,)
        )
        prune_records(connection, policy)
        prune_images(connection, policy)


def prune_records(connection: sqlite3.Connection, policy: RetentionPolicy) -> None:
    """Delete records beyond their number or age, with their images; but not what a sink is still owed."""
    (delivered,) = connection.execute("SELECT COALESCE(MIN(delivered), 9e18) FROM sinks").fetchone()
    (last,) = connection.execute("SELECT COALESCE(MAX(sequence), 0) FROM inspections").fetchone()
    oldest = time.time() - policy.days * 86_400
    connection.execute(
        "DELETE FROM inspections WHERE sequence <= ? AND (sequence <= ? OR at < ?)",
        (max(delivered, last - MAX_BACKLOG), last - policy.records, oldest),
    )
    connection.execute("DELETE FROM images WHERE inspection_id NOT IN (SELECT inspection_id FROM inspections)")


def prune_images(connection: sqlite3.Connection, policy: RetentionPolicy) -> None:
    """Delete the oldest images until the rest fits."""
    room = policy.images_mb * 1e6
    rows = connection.execute("SELECT rowid, LENGTH(data) FROM images ORDER BY rowid DESC").fetchall()
    for rowid, size in rows:
        room -= size
        if room < 0:
            connection.execute("DELETE FROM images WHERE rowid <= ?", (rowid,))
            return
