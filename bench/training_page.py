"""Writes the table of settings and the figures of adapting into docs/training.md."""

import json
from collections.abc import Iterator
from pathlib import Path

import marks
from adapt import table

from training.settings import known_settings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "training.md"
RESULTS = ROOT / "bench" / "results" / "adapt.json"


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(filled(PAGE.read_text()))


def filled(page: str) -> str:
    """The page with its tables as they must be."""
    page = marks.filled(page, "settings", "\n".join(settings()))
    return marks.filled(page, "adapt", table(json.loads(RESULTS.read_text())))


def settings() -> Iterator[str]:
    """A row a setting."""
    yield "| setting | default | what |"
    yield "| --- | --- | --- |"
    for setting in known_settings():
        default = "none" if setting.default is None else setting.default
        yield f"| `{setting.name}` | {default} | {setting.description} |"


if __name__ == "__main__":
    main()
