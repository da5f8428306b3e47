"""Puts the tables of ``bench/results`` into ``docs/quality.md``, between the marks that name them."""

from pathlib import Path

import ablations
import marks
import quality

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "quality.md"


def tables() -> dict[str, str]:
    """Every table by the name of its mark."""
    measured = quality.read_rows(RESULTS / "quality.json")
    shipped = [row for row in measured if row["split"] == "shipped"]
    return {
        "published": quality.table(measured, split="published"),
        "shipped": quality.rates_table(shipped),
        "ablations": ablations.format_tables(quality.read_rows(RESULTS / "ablations.json")),
    }


def fill(page: str) -> str:
    """Return the page with every current table. Raises KeyError for a missing mark."""
    for name, table in tables().items():
        page = marks.fill(page, name, table)
    return page


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(fill(PAGE.read_text()))


if __name__ == "__main__":
    main()
