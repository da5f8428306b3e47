"""Writes the table of settings and the figures of bench/results into docs/service.md."""

import json
from collections.abc import Iterator
from pathlib import Path

import marks
from pydantic_core import PydanticUndefined

from app.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "service.md"
RESULTS = ROOT / "bench" / "results"
WORDS = {
    "goodput_ratio": "goodput at three times the sustainable rate, of the peak",
    "refusal_p99_ms": "a refusal then, p99, ms",
    "livez_max_ms": "`/livez` then, the slowest, ms",
    "latest_answer_after_deadline_ms": "the latest answer after its deadline, ms",
    "recovery_s": "until 99 % are judged again, with retrying clients, s",
    "engine_ratio": "engine beside the same graphs run bare",
    "overhead_p50_ms": "the service's own work beside decoding and graphs, p50, ms",
    "overhead_p99_ms": "the same, p99, ms",
    "idle_livez_p50_ms": "for comparison: `/livez` on the idle service, p50, ms",
    "switch_failures": "failed requests in 100 version switches",
    "rss_growth_ratio": "memory after the last switch, of that after the tenth",
    "sustainable_per_s": "judged a second at most, one processor",
    "cpu_ms_per_request": "processor time a request, one client, all in all, ms",
    "cpu_ms_decode": "of it: decoding",
    "cpu_ms_inference": "of it: the three graphs",
    "cpu_ms_rest": "of it: all else (HTTP, threads, scores and regions, JSON, the log)",
    "broken_versions": "broken versions after 50 kills of a publisher",
    "publish_failed_requests": "failed requests meanwhile",
    "ready_again_s": "ready again after a kill of the service, s",
}

STORAGE_WORDS = {
    "versions": "versions trained and published",
    "taken_up": "of them taken up by the first and by the second service",
    "requests": "requests meanwhile, one client a service",
    "failed": "of them failed",
    "half": "versions that nobody published, or that gave one part two scores",
    "storage_away_s": "then the storage was away, s",
    "requests_while_away": "requests in that time, none of which failed",
    "requests_to_storage": "requests to the storage, all in all",
}


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(fill(PAGE.read_text()))


def fill(page: str) -> str:
    """Return the page with its current tables."""
    for name, lines in (("settings", settings()), ("load", figures()), ("object-store", storage())):
        page = marks.fill(page, name, "\n".join(lines))
    return page


def settings() -> Iterator[str]:
    """A row a setting."""
    yield "| variable | default | what |"
    yield "| --- | --- | --- |"
    for name, field in Settings.model_fields.items():
        default = "none" if field.default is None else field.default
        if field.default is PydanticUndefined:
            default = "the host's name" if name == "instance" else "the processors there are"
        yield f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |"


def figures() -> Iterator[str]:
    """A row a figure that was measured."""
    measured = {}
    for name in ("load.json", "kills.json"):
        if (RESULTS / name).exists():
            measured |= json.loads((RESULTS / name).read_text())
    yield "| what | figure |"
    yield "| --- | --- |"
    for key, words in WORDS.items():
        if key in measured:
            yield f"| {words} | {measured[key]:.3g} |"


def storage() -> Iterator[str]:
    """A row a figure of the store on object storage."""
    measured = json.loads((RESULTS / "object_store.json").read_text())
    yield "| what | figure |"
    yield "| --- | --- |"
    for key, words in STORAGE_WORDS.items():
        found = measured[key] if isinstance(measured[key], list) else [measured[key]]
        yield f"| {words} | {', '.join(f'{one:,}' for one in found)} |"


if __name__ == "__main__":
    main()
