"""Server-sent events of live inspections. A slow subscriber misses the oldest events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from app.errors import EngineError

# Maximum number of events queued per subscriber; the oldest is dropped.
MAX_QUEUED_EVENTS = 32
MAX_SUBSCRIBERS = 32


class EventBroadcaster:
    """The subscribers of one service. Used by the event loop alone."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[str]] = set()

    def broadcast(self, message: str) -> None:
        """Send a message to every subscriber."""
        for waiting in self._queues:
            if waiting.full():
                with suppress(asyncio.QueueEmpty):
                    waiting.get_nowait()
            waiting.put_nowait(message)

    @property
    def has_subscribers(self) -> bool:
        """Whether there are subscribers."""
        return bool(self._queues)

    def check_capacity(self) -> None:
        """Raise EngineError at the limit."""
        if len(self._queues) >= MAX_SUBSCRIBERS:
            raise EngineError(
                f"{MAX_SUBSCRIBERS} subscribers are connected, which is the limit", kind="too-many-watchers"
            )

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator["asyncio.Queue[str]"]:
        """Yield a queue of the messages from now on."""
        waiting: asyncio.Queue[str] = asyncio.Queue(MAX_QUEUED_EVENTS)
        self._queues.add(waiting)
        try:
            yield waiting
        finally:
            self._queues.discard(waiting)
