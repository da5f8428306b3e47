"""Errors of images, models, settings and commands.

GoodpartError
├── EngineError             an image that was not inspected; also overload and a passed deadline
│   ├── ImageError          an image that can't be inspected
│   ├── QueueFull           the limit of images in flight is reached
│   └── ModelError          a model that can't be loaded or run
│       └── RunFailed       a graph that ONNX Runtime can't run
├── SettingsError           settings, keys or a file that they name
└── CommandError            a command that can't go on
"""

from model.bundle import GoodpartError


class EngineError(GoodpartError):
    """Root of the engine's errors."""


class ImageError(EngineError):
    """An image that can't be inspected; the sender can fix it."""

    kind = "invalid-input"


class QueueFull(EngineError):
    """The limit of images in flight is reached. ``retry_after_s``: when to retry."""

    kind = "queue-full"

    def __init__(self, *, limit: int, retry_after_s: int) -> None:
        super().__init__(f"{limit} images are in flight, which is the limit; retry in {retry_after_s} s")
        self.retry_after_s = retry_after_s


def deadline_error() -> EngineError:
    """Return the error of an image whose deadline passed before it was inspected."""
    return EngineError("the deadline passed before the image was inspected", kind="deadline-passed")


class ModelError(EngineError):
    """A model that can't be loaded or run; the sender of an image can't fix it."""

    kind = "model-failed"


class RunFailed(ModelError):
    """A graph that ONNX Runtime can't run: a full device, or invalid inputs."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the graphs failed to run: {why.splitlines()[0][:300]}")


class SettingsError(GoodpartError):
    """A setting that is unknown or invalid, or an invalid file that a setting names."""

    kind = "bad-settings"


class CommandError(GoodpartError):
    """A command that can't start or go on."""

    kind = "command-failed"
