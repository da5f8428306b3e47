"""The circuit breaker of object storage: after a failure, calls fail at once for some seconds."""

import errno
import time

from app.store.files import Unreachable

# Delay after the storage was unreachable; until then local copies are used immediately.
BACKOFF_S = 5.0


class CircuitBreaker:
    """``error``: why the storage can't be reached, or None while it answers."""

    def __init__(self) -> None:
        self.error: str | None = None
        self._retry_at = 0.0

    def check(self) -> None:
        """Raise Unreachable where the last call failed a moment ago."""
        if self.error is not None and time.monotonic() < self._retry_at:
            raise Unreachable(errno.EIO, self.error)

    def open(self, error: Exception) -> Unreachable:
        """Note a failure, and return the error of this call."""
        said = str(error).splitlines()
        self.error = f"the object storage does not answer: {said[0] if said else type(error).__name__}"
        self._retry_at = time.monotonic() + BACKOFF_S
        return Unreachable(errno.EIO, self.error)

    def close(self) -> None:
        """Note an answer."""
        self.error = None

    def allow_retry(self) -> None:
        """Let the next call try again at once."""
        self._retry_at = 0.0
