"""Who watches inspections as they are made: each gets the newest, and one that is too slow misses some."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from model.bundle import GoodpartError

# What waits for one watcher; the oldest goes first.
MOST_WAITING = 32
MOST_WATCHERS = 32


class TooManyWatchers(GoodpartError):
    """One more than are served at once."""

    def __init__(self) -> None:
        super().__init__(f"{MOST_WATCHERS} watch already")


class Live:
    """The watchers of one service. Only the event loop comes here."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[str]] = set()

    def tell(self, message: str) -> None:
        """Every watcher gets it."""
        for waiting in self._queues:
            if waiting.full():
                with suppress(asyncio.QueueEmpty):
                    waiting.get_nowait()
            waiting.put_nowait(message)

    @property
    def is_watched(self) -> bool:
        """Whether anybody watches."""
        return bool(self._queues)

    def check_room(self) -> None:
        """Raise TooManyWatchers where there is none."""
        if len(self._queues) >= MOST_WATCHERS:
            raise TooManyWatchers

    @asynccontextmanager
    async def watching(self) -> AsyncIterator["asyncio.Queue[str]"]:
        """What comes from now on."""
        waiting: asyncio.Queue[str] = asyncio.Queue(MOST_WAITING)
        self._queues.add(waiting)
        try:
            yield waiting
        finally:
            self._queues.discard(waiting)
