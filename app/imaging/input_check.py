"""The input check: whether an image resembles those that the product was trained on.

A covered lens, a failed lamp or a lens out of focus is not a defect of the part. Ranges are those seen in training,
widened (``training/data/input_ranges.py``); only gross faults lie outside.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.errors import ImageError
from app.imaging.decode import Image
from model.bundle import MEASURES, ExpectsRecord, MeasureName

Guard = Literal["refuse", "warn", "off"]


def measure(image: Image) -> dict[MeasureName, float]:
    """Measure an image: its size in pixels as posted, and grey levels (0 to 255) at the model's size."""
    box = image.content
    content = image.pixels[box.y : box.y + box.height, box.x : box.x + box.width]
    grey = content.mean(axis=2, dtype=np.float32)
    return {
        "width_px": float(image.width),
        "height_px": float(image.height),
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "sharpness": sharpness(grey),
    }


def sharpness(grey: NDArray[np.float32]) -> float:
    """The standard deviation of the Laplacian, in grey levels: the usual measure of focus (Pech-Pacheco, 2000)."""
    if min(grey.shape) < 3:
        return 0.0
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * inner).std())


def check_input(image: Image, expects: ExpectsRecord | None, guard: Guard) -> tuple[str, ...]:
    """Return warnings of measures outside their range. Raises ImageError where the guard is ``refuse``."""
    if expects is None or guard == "off":
        return ()
    findings = tuple(find_outside(image, expects))
    if findings and guard == "refuse":
        raise ImageError(
            f"the image differs from the training images of this product: {'; '.join(findings)}", kind="invalid-input"
        )
    return findings


def find_outside(image: Image, expects: ExpectsRecord) -> Iterator[str]:
    """Yield a sentence for each measure outside its range."""
    values = measure(image)
    for name in MEASURES:
        value, expected = values[name], getattr(expects, name)
        if not expected.low <= value <= expected.high:
            off = max(expected.low - value, value - expected.high)
            yield f"{name} is {value:.1f}, {off:.1f} outside of {expected.low:.1f} to {expected.high:.1f}"
