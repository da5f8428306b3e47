"""From the journal to a sink: every record, in order, at least once, whatever is killed or away meanwhile.

Each sink has a thread with an event loop of its own, so that one that hangs holds up no verdict and no other sink. A
record may have been sent before a kill and not noted as taken: it is sent again, and says so.
"""

import asyncio
import json
import threading
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, Self

import structlog

from app.records.journal import Journal, Record
from app.store.errors import StoreUnusable

log = structlog.stdlib.get_logger("goodpart.sinks")

MOST_TOGETHER = 64
# How long a sink that failed is left alone: at first, and at most.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
# How often the journal is looked at, whatever it says of itself.
LOOK_EVERY_S = 5.0


class SinkTrouble(Exception):  # as all our errors
    """A sink that did not take a message; it may later. ``retry_after_s``: when it wants to be asked again."""

    def __init__(self, why: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Message:
    """A record as it leaves. ``key`` is the same however often it is sent."""

    instance: str
    product: str
    sequence: int
    is_repeated: bool
    body: bytes

    @classmethod
    def of(cls, record: Record, *, instance: str, is_repeated: bool) -> Self:
        """The message of a record."""
        answer = json.loads(record.answer)
        answer.pop("heatmap", None)
        told = {
            "instance": instance,
            "sequence": record.product_sequence,
            "repeated": is_repeated,
            "at": datetime.fromtimestamp(record.at, UTC).isoformat(),
            **answer,
        }
        return cls(instance, record.product, record.product_sequence, is_repeated, json.dumps(told).encode())

    @property
    def key(self) -> str:
        """What names the record anywhere."""
        return f"{self.instance}/{self.product}/{self.sequence}"


class Connection(Protocol):
    """A sink that is reached."""

    async def send(self, message: Message) -> None:
        """Returns once the sink has taken it. Raises SinkTrouble."""


class Sink(Protocol):
    """Where results go."""

    @property
    def name(self) -> str:
        """Which one; what it is owed is kept under this name."""

    def connected(self) -> AbstractAsyncContextManager[Connection]:
        """A connection. Raises SinkTrouble, also later, from within."""


class Outbox:
    """Brings the records of a journal to one sink. ``trouble``: why it does not get on, None while it does."""

    def __init__(self, journal: Journal, sink: Sink, *, instance: str) -> None:
        self.journal = journal
        self.sink = sink
        self.instance = instance
        self.trouble: str | None = None
        self._loop = asyncio.new_event_loop()
        self._ends: asyncio.Task[None] | None = None
        self._written = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something new; from any thread."""
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._written.set)

    def stop(self) -> None:
        """End after the message that is under way; the rest waits in the journal."""
        if self._ends is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._ends.cancel)
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._deliver_on())
            except asyncio.CancelledError:
                return

    async def _deliver_on(self) -> None:
        """Deliver for ever; after trouble, again after a pause that grows."""
        self._ends = asyncio.current_task()
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await asyncio.to_thread(self.journal.begin_sink, self.sink.name)
                async with self.sink.connected() as connection:
                    while True:
                        if await self._deliver_some(connection):
                            pause_s = FIRST_PAUSE_S
            except (SinkTrouble, StoreUnusable, OSError) as error:
                self._note(str(error))
                asked_s = getattr(error, "retry_after_s", None)
                await asyncio.sleep(asked_s if asked_s is not None else pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _deliver_some(self, connection: Connection) -> bool:
        """Send what waits, in order, or wait until something does; whether anything was sent."""
        self._written.clear()
        standing = await asyncio.to_thread(self.journal.standing, self.sink.name)
        records = await asyncio.to_thread(self.journal.after, standing.delivered, most=MOST_TOGETHER)
        if not records:
            self._note(None)
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._written.wait()
            except TimeoutError:
                pass
            return False
        await asyncio.to_thread(self.journal.attempt, self.sink.name, records[-1].sequence)
        await self._send(connection, records, attempted=standing.attempted)
        self._note(None)
        return True

    async def _send(self, connection: Connection, records: Sequence[Record], *, attempted: int) -> None:
        """Send records in order, and note how far it came, whatever ends it."""
        last: int | None = None
        try:
            for record in records:
                message = Message.of(record, instance=self.instance, is_repeated=record.sequence <= attempted)
                await connection.send(message)
                last = record.sequence
        finally:
            if last is not None:
                self.journal.deliver(self.sink.name, last)

    def _note(self, trouble: str | None) -> None:
        if trouble is not None and self.trouble is None:
            log.warning("a sink does not take results", sink=self.sink.name, why=trouble)
        if trouble is None and self.trouble is not None:
            log.info("a sink takes results again", sink=self.sink.name)
        self.trouble = trouble
