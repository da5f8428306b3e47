"""What programs write into the docs is what the settings say and what was measured."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# In a process of its own: the bench's modules lie beside its programs.
PROGRAM = """
import pages
for name, tables in pages.PAGES.items():
    text = (pages.DOCS / f"{name}.md").read_text()
    print(name, pages.fill(text, tables) == text)
"""


def test_the_tables_are_those_of_the_results():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT / "bench", capture_output=True, text=True, check=True)
    current = dict(line.split() for line in done.stdout.splitlines())
    assert len(current) == 7
    for name, is_current in current.items():
        assert is_current == "True", f"run `python bench/pages.py {name}`"
