"""Retries of writes while object storage does not answer."""

from collections.abc import Callable
from time import monotonic, sleep

from app.store.files import Unreachable
from app.store.s3.breaker import CircuitBreaker

FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 15.0


def retry(write: Callable[[], None], *, for_s: float, breaker: CircuitBreaker) -> None:
    """Write; where the storage does not answer, again, with growing pauses, for this time. Raises OSError."""
    ends = monotonic() + for_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            write()
        except Unreachable:
            if monotonic() + pause_s > ends:
                raise
            sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
            breaker.allow_retry()
        else:
            return
