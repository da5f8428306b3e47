"""SIGTERM and Ctrl-C: a training ends between two steps, with what it has done kept."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from training.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Whether somebody asked the training to end; a second signal ends it at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def is_asked(self) -> bool:
        """Whether it was asked to end."""
        return self.signal is not None

    def check(self) -> None:
        """Raise Stopped where it was asked to end."""
        if self.signal is not None:
            raise Stopped(self.signal)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals meanwhile."""
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def note(number: int, _: FrameType | None) -> None:
            self.signal = signal.Signals(number)
            signal.signal(number, signal.SIG_DFL)

        for number in SIGNALS:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
