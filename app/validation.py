"""What is wrong with settings and requests, in one line."""

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError


def describe_error(error: ValidationError) -> str:
    """Return the first error with the dotted name of its field, if it has one."""
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


def suggest_name(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X?`` with the nearest known name; empty where none is near."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
