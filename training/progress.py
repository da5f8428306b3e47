"""What a person sees while a training runs: a bar a step on a terminal, plain lines elsewhere."""

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


class Narrator:
    """Tells of each step of a training on a console. ``interruption``: who asked it to end, if anybody."""

    def __init__(self, console: Console, interruption: Interruption | None = None) -> None:
        self.console = console
        self.interruption = interruption or Interruption()

    def is_stopped(self) -> bool:
        """Whether the training was asked to end, which the next piece of a step will do."""
        return self.interruption.is_asked

    @contextmanager
    def step(self, name: str, *, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
        """A step of ``total`` pieces. The value is called with how many more are done, and maybe a ``note``.

        It raises Stopped where the training was asked to end.
        """
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
        )
        self.interruption.check()
        lines = Lines(name, total=total, done=done, say=self.say)
        if not self.console.is_terminal:
            self.say(name)
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

    def say(self, line: str) -> None:
        """A line for people."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class Lines:
    """One step as lines of a log, a few a minute: how far, how long still."""

    def __init__(self, name: str, *, total: int, done: int, say: Callable[[str], None]) -> None:
        self.name = name
        self.total = total
        self.first = self.done = done
        self.say = say
        self.began = self.last = time.monotonic()

    def advance(self, pieces: int, note: str | None) -> None:
        """Count, and say so now and then."""
        self.done += pieces
        now = time.monotonic()
        if now - self.last < LINE_INTERVAL_S or self.done == self.first:
            return
        self.last = now
        left_s = (now - self.began) / (self.done - self.first) * (self.total - self.done)
        self.say(f"{self.name}: {self.done} of {self.total}, {left_s:.0f} s left{f', {note}' if note else ''}")
