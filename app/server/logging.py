"""Logs: one JSON object a line on standard error, or coloured lines for people. Uvicorn's own lines look the same.

A thread of its own writes them. Who reads them may stall, and a line that waits for its logs is a line that stops: what
does not fit into the queue is dropped.
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
MOST_WAITING = 10_000
LAST_WORDS_S = 1.0


class DroppingHandler(QueueHandler):
    """Hands records to the writing thread as they are, and drops them where that is too far behind."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record itself: it is formatted where it is written."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record, or drop it."""
        with suppress(Full):
            self.queue.put_nowait(record)


class Writer(QueueListener):
    """The writing thread. At the end it gets a moment for what is left, and is not waited for beyond that."""

    def stop(self) -> None:
        """Write what is left, if whoever reads it lets us."""
        with suppress(Full):
            self.enqueue_sentinel()
        if self._thread is not None:
            self._thread.join(LAST_WORDS_S)


def configure(log_format: LogFormat, *, level: str) -> None:
    """Let structlog and the standard library write through one handler."""
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
    waiting: Queue[logging.LogRecord] = Queue(MOST_WAITING)
    writer = Writer(waiting, handler)
    writer.start()
    atexit.register(writer.stop)
    root = logging.getLogger()
    root.handlers = [DroppingHandler(waiting)]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # the envelope tells of each request, with its ids
