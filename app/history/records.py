"""What a journal keeps and is asked for."""

import json
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "ng"]
Keep = Literal["none", "ng", "all"]


@dataclass(frozen=True)
class Bounds:
    """How much is kept: records, days, and megabytes of images."""

    records: int = 10_000
    days: float = 30.0
    images_mb: float = 1000.0


@dataclass(frozen=True)
class Record:
    """One inspection as it was answered. ``answer``: the JSON of the answer without its heat-map.

    ``at``: seconds since 1970; ``idempotency_key``: the client's own name of the request, if it gave one.
    """

    inspection_id: str
    at: float
    product: str
    version: str
    part_id: str | None
    verdict: Verdict
    score: float
    answer: str
    idempotency_key: str | None = None
    sequence: int = 0
    product_sequence: int = 0


@dataclass(frozen=True)
class Picture:
    """An image as it came."""

    media_type: str
    data: bytes


@dataclass(frozen=True)
class Replay:
    """The whole answer to a request that its client may send again; ``asked``: what the request was."""

    asked: str
    answer: str


@dataclass(frozen=True)
class Search:
    """Which records: all that match every member that is given. ``since`` and ``until``: seconds since 1970."""

    product: str | None = None
    version: str | None = None
    part_id: str | None = None
    verdict: Verdict | None = None
    since: float | None = None
    until: float | None = None
    before: int | None = None

    def clause(self) -> tuple[str, list[object]]:
        """The condition, and what is asked by it."""
        tests = {
            "product = ?": self.product,
            "version = ?": self.version,
            "part_id = ?": self.part_id,
            "verdict = ?": self.verdict,
            "at >= ?": self.since,
            "at < ?": self.until,
            "sequence < ?": self.before,
        }
        given = {test: value for test, value in tests.items() if value is not None}
        return " AND ".join(given) or "1", list(given.values())


@dataclass(frozen=True)
class Standing:
    """How far a sink has come: the last record that it has taken, the last that it may have been sent.

    ``owed``: how many records follow what it has taken; ``journal``: what tells this journal from one in its place.
    """

    delivered: int
    attempted: int
    owed: int
    journal: str


def members(record: Record) -> dict[str, object]:
    """The answer of a record, with its numbers."""
    answer: dict[str, object] = json.loads(record.answer)
    return {"sequence": record.sequence, "product_sequence": record.product_sequence, "at": record.at, **answer}
