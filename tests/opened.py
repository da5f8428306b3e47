"""How often files are opened, by an audit hook."""

import os
import sys
from collections import Counter
from contextlib import contextmanager
from functools import cache
from pathlib import Path

# The folders that are watched now, each with its counter.
WATCHED = []


def count(event, arguments):
    if event == "open" and WATCHED and isinstance(arguments[0], str | bytes):
        path = Path(os.fsdecode(arguments[0]))
        for folder, opened in WATCHED:
            if path.is_relative_to(folder):
                opened[path] += 1


@cache
def install_hook():
    """Once: Python can't remove an audit hook."""
    sys.addaudithook(count)


@contextmanager
def count_opened(folder):
    """Count how often this process opens each file below a folder meanwhile."""
    install_hook()
    entry = (folder, Counter())
    WATCHED.append(entry)
    try:
        yield entry[1]
    finally:
        WATCHED.remove(entry)
