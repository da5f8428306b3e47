"""From the journal to a sink: every record, in order, at least once, whatever is killed or away meanwhile.

Each sink has a thread with an event loop of its own, so that one that hangs holds up no verdict and no other sink. A
record may have been sent before a kill and not noted as taken: it is sent again, and says so.
"""

import asyncio
import json
import threading
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, Self

import structlog

from app.history.journal import Journal
from app.history.records import Record, Standing

log = structlog.stdlib.get_logger("goodpart.sinks")

# How long a sink that failed is left alone at first.
FIRST_PAUSE_S = 0.5
# What suits a peer over a network: so many at once, and after a while this long between two tries.
MOST_TOGETHER, LONGEST_PAUSE_S = 64, 30.0
# How often the journal is looked at, whatever it says of itself.
LOOK_EVERY_S = 5.0


class SinkTrouble(Exception):
    """A sink that did not take a message; it may later. ``retry_after_s``: when it wants to be asked again."""

    def __init__(self, why: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Source:
    """Whose results these are: the service, and its journal, within which numbers only grow."""

    instance: str
    journal: str


@dataclass(frozen=True)
class Message:
    """A record as it leaves. ``key`` is the same however often it is sent, and no other record's."""

    key: str
    product: str
    body: bytes

    @classmethod
    def of(cls, record: Record, *, source: Source, is_repeated: bool) -> Self:
        """The message of a record."""
        told = {
            "instance": source.instance,
            "journal": source.journal,
            "sequence": record.product_sequence,
            "repeated": is_repeated,
            "at": datetime.fromtimestamp(record.at, UTC).isoformat(),
            **json.loads(record.answer),
        }
        return cls(record.inspection_id, record.product, json.dumps(told).encode())


class Connection(Protocol):
    """A sink that is reached."""

    async def send(self, message: Message) -> None:
        """Returns once the sink has taken it. Raises SinkTrouble."""

    async def lost(self) -> None:
        """Raises SinkTrouble once the connection is lost; else never returns."""


class Sink(Protocol):
    """Where results go."""

    @property
    def name(self) -> str:
        """Which one; what it is owed is kept under this name."""

    @property
    def timeout_s(self) -> float:
        """How long one message may take."""

    @property
    def longest_pause_s(self) -> float:
        """How long it is left alone at most once it failed again and again."""

    @property
    def most_together(self) -> int:
        """How many messages are noted together as attempted, and as delivered: so many may be repeated by a kill."""

    def connected(self) -> AbstractAsyncContextManager[Connection]:
        """A connection. Raises SinkTrouble, also later, from within."""


class Outbox:
    """Brings the records of a journal to one sink. ``trouble``: why it does not get on, None while it does.

    ``num_owed``: how many records it has not taken yet, when that was looked at last.
    """

    def __init__(self, journal: Journal, sink: Sink, *, instance: str) -> None:
        self.journal = journal
        self.sink = sink
        self.instance = instance
        self.trouble: str | None = None
        self.num_owed = 0
        self._loop = asyncio.new_event_loop()
        self._ends: asyncio.Task[None] | None = None
        self._written = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something new; from any thread."""
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._written.set)

    def stop(self) -> None:
        """End; what is not delivered waits in the journal."""
        if self._ends is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ends.cancel)

    def join(self) -> None:
        """Wait for the end, not for ever."""
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
            except Exception as error:  # noqa: BLE001  # whatever it is, it is told, and tried again
                self._note(str(error) or type(error).__name__)
                await asyncio.sleep(max(pause_s, getattr(error, "retry_after_s", None) or 0.0))
                pause_s = min(2 * pause_s, self.sink.longest_pause_s)

    async def _deliver_some(self, connection: Connection) -> bool:
        """Send what waits, in order, or wait until something does; whether anything was sent."""
        self._written.clear()
        standing = await asyncio.to_thread(self.journal.standing, self.sink.name)
        records = await asyncio.to_thread(self.journal.after, standing.delivered, most=self.sink.most_together)
        self.num_owed = standing.owed
        if not records:
            self._note(None)
            await self._wait(connection)
            return False
        await asyncio.to_thread(self.journal.attempt, self.sink.name, records[-1].sequence)
        await self._send(connection, records, standing)
        self._note(None)
        return True

    async def _wait(self, connection: Connection) -> None:
        """Until there may be something new. Raises SinkTrouble where the connection is lost meanwhile."""
        written, lost = asyncio.ensure_future(self._written.wait()), asyncio.ensure_future(connection.lost())
        try:
            await asyncio.wait({written, lost}, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                await lost
        finally:
            for task in (written, lost):
                task.cancel()
            await asyncio.gather(written, lost, return_exceptions=True)

    async def _send(self, connection: Connection, records: Sequence[Record], standing: Standing) -> None:
        """Send records in order, and note how far it came, whatever ends it."""
        last: int | None = None
        source = Source(self.instance, standing.journal)
        try:
            for record in records:
                message = Message.of(record, source=source, is_repeated=record.sequence <= standing.attempted)
                try:
                    async with asyncio.timeout(self.sink.timeout_s):
                        await connection.send(message)
                except TimeoutError:
                    raise SinkTrouble(f"it did not take a result within {self.sink.timeout_s:g} s") from None
                last = record.sequence
        finally:
            if last is not None:  # in a thread: a disk that hangs must not stop what the sink does meanwhile
                await asyncio.to_thread(self.journal.deliver, self.sink.name, last)

    def _note(self, trouble: str | None) -> None:
        if trouble is not None and self.trouble is None:
            log.warning("a sink does not take results", sink=self.sink.name, why=trouble)
        if trouble is None and self.trouble is not None:
            log.info("a sink takes results again", sink=self.sink.name)
        self.trouble = trouble
