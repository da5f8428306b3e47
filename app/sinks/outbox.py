"""The outbox of a sink: delivers every record of the journal, in order, at least once.

Each sink has a thread with its own event loop, so that a hanging sink blocks no verdict and no other sink. A record
that was sent before a crash and not marked as delivered is sent again, marked as repeated.
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
from app.history.records import DeliveryCursor, InspectionRecord

log = structlog.stdlib.get_logger("goodpart.sinks")

# Initial delay after a failure of a sink.
MIN_PAUSE_S = 0.5
# Defaults for network sinks: number of concurrent deliveries, and maximum delay between retries.
MAX_BATCH, MAX_PAUSE_S = 64, 30.0
# Maximum interval between two reads of the journal.
POLL_INTERVAL_S = 5.0


class DeliveryError(Exception):
    """A sink did not take a message; it is tried again. ``retry_after_s``: the sink's own request, or None."""

    def __init__(self, why: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Source:
    """The origin of results: the service's name and its journal's id. Numbers grow within a journal."""

    instance: str
    journal: str


@dataclass(frozen=True)
class Message:
    """A record to deliver. ``key`` is unique to the record, and the same when it is sent again."""

    key: str
    product: str
    body: bytes

    @classmethod
    def from_record(cls, record: InspectionRecord, *, source: Source, is_repeated: bool) -> Self:
        """Return the message of a record."""
        fields = {
            "instance": source.instance,
            "journal": source.journal,
            "sequence": record.product_sequence,
            "repeated": is_repeated,
            "at": datetime.fromtimestamp(record.at, UTC).isoformat(),
            **json.loads(record.answer),
        }
        return cls(record.inspection_id, record.product, json.dumps(fields).encode())


class Connection(Protocol):
    """A connection to a sink."""

    async def send(self, message: Message) -> None:
        """Return once the sink has taken the message. Raises DeliveryError."""

    async def wait_until_lost(self) -> None:
        """Raise DeliveryError once the connection is lost; else never return."""


class Sink(Protocol):
    """A destination of results."""

    @property
    def name(self) -> str:
        """The sink's name; its delivery cursor has the same."""

    @property
    def timeout_s(self) -> float:
        """The maximum time of one message."""

    @property
    def max_pause_s(self) -> float:
        """The maximum pause after repeated errors."""

    @property
    def max_batch(self) -> int:
        """The number of messages that are marked together; a crash may repeat so many."""

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        """Yield a connection. Raises DeliveryError, also later, from within."""


class Outbox:
    """Delivers the records of a journal to one sink. ``error``: last delivery error; None when healthy.

    ``backlog``: number of records not taken yet, at the last look.
    """

    def __init__(self, journal: Journal, sink: Sink, *, instance: str) -> None:
        self.journal = journal
        self.sink = sink
        self.instance = instance
        self.error: str | None = None
        self.backlog = 0
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._written = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)

    def start(self) -> None:
        """Start to deliver."""
        self._thread.start()

    def wake(self) -> None:
        """Signal new records; from any thread."""
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._written.set)

    def stop(self) -> None:
        """Stop; undelivered records stay in the journal."""
        if self._task is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)

    def join(self) -> None:
        """Wait for the thread, for at most 5 s."""
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._deliver_forever())
            except asyncio.CancelledError:
                return

    async def _deliver_forever(self) -> None:
        """Deliver for ever; after an error, retry with a growing pause."""
        self._task = asyncio.current_task()
        pause_s = MIN_PAUSE_S
        while True:
            try:
                await asyncio.to_thread(self.journal.cursors.register, self.sink.name)
                async with self.sink.connect() as connection:
                    while True:
                        if await self._deliver_batch(connection):
                            pause_s = MIN_PAUSE_S
            except Exception as error:  # noqa: BLE001  # every error is reported, and delivery is retried
                self._set_error(str(error) or type(error).__name__)
                await asyncio.sleep(max(pause_s, getattr(error, "retry_after_s", None) or 0.0))
                pause_s = min(2 * pause_s, self.sink.max_pause_s)

    async def _deliver_batch(self, connection: Connection) -> bool:
        """Send the waiting records in order, or wait for some; return whether any was sent."""
        self._written.clear()
        cursor = await asyncio.to_thread(self.journal.cursors.read, self.sink.name)
        records = await asyncio.to_thread(self.journal.read_after, cursor.delivered, limit=self.sink.max_batch)
        self.backlog = cursor.backlog
        if not records:
            self._set_error(None)
            await self._wait_for_records(connection)
            return False
        await asyncio.to_thread(self.journal.cursors.mark_attempted, self.sink.name, records[-1].sequence)
        await self._send(connection, records, cursor)
        self._set_error(None)
        return True

    async def _wait_for_records(self, connection: Connection) -> None:
        """Wait until there may be new records. Raises DeliveryError where the connection is lost."""
        written, lost = asyncio.ensure_future(self._written.wait()), asyncio.ensure_future(connection.wait_until_lost())
        try:
            await asyncio.wait({written, lost}, timeout=POLL_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                await lost
        finally:
            for task in (written, lost):
                task.cancel()
            await asyncio.gather(written, lost, return_exceptions=True)

    async def _send(self, connection: Connection, records: Sequence[InspectionRecord], cursor: DeliveryCursor) -> None:
        """Send records in order, and mark the accepted ones, also after an error."""
        last: int | None = None
        source = Source(self.instance, cursor.journal)
        try:
            for record in records:
                message = Message.from_record(record, source=source, is_repeated=record.sequence <= cursor.attempted)
                try:
                    async with asyncio.timeout(self.sink.timeout_s):
                        await connection.send(message)
                except TimeoutError:
                    raise DeliveryError(f"no confirmation within {self.sink.timeout_s:g} s") from None
                last = record.sequence
        finally:
            if last is not None:  # in a thread: a disk that hangs must not stop what the sink does meanwhile
                await asyncio.to_thread(self.journal.cursors.mark_delivered, self.sink.name, last)

    def _set_error(self, error: str | None) -> None:
        if error is not None and self.error is None:
            log.warning("delivery to a sink fails", sink=self.sink.name, why=error)
        if error is None and self.error is not None:
            log.info("delivery to a sink works again", sink=self.sink.name)
        self.error = error
