"""Limits on connections: their number, and the time that a request's head may take."""

import asyncio
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True)
class ConnectionLimits:
    """``header_timeout_s``: time for a request's head; ``max_connections``: number of open connections."""

    header_timeout_s: float
    max_connections: int


class LimitedProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1 protocol within limits. A connection beyond them is closed without an answer."""

    def __init__(self, *arguments: Any, limits: ConnectionLimits, **named: Any) -> None:  # noqa: ANN401  # uvicorn's own
        super().__init__(*arguments, **named)
        self._limits = limits
        self._timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        """Accept or close a new connection."""
        super().connection_made(transport)
        # Counted by port, so that connections to the main port can't block the health port.
        if (
            sum(getattr(other, "server", None) == self.server for other in self.connections)
            > self._limits.max_connections
        ):
            transport.close()
        self._start_timeout()

    def data_received(self, data: bytes) -> None:
        """Process bytes; the timeout runs until the head is complete."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE or self._is_answered_early():
            self._start_timeout()
        else:
            self._stop_timeout()

    def on_response_complete(self) -> None:
        """Start the timeout where a body is still arriving after its response."""
        super().on_response_complete()
        if self._is_answered_early():
            self._start_timeout()

    def pause_writing(self) -> None:
        """Start the timeout while the client does not read its response."""
        super().pause_writing()
        self._start_timeout()

    def resume_writing(self) -> None:
        """Stop the timeout once the client reads again."""
        super().resume_writing()
        self._stop_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timeout."""
        self._stop_timeout()
        super().connection_lost(exc)

    def _is_answered_early(self) -> bool:
        """Whether the client still sends its body after the response. Closing at once would lose the response."""
        return self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE

    def _start_timeout(self) -> None:
        if self._timeout is None:
            self._timeout = self.loop.call_later(self._limits.header_timeout_s, self.transport.abort)

    def _stop_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
