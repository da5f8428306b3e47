"""Progress of a training: a bar for each step on a terminal, plain lines elsewhere."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.errors import Stopped

# Where there is no terminal: seconds between two lines of one step.
LINE_INTERVAL_S = 10.0
# SIGTERM and Ctrl-C: a training ends between two steps, with what it has done kept.
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Whether the training should stop; a second signal ends it at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def is_requested(self) -> bool:
        """Whether a signal has requested the stop."""
        return self.signal is not None

    def check(self) -> None:
        """Raise Stopped if a stop is requested."""
        if self.signal is not None:
            raise Stopped(self.signal)

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handle the signals meanwhile."""
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


class ProgressReporter:
    """Reports the steps of a training on a console, and raises Stopped where ``interruption`` is requested."""

    def __init__(self, console: Console, interruption: Interruption | None = None) -> None:
        self.console = console
        self.interruption = interruption or Interruption()

    def is_stopping(self) -> bool:
        """Whether a stop is requested; the next advance raises Stopped."""
        return self.interruption.is_requested

    @contextmanager
    def step(self, name: str, *, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
        """A step of ``total`` pieces. Yields ``advance(pieces, note=None)``, which raises Stopped on request."""
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
        )
        self.interruption.check()
        lines = ProgressLines(name, total=total, done=done, print_line=self.print_line)
        if not self.console.is_terminal:
            self.print_line(name)
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(name, total=total, completed=done, note="")

            def advance(pieces: int, *, note: str | None = None) -> None:
                bar.update(task, advance=pieces)
                if note is not None:
                    bar.update(task, note=note)
                if not self.console.is_terminal:
                    lines.advance(pieces, note)
                self.interruption.check()

            yield advance

    def print_line(self, line: str) -> None:
        """Print a line."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class ProgressLines:
    """Reports one step as log lines, a few a minute: progress and remaining time."""

    def __init__(self, name: str, *, total: int, done: int, print_line: Callable[[str], None]) -> None:
        self.name = name
        self.total = total
        self.first = self.done = done
        self.print_line = print_line
        self.began = self.last = time.monotonic()

    def advance(self, pieces: int, note: str | None) -> None:
        """Count, and print from time to time."""
        self.done += pieces
        now = time.monotonic()
        if now - self.last < LINE_INTERVAL_S or self.done == self.first:
            return
        self.last = now
        left_s = (now - self.began) / (self.done - self.first) * (self.total - self.done)
        self.print_line(f"{self.name}: {self.done} of {self.total}, {left_s:.0f} s left{f', {note}' if note else ''}")
