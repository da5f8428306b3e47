"""What a person sees while a training runs: a bar a step, plain lines where there is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Narrator:
    """Tells of each step of a training on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def step(self, name: str, *, total: int) -> Iterator[Callable[..., None]]:
        """A step of ``total`` pieces. The value is called with how many more are done, and maybe a ``note``."""
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
        )
        if not self.console.is_terminal:
            self.say(name)
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(name, total=total, note="")

            def advance(pieces: int, *, note: str | None = None) -> None:
                bar.update(task, advance=pieces)
                if note is not None:
                    bar.update(task, note=note)

            yield advance

    def say(self, line: str) -> None:
        """A line for people."""
        self.console.print(line, highlight=False, soft_wrap=True)
