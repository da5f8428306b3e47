"""What the turns of the speed bench come to: a row a candidate and setting."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from peers.candidates import Candidate


@dataclass(frozen=True)
class Setting:
    """How the candidates of one comparison run."""

    threads: int
    batch: int


@dataclass(frozen=True)
class Measured:
    """What one turn found. ``start_s``: from the start of its process to its first answer."""

    spent_ms: list[float]
    peak_mb: float
    start_s: float

    @property
    def p50_ms(self) -> float:
        """The median run."""
        return statistics.median(self.spent_ms)


@dataclass(frozen=True)
class Row:
    """One candidate in one setting, over all rounds. ``ratio``: its median to goodpart's in float32, round by round."""

    name: str
    form: str
    threads: int
    batch: int
    p50_ms: float
    p99_ms: float
    images_per_s: float
    peak_mb: float
    size_mb: float
    start_s: float
    ratio: float
    runs: int


def make_rows(candidates: Sequence[Candidate], setting: Setting, rounds: Sequence[Sequence[Measured]]) -> list[Row]:
    """Return a row a candidate. ``rounds``: in each, a turn a candidate; ratios refer to the first candidate."""
    reference, *_ = turns_of_each = list(zip(*rounds, strict=True))
    return [make_row(one, setting, turns, reference) for one, turns in zip(candidates, turns_of_each, strict=True)]


def make_row(one: Candidate, setting: Setting, turns: Sequence[Measured], reference: Sequence[Measured]) -> Row:
    """Return the figures of all its turns, one a round."""
    spent_ms = [spent for turn in turns for spent in turn.spent_ms]
    p50_ms = statistics.median(spent_ms)
    return Row(
        name=one.name,
        form=one.form,
        threads=setting.threads,
        batch=setting.batch,
        p50_ms=p50_ms,
        p99_ms=float(np.percentile(spent_ms, 99)),
        images_per_s=setting.batch * 1000 / p50_ms,
        peak_mb=statistics.median(turn.peak_mb for turn in turns),
        size_mb=one.size_mb(setting.batch),
        start_s=statistics.median(turn.start_s for turn in turns),
        ratio=statistics.median(mine.p50_ms / ours.p50_ms for mine, ours in zip(turns, reference, strict=True)),
        runs=len(spent_ms),
    )


def round_row(row: Row) -> dict[str, object]:
    """Round a row to its significant digits."""
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(row).items()}


def print_table(rows: Sequence[Row]) -> None:
    """A table a setting, the fastest first; ratios are to goodpart's float32."""
    heads = ("p50_ms", "p99_ms", "images_per_s", "ratio", "start_s", "peak_mb", "size_mb")
    last: Setting | None = None
    for row in rows:
        setting = Setting(row.threads, row.batch)
        if setting != last:
            print(f"\n{row.threads} thread(s), batch {row.batch}".ljust(53) + "".join(f"{head:>14}" for head in heads))
        figures = "".join(f"{getattr(row, head):>14.2f}" for head in heads)
        print(f"{row.name:<37} {row.form:<14}{figures}")
        last = setting
