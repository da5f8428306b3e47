"""Freed memory is returned to the system; otherwise each reload of a version increases the process's memory."""

import ctypes
from functools import cache


@cache
def _malloc_trim() -> "ctypes._FuncPointer | None":
    """Return the C library's function, or None; musl has none and needs none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def trim_malloc() -> None:
    """Return freed memory to the system. Takes milliseconds, so only loading threads call it."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
