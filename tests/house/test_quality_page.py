"""The figures in ``docs/quality.md`` are those that were measured."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = "import page; text = page.PAGE.read_text(); print(page.filled(text) == text)"


def test_the_tables_are_those_of_the_results():
    """In a process of its own: the bench's modules lie beside its programs."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT / "bench", capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True"], "run `python bench/page.py`"
