"""The types of the journal."""

import json
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "ng"]
Keep = Literal["none", "ng", "all"]


@dataclass(frozen=True)
class RetentionPolicy:
    """How much is kept: number of records, days, and megabytes of images."""

    records: int = 10_000
    days: float = 30.0
    images_mb: float = 1000.0


@dataclass(frozen=True)
class InspectionRecord:
    """One answered inspection. ``answer``: the JSON of the answer without its heat-map.

    ``at``: seconds since 1970; ``idempotency_key``: hash of the client's key, if it sent one.
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
class StoredImage:
    """An image as it was posted."""

    media_type: str
    data: bytes


@dataclass(frozen=True)
class StoredAnswer:
    """The whole answer to a request with an idempotency key; ``fingerprint``: of the request."""

    fingerprint: str
    answer: str


@dataclass(frozen=True)
class Search:
    """A filter of records; every field that is set must match. ``since`` and ``until``: seconds since 1970."""

    product: str | None = None
    version: str | None = None
    part_id: str | None = None
    verdict: Verdict | None = None
    since: float | None = None
    until: float | None = None
    before: int | None = None


@dataclass(frozen=True)
class DeliveryCursor:
    """Delivery of a sink: the last record that it has taken, and the last that it may have been sent.

    ``backlog``: number of records that it has not taken; ``journal``: id of the journal.
    """

    delivered: int
    attempted: int
    backlog: int
    journal: str


def to_json_fields(record: InspectionRecord) -> dict[str, object]:
    """Return the answer of a record, with its numbers."""
    answer: dict[str, object] = json.loads(record.answer)
    return {"sequence": record.sequence, "product_sequence": record.product_sequence, "at": record.at, **answer}
