"""Logging: one JSON object a line on standard error, or coloured lines. Uvicorn's own lines have the same form.

A thread writes them. Its reader may stall, and requests must not wait for the log: records beyond the queue are
dropped.
"""

import atexit
import logging
import sys
from contextlib import suppress
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue
from typing import Literal

import structlog

LogFormat = Literal["json", "console"]
MAX_QUEUED_RECORDS = 10_000
FLUSH_TIMEOUT_S = 1.0


class DroppingHandler(QueueHandler):
    """Queues records for the writing thread, and drops them where the queue is full."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return the record unchanged; the writing thread formats it."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record, or drop it."""
        with suppress(Full):
            self.queue.put_nowait(record)


class LogWriter(QueueListener):
    """The writing thread. ``stop`` waits at most ``FLUSH_TIMEOUT_S``."""

    def stop(self) -> None:
        """Write the queued records and stop."""
        with suppress(Full):
            self.enqueue_sentinel()
        if self._thread is not None:
            self._thread.join(FLUSH_TIMEOUT_S)


def configure_logging(log_format: LogFormat, *, level: str) -> None:
    """Make structlog and the standard library write through one handler."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if log_format == "console":
        last = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    waiting: Queue[logging.LogRecord] = Queue(MAX_QUEUED_RECORDS)
    writer = LogWriter(waiting, handler)
    writer.start()
    atexit.register(writer.stop)
    root = logging.getLogger()
    root.handlers = [DroppingHandler(waiting)]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # RequestContextMiddleware logs each request, with its ids
