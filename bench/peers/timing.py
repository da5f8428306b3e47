"""One process of the speed bench: open a candidate, judge the same images again and again, tell how long it took.

Each program ``run_*.py`` beside this file hands ``main`` its way of opening one; it alone imports a runtime, so that a
process has in memory what its candidate needs and no more. Programs of ours and of the peers share this clock.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# What is measured; the peers are exported for it.
SIZE_PX = 256
BATCHES = (1, 8)
MIN_RUNS = 3
WARM_UP_SHARE = 0.1  # of the time that is measured
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
# Decoded images (batch, height, width, 3) to maps of their size (batch, height, width) and scores (batch).
Judge = Callable[[Pixels], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Turn:
    """What one process measures. ``folder`` holds what is deployed, ``images`` is an .npy file of decoded images."""

    folder: Path
    form: str
    images: Path
    threads: int
    batch: int
    seconds: float

    def file(self, pattern: str) -> Path:
        """The one file of this kind that is deployed."""
        (found,) = self.folder.rglob(pattern)
        return found


class BadAnswer(Exception):
    """A candidate that did not answer with a map of the image's size and a score an image, all finite."""


def main(opened: Callable[[Turn], Judge]) -> None:
    """Open, judge once, then measure; one line of JSON on standard output."""
    turn = parse_turn()
    batches = endlessly(np.load(turn.images), turn.batch)
    judge = opened(turn)
    first = next(batches)
    check(judge(first), first)
    ready_at_s = time.monotonic()
    measure(judge, batches, seconds=WARM_UP_SHARE * turn.seconds, fewest=1)
    spent_ms = measure(judge, batches, seconds=turn.seconds, fewest=MIN_RUNS)
    print(json.dumps({"ready_at_s": ready_at_s, "spent_ms": spent_ms, "peak_mb": peak_mb()}))


def parse_turn() -> Turn:
    """Return the turn of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--form", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    return Turn(**vars(parser.parse_args()))


def endlessly(images: Pixels, size: int) -> Iterator[Pixels]:
    """Batches of the images, over and over."""
    whole = len(images) - len(images) % size
    return cycle([images[start : start + size] for start in range(0, whole, size)])


def check(answer: tuple[Floats, Floats], pixels: Pixels) -> None:
    """Raise BadAnswer for what is no judgement of these images."""
    maps, scores = answer
    if maps.shape != pixels.shape[:3] or scores.shape != pixels.shape[:1]:
        raise BadAnswer(f"maps {maps.shape} and scores {scores.shape} for images {pixels.shape}")
    if not (np.isfinite(maps).all() and np.isfinite(scores).all()):
        raise BadAnswer("not finite")


def measure(judge: Judge, batches: Iterator[Pixels], *, seconds: float, fewest: int) -> list[float]:
    """Return milliseconds of each run, for a minimum time and number of runs."""
    spent_ms: list[float] = []
    ends = time.monotonic() + seconds
    while len(spent_ms) < fewest or time.monotonic() < ends:
        pixels = next(batches)
        began = time.perf_counter()
        judge(pixels)
        spent_ms.append((time.perf_counter() - began) * 1000)
    return spent_ms


def peak_mb() -> float:
    """The most memory that this process has held; getrusage would count what started it too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return kib * 1024 / 1e6


def planes(pixels: Pixels) -> Floats:
    """Decoded images as the peers take them: (batch, 3, height, width) from 0 to 1."""
    values = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    values /= 255
    return values
