"""What can be wrong with the data of a training and on its machine. Wrong settings are a SettingsError of the app.

GoodpartError
└── TrainingError
    ├── BadImage            an image that can't be decoded, by file
    ├── BadCheckpoint       a checkpoint that can't be read
    ├── AlreadyRunning      another training of the same data and settings
    └── Stopped             SIGTERM or Ctrl-C
"""

import signal
from pathlib import Path

from model.bundle import GoodpartError


class TrainingError(GoodpartError):
    """Root of the trainer's errors."""

    kind = "training-failed"


class BadImage(TrainingError):
    """An image that can't be decoded, by file."""

    kind = "bad-image"

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")


class BadCheckpoint(TrainingError):
    """A checkpoint that can't be read."""

    kind = "bad-checkpoint"

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} can't be read ({why}); train without --resume")


class AlreadyRunning(TrainingError):
    """Another training of the same data and settings."""

    kind = "already-running"

    def __init__(self, folder: Path) -> None:
        super().__init__(f"a training of these data and settings is already running: {folder} is locked")


class Stopped(TrainingError):
    """Stopped by SIGTERM or Ctrl-C. ``exit_code``: as the shell has it for a signal."""

    kind = "stopped"

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.exit_code = 128 + number
