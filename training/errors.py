"""What can be wrong with a training's data and settings.

GoodpartError
└── TrainingError
    ├── NoImages            a folder without an image
    ├── MisplacedImages     images that would be ignored, or learned as good by mistake
    ├── OddSizes            a few images of another size than the rest
    ├── TooFewImages        fewer good images than it takes to learn, standardise and calibrate
    ├── BadImage            an image that can't be decoded, by file
    ├── BadSettings         settings that are unknown or don't fit together
    ├── BadWeights          a checkpoint that can't be had, read or used
    ├── ParityFailed        the exported graphs judge otherwise than the network
    ├── NotLearned          a loss that is not a number
    ├── DeviceMissing       CUDA was asked for and is not there
    ├── DiskTooSmall        more features than the disk has room for
    ├── OutOfMemory         more memory than there is
    ├── BadCheckpoint       a checkpoint that can't be read
    ├── AlreadyRunning      another training of the same data and settings
    ├── CanNotAdapt         a version that nothing can be added to, or images that it can't be adapted to
    └── Stopped             SIGTERM or Ctrl-C
"""

import signal
from collections.abc import Sequence
from pathlib import Path

from model.bundle import GoodpartError


class TrainingError(GoodpartError):
    """Root of the trainer's errors."""


class NoImages(TrainingError):
    """A folder without an image."""

    def __init__(self, folder: Path, *, suffixes: tuple[str, ...], below: Sequence[str] = ()) -> None:
        if not folder.exists():
            super().__init__(f"there is no folder {folder}")
            return
        hint = f"; its folders {', '.join(below[:3])} do: name the one with good parts" if below else ""
        super().__init__(f"{folder} holds no image ({', '.join(suffixes)}){hint}")


class MisplacedImages(TrainingError):
    """Images that would be ignored, or learned as good by mistake."""


class OddSizes(TrainingError):
    """A few images of another size than the rest. ``odd``: each with its width and height."""

    def __init__(self, *, odd: dict[Path, tuple[int, int]], usual: tuple[int, int]) -> None:
        self.odd = odd
        self.usual = usual
        some = ", ".join(f"{path.name} ({width} x {height})" for path, (width, height) in list(odd.items())[:3])
        super().__init__(
            f"{len(odd)} images are not {usual[0]} x {usual[1]} pixels like the rest: {some}; remove them, "
            "or use --skip-bad or --set allow_odd_sizes=true"
        )


class TooFewImages(TrainingError):
    """Fewer good images than it takes to learn, standardise and calibrate."""

    def __init__(self, *, found: int, needed: int) -> None:
        super().__init__(
            f"{found} different good images are too few: training requires at least {needed}, a promise of 1 % 500"
        )


class BadImage(TrainingError):
    """An image that can't be decoded, by file."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")


class BadSettings(TrainingError):
    """Settings that are unknown or don't fit together."""


class BadWeights(TrainingError):
    """A checkpoint that can't be had, read or used."""


class ParityFailed(TrainingError):
    """The exported graphs judge otherwise than the network."""

    def __init__(self, *, what: str, largest: float, tolerance: float) -> None:
        super().__init__(
            f"the exported graphs differ from the network: {what} by {largest:.2e}, more than {tolerance:.0e}"
        )


class NotLearned(TrainingError):
    """A loss that is not a number."""

    def __init__(self, *, step: int) -> None:
        super().__init__(f"the loss at step {step} is not a finite number; nothing was written")


class DeviceMissing(TrainingError):
    """CUDA was asked for and is not there."""

    def __init__(self) -> None:
        super().__init__("torch finds no CUDA device; set device to 'cpu' or 'auto'")


class DiskTooSmall(TrainingError):
    """More features than the disk has room for."""

    def __init__(self, folder: Path, *, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"the features take {needed_bytes / 2**30:.1f} GiB, and {folder} has {free_bytes / 2**30:.1f} GiB left; "
            "make room, or raise feature_memory_gib where there is more memory"
        )


class OutOfMemory(TrainingError):
    """More memory than there is."""

    def __init__(self, why: str) -> None:
        super().__init__(f"out of memory: {why}; lower feature_memory_gib, learning.batch_size or num_candidates")


class BadCheckpoint(TrainingError):
    """A checkpoint that can't be read."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} can't be read ({why}); train without --resume")


class AlreadyRunning(TrainingError):
    """Another training of the same data and settings."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"a training of these data and settings is already running: {folder} is locked")


class CanNotAdapt(TrainingError):
    """A version that nothing can be added to, or images that it can't be adapted to."""


class Stopped(TrainingError):
    """Stopped by SIGTERM or Ctrl-C. ``exit_code``: as the shell has it for a signal."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.exit_code = 128 + number
