"""Leaving without dropping anybody: not ready at once, still serving a while, then the rest in hand, then gone.

Whoever sends SIGTERM takes the service out of its list of addresses at the same time, not before: requests still come.
"""

import signal
import time
from dataclasses import dataclass
from types import FrameType

import uvicorn


@dataclass
class Leaving:
    """Whether the service is about to end. Written by the signal handler, read by ``/readyz``."""

    since: float | None = None

    @property
    def reason(self) -> str | None:
        """Why the service is not ready, None while it stays."""
        return None if self.since is None else "the service is shutting down"


class DrainingServer(uvicorn.Server):
    """Waits ``wait_s`` between SIGTERM and closing its door; a second signal cuts that short. Then it exits with 0."""

    def __init__(self, config: uvicorn.Config, *, leaving: Leaving, wait_s: float) -> None:
        super().__init__(config)
        self.leaving = leaving
        self.wait_s = wait_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the first SIGTERM; anything else ends the server as uvicorn does."""
        if sig == signal.SIGTERM and self.leaving.since is None:
            self.leaving.since = time.monotonic()
        elif sig == signal.SIGTERM:
            self.should_exit = True
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Whether it is time to go; asked ten times a second."""
        since = self.leaving.since
        is_over = since is not None and time.monotonic() - since >= self.wait_s
        return await super().on_tick(counter) or is_over
