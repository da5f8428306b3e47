"""Pages in docs/ with tables that programs write, each between two marks that name it."""

import json
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def fill(page: str, name: str, table: str) -> str:
    """Return the page with this table between the marks of its name. Raises KeyError where they are missing."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    if not re.search(pattern, page, flags=re.DOTALL):
        raise KeyError(name)
    return re.sub(pattern, lambda match: f"{match[1]}{table}\n{match[2]}", page, flags=re.DOTALL)


def results(name: str) -> Any:  # noqa: ANN401  # JSON
    """What a program has measured."""
    return json.loads((RESULTS / f"{name}.json").read_text())
