"""Places: how many of something may be in hand at once, and what who comes too many is told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.errors import QueueFull


@dataclass
class Places:
    """So many places. Only the event loop comes here, so the count needs no lock."""

    limit: int
    refusal: Callable[[], QueueFull]
    num_taken: int = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """One place more; raises QueueFull where there is none."""
        if self.num_taken >= self.limit:
            raise self.refusal()
        self.num_taken += 1
        try:
            yield
        finally:
            self.num_taken -= 1
