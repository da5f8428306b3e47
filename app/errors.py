"""What can be wrong with an image or a model.

GoodpartError
└── EngineError
    ├── ImageError
    │   ├── EmptyImage          no bytes
    │   ├── NotAnImage          bytes of no format that is accepted
    │   ├── TruncatedImage      an image whose data ends early or is damaged
    │   ├── ImageTooLarge       more pixels than the limit, judged by the header
    │   ├── TooManyFrames       an animation or a document of several pages
    │   ├── UnsupportedMode     colours that have no one meaning here (CMYK, half-transparent, 32-bit)
    │   ├── WrongBitDepth       another depth than the product was trained on
    │   └── InvalidInput        an image unlike those of the product: too dark, out of focus, of another size
    ├── Busy
    │   ├── QueueFull           as many images are being judged as may be
    │   └── DeadlinePassed      an image whose turn came too late
    └── ModelError
        ├── WorkerDied          the thread that ran the graphs ended
        ├── ExternalData        a graph whose weights lie outside its file
        ├── BadGraph            a graph that ONNX Runtime does not take
        ├── ProviderMissing     a device was asked for that is not there
        ├── RunFailed           a graph that ONNX Runtime could not run
        ├── NotFinite           a graph that answered NaN or infinity
        └── GoldenFailed        a version that judges otherwise here than where it was trained
"""

from collections.abc import Sequence

from model.bundle import GoodpartError


class EngineError(GoodpartError):
    """Root of the engine's errors."""


class ImageError(EngineError):
    """An image that can't be judged; the sender can mend it."""


class EmptyImage(ImageError):
    """No bytes."""

    def __init__(self) -> None:
        super().__init__("the image is empty (0 bytes)")


class NotAnImage(ImageError):
    """Bytes of no format that is accepted."""

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
        super().__init__(f"the image has {size}; the limit is {limit_px:,} in all")


class TooManyFrames(ImageError):
    """An animation or a document of several pages."""

    def __init__(self) -> None:
        super().__init__("the file holds more than one frame; send one image at a time")


class UnsupportedMode(ImageError):
    """Colours that have no one meaning here."""

    def __init__(self, *, what: str, remedy: str) -> None:
        super().__init__(f"{what} can't be judged: {remedy}")


class WrongBitDepth(ImageError):
    """Another depth than the product was trained on."""

    def __init__(self, *, depth_bits: int, white_level: int) -> None:
        super().__init__(
            f"the image has {depth_bits} bits a channel, which does not fit the product's white level of {white_level}"
        )


class InvalidInput(ImageError):
    """An image unlike those that the product was trained on; ``findings``: a sentence for each measure outside."""

    def __init__(self, findings: Sequence[str]) -> None:
        super().__init__(f"the image is unlike those of this product: {'; '.join(findings)}")


class Busy(EngineError):
    """More is asked than can be done; the sender can come again."""


class QueueFull(Busy):
    """As many images are being judged as may be. ``retry_after_s``: when there should be room."""

    def __init__(self, *, limit: int, retry_after_s: int) -> None:
        super().__init__(f"{limit} images are being judged already; come again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class DeadlinePassed(Busy):
    """An image whose turn came too late; it was not judged."""

    def __init__(self) -> None:
        super().__init__("the deadline passed before the image's turn came; it was not judged")


class ModelError(EngineError):
    """A model that can't be run; the sender of an image can't mend it."""


class WorkerDied(ModelError):
    """The thread that ran the graphs ended."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the inference worker ended: {why}")


class ExternalData(ModelError):
    """A graph whose weights lie outside its file."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} keeps weights outside its file, which is refused")


class BadGraph(ModelError):
    """A graph that ONNX Runtime does not take."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} can't be loaded: {why.splitlines()[0][:300]}")


class ProviderMissing(ModelError):
    """A device was asked for that is not there."""

    def __init__(self, *, asked: str, got: str) -> None:
        super().__init__(
            f"'{asked}' was asked for, but no such device runs here (ONNX Runtime was built for {got}); install "
            "goodpart[gpu] on a machine with an NVIDIA GPU, or ask for 'cpu'"
        )


class RunFailed(ModelError):
    """A graph that ONNX Runtime could not run: a full device, or inputs that it does not take."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the graphs can't be run: {why.splitlines()[0][:300]}")


class NotFinite(ModelError):
    """A graph that answered NaN or infinity."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} answered a score that is not a finite number")


class GoldenFailed(ModelError):
    """A version that judges otherwise here than where it was trained. ``difference``: on the absolute scale."""

    def __init__(self, name: str, *, difference: float, tolerance: float) -> None:
        super().__init__(
            f"{name} is judged otherwise here than in training: off by {difference:.3g}, {tolerance:.3g} is allowed"
        )
