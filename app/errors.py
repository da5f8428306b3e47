"""Errors of images and models.

GoodpartError
└── EngineError
    ├── ImageError
    │   ├── EmptyImage          no bytes
    │   ├── NotAnImage          bytes of no accepted format
    │   ├── TruncatedImage      an image whose data ends early or is damaged
    │   ├── ImageTooLarge       more pixels than the limit, judged by the header
    │   ├── TooManyFrames       an animation or a document of several pages
    │   ├── UnsupportedMode     colours without a defined conversion (CMYK, half-transparent, 32-bit)
    │   ├── WrongBitDepth       another bit depth than the product was trained on
    │   └── InvalidInput        an image unlike those of the product: too dark, out of focus, of another size
    ├── Busy
    │   ├── QueueFull           the limit of images in flight is reached
    │   └── DeadlinePassed      the deadline passed before the image was inspected
    └── ModelError
        ├── WorkerDied          the inference thread crashed
        ├── ExternalData        a graph whose weights lie outside its file
        ├── BadGraph            a graph that ONNX Runtime can't load
        ├── ProviderMissing     the requested device is missing
        ├── RunFailed           a graph that ONNX Runtime can't run
        ├── NotFinite           a graph returned NaN or infinity
        └── GoldenFailed        golden images give other results than in training
"""

from collections.abc import Sequence

from model.bundle import GoodpartError


class EngineError(GoodpartError):
    """Root of the engine's errors."""


class ImageError(EngineError):
    """An image that can't be inspected; the sender can fix it."""


class EmptyImage(ImageError):
    """No bytes."""

    def __init__(self) -> None:
        super().__init__("the image is empty (0 bytes)")


class NotAnImage(ImageError):
    """Bytes of no accepted format."""

    def __init__(self, *, formats: tuple[str, ...]) -> None:
        super().__init__(f"these bytes are not an image; accepted are {', '.join(formats)}")


class TruncatedImage(ImageError):
    """An image whose data ends early or is damaged."""

    def __init__(self, *, format_name: str, why: str) -> None:
        super().__init__(f"the {format_name} image is truncated or damaged: {why}")


class ImageTooLarge(ImageError):
    """More pixels than the limit, judged by the header before anything is decoded."""

    def __init__(self, *, limit_px: int, size_px: tuple[int, int] | None = None) -> None:
        size = f"{size_px[0]} x {size_px[1]} pixels" if size_px else "far more pixels"
        super().__init__(f"the image has {size}; the limit is {limit_px:,}")


class TooManyFrames(ImageError):
    """An animation or a document of several pages."""

    def __init__(self) -> None:
        super().__init__("the file holds more than one frame; send one image at a time")


class UnsupportedMode(ImageError):
    """Colours without a defined conversion: CMYK, half-transparent, 32-bit."""

    def __init__(self, *, what: str, remedy: str) -> None:
        super().__init__(f"{what} can't be inspected: {remedy}")


class WrongBitDepth(ImageError):
    """Another bit depth than the product was trained on."""

    def __init__(self, *, depth_bits: int, white_level: int) -> None:
        super().__init__(f"the image has {depth_bits} bits per channel, but the product's white level is {white_level}")


class InvalidInput(ImageError):
    """An image unlike those that the product was trained on; ``findings``: a sentence for each measure outside."""

    def __init__(self, findings: Sequence[str]) -> None:
        super().__init__(f"the image differs from the training images of this product: {'; '.join(findings)}")


class Busy(EngineError):
    """Overload; the client can retry."""


class QueueFull(Busy):
    """The limit of images in flight is reached. ``retry_after_s``: when to retry."""

    def __init__(self, *, limit: int, retry_after_s: int) -> None:
        super().__init__(f"{limit} images are in flight, which is the limit; retry in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class DeadlinePassed(Busy):
    """The deadline passed before the image was inspected."""

    def __init__(self) -> None:
        super().__init__("the deadline passed before the image was inspected")


class ModelError(EngineError):
    """A model that can't be run; the sender of an image can't fix it."""


class WorkerDied(ModelError):
    """The inference thread crashed."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the inference worker stopped: {why}")


class ExternalData(ModelError):
    """A graph whose weights lie outside its file."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} stores weights outside its file, which is not allowed")


class BadGraph(ModelError):
    """A graph that ONNX Runtime can't load."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} can't be loaded: {why.splitlines()[0][:300]}")


class ProviderMissing(ModelError):
    """The requested device is missing."""

    def __init__(self, *, asked: str, got: str) -> None:
        super().__init__(
            f"'{asked}' is not available (ONNX Runtime supports {got}); install "
            "goodpart[gpu] on a machine with an NVIDIA GPU, or use 'cpu'"
        )


class RunFailed(ModelError):
    """A graph that ONNX Runtime can't run: a full device, or invalid inputs."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the graphs failed to run: {why.splitlines()[0][:300]}")


class NotFinite(ModelError):
    """A graph returned NaN or infinity."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} returned a score that is not finite")


class GoldenFailed(ModelError):
    """Golden images give other results than in training. ``difference``: on the absolute scale."""

    def __init__(self, name: str, *, difference: float, tolerance: float) -> None:
        super().__init__(
            f"{name} differs from its result in training by {difference:.3g}; the tolerance is {tolerance:.3g}"
        )
