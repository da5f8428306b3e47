"""Writes the figures of ``bench/outbox.py`` and the registers of Modbus into docs/integration.md."""

import json
from collections.abc import Iterator
from pathlib import Path

import marks

from app.sinks.registers import MAP

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "integration.md"
RESULTS = ROOT / "bench" / "results" / "outbox.json"
WORDS = {
    "inspections": "parts judged",
    "kills": "kills of the service meanwhile",
    "broker_away": "times that the broker was away",
    "missing": "parts that did not arrive",
    "out_of_order": "out of order",
    "parts_twice": "parts with two sequence numbers",
    "duplicates": "sent twice",
    "unmarked": "of these not marked `repeated`",
    "p50_ratio": "latency with a sink by that without, median",
    "p99_ratio": "the same, p99",
    "p99_ms": "p99 with a sink, ms",
}


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(fill(PAGE.read_text()))


def fill(page: str) -> str:
    """Return the page with its current tables."""
    for name, lines in (("outbox", rows()), ("registers", registers())):
        page = marks.fill(page, name, "\n".join(lines))
    return page


def rows() -> Iterator[str]:
    """A row a figure."""
    measured = json.loads(RESULTS.read_text())
    yield "| what | figure |"
    yield "| --- | --- |"
    for key, words in WORDS.items():
        yield f"| {words} | {measured[key]:,} |"


def registers() -> Iterator[str]:
    """A row a register."""
    yield "| address | register | type | what |"
    yield "| --- | --- | --- | --- |"
    for one in MAP:
        last = one.address + one.num_words - 1
        span = f"{one.address}" if one.num_words == 1 else f"{one.address} to {last}"
        yield f"| {span} | `{one.name}` | {one.kind} | {one.meaning} |"


if __name__ == "__main__":
    main()
