"""Graceful shutdown: report not ready, keep serving, finish requests in flight, exit.

An orchestrator removes the address and sends SIGTERM at the same time, so that requests still arrive.
"""

import signal
import time
from dataclasses import dataclass
from types import FrameType

import uvicorn


@dataclass
class ShutdownState:
    """Whether the service is shutting down. Written by the signal handler, read by ``/readyz``."""

    since: float | None = None

    @property
    def reason(self) -> str | None:
        """Why the service is not ready; None while it runs."""
        return None if self.since is None else "the service is shutting down"


class DrainingServer(uvicorn.Server):
    """Waits ``drain_s`` between SIGTERM and closing; a second signal ends the wait. Exits with 0."""

    def __init__(self, config: uvicorn.Config, *, shutdown_state: ShutdownState, drain_s: float) -> None:
        super().__init__(config)
        self.shutdown_state = shutdown_state
        self.drain_s = drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the first SIGTERM; every other signal ends the server as in uvicorn."""
        if sig == signal.SIGTERM and self.shutdown_state.since is None:
            self.shutdown_state.since = time.monotonic()
        elif sig == signal.SIGTERM:
            self.should_exit = True
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Whether to exit; called ten times a second."""
        since = self.shutdown_state.since
        is_over = since is not None and time.monotonic() - since >= self.drain_s
        return await super().on_tick(counter) or is_over
