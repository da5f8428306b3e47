"""Connections that can't be held open for nothing: a head that does not arrive, and more of them than there may be."""

import asyncio
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True)
class ConnectionLimits:
    """How long a request's head may take, and how many connections may be open."""

    header_timeout_s: float
    most: int


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, within limits. What exceeds them is closed without an answer."""

    def __init__(self, *arguments: Any, limits: ConnectionLimits, **named: Any) -> None:  # noqa: ANN401  # uvicorn's own
        super().__init__(*arguments, **named)
        self._limits = limits
        self._clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        """A client has come."""
        super().connection_made(transport)
        # By port: where health has a port of its own, a crowd at the other one does not shut it out.
        if sum(getattr(other, "server", None) == self.server for other in self.connections) > self._limits.most:
            transport.close()
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        """Bytes have come; while they make no whole head, the clock runs."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE or self._is_answered_early():
            self._start_clock()
        else:
            self._stop_clock()

    def on_response_complete(self) -> None:
        """A request has its answer; what is still to come of its body is read, but not for ever."""
        super().on_response_complete()
        if self._is_answered_early():
            self._start_clock()

    def pause_writing(self) -> None:
        """The client does not read its answer; it can't do so for ever."""
        super().pause_writing()
        self._start_clock()

    def resume_writing(self) -> None:
        """The client reads on."""
        super().resume_writing()
        self._stop_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._stop_clock()
        super().connection_lost(exc)

    def _is_answered_early(self) -> bool:
        """Whether the client sends on although it has its answer. To hang up at once would lose the answer for it."""
        return self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE

    def _start_clock(self) -> None:
        if self._clock is None:
            self._clock = self.loop.call_later(self._limits.header_timeout_s, self.transport.abort)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
