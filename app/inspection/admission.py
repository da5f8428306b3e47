"""A limit on concurrent work, and the error beyond it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.errors import QueueFull


@dataclass
class ConcurrencyLimiter:
    """A number of slots. Used by the event loop alone, so the count needs no lock."""

    limit: int
    make_error: Callable[[], QueueFull]
    num_used: int = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Use one slot. Raises QueueFull where there is none."""
        if self.num_used >= self.limit:
            raise self.make_error()
        self.num_used += 1
        try:
            yield
        finally:
            self.num_used -= 1
