"""Memory that was freed goes back to the system: else each version that was loaded and dropped leaves a trace."""

import ctypes
from functools import cache


@cache
def _malloc_trim() -> "ctypes._FuncPointer | None":
    """The C library's function, where it has one; musl's and others' have none and need none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Return what no object uses any more. Takes some milliseconds, so that loading threads call it, never the loop."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
