"""Writes the table of settings and the figures of adapting into docs/training.md."""

import json
from collections.abc import Iterator
from pathlib import Path

import marks
from adapt import table

from training.settings import list_settings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "training.md"
RESULTS = ROOT / "bench" / "results" / "adapt.json"


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(fill(PAGE.read_text()))


def fill(page: str) -> str:
    """Return the page with its current tables."""
    page = marks.fill(page, "settings", "\n".join(settings()))
    return marks.fill(page, "adapt", table(json.loads(RESULTS.read_text())))


def settings() -> Iterator[str]:
    """A row a setting."""
    yield "| setting | default | what |"
    yield "| --- | --- | --- |"
    for setting in list_settings():
        default = "none" if setting.default is None else setting.default
        yield f"| `{setting.name}` | {default} | {setting.description} |"


if __name__ == "__main__":
    main()
