"""What programs write into the docs is what the settings say and what was measured."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = "import {0}; text = {0}.PAGE.read_text(); print({0}.fill(text) == text)"


WRITERS = (
    *("page", "service_page", "training_page", "containers_page", "integration_page"),
    *("performance_page", "scale_page"),
)


@pytest.mark.parametrize("writer", WRITERS)
def test_the_tables_are_those_of_the_results(writer):
    """In a process of its own: the bench's modules lie beside its programs."""
    command = [sys.executable, "-c", PROGRAM.format(writer)]
    done = subprocess.run(command, cwd=ROOT / "bench", capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"], f"run `python bench/{writer}.py`"
