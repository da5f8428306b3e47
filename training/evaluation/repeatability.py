"""Repeatability: whether small changes of position, light and noise change the result.

Each change is smaller than what a line can keep constant; a verdict that flips under it is not reliable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow
from PIL import ImageChops, ImageEnhance

from app.inference.version import Version
from app.inspection.pipeline import inspect
from training.evaluation.sensitivity import open_parts
from training.evaluation.synthetic import WHITE_8_BIT, to_png

NUM_PARTS = 12
SHIFT_PX = 2
LIGHT = 0.03
NOISE_LEVELS = 2.0


@dataclass(frozen=True)
class Repeat:
    """One change on several parts. ``largest``: change of a score; ``num_flipped``: verdicts that changed."""

    change: str
    num_parts: int
    spread: float
    largest: float
    num_flipped: int


def shift(picture: Pillow.Image, _: np.random.Generator) -> Pillow.Image:
    """Move the part right and down; what leaves the image enters on the other side."""
    return ImageChops.offset(picture, SHIFT_PX, SHIFT_PX)


def brighten(picture: Pillow.Image, _: np.random.Generator) -> Pillow.Image:
    """Add a little light."""
    return ImageEnhance.Brightness(picture).enhance(1 + LIGHT)


def darken(picture: Pillow.Image, _: np.random.Generator) -> Pillow.Image:
    """Remove a little light."""
    return ImageEnhance.Brightness(picture).enhance(1 - LIGHT)


def add_noise(picture: Pillow.Image, generator: np.random.Generator) -> Pillow.Image:
    """Add camera noise."""
    pixels = np.asarray(picture, dtype=np.float64)
    noised = pixels + generator.normal(0, NOISE_LEVELS, pixels.shape)
    return Pillow.fromarray(np.clip(np.rint(noised), 0, WHITE_8_BIT).astype(np.uint8))


CHANGES: dict[str, Callable[[Pillow.Image, np.random.Generator], Pillow.Image]] = {
    f"moved by {SHIFT_PX} px": shift,
    f"light + {LIGHT:.0%}": brighten,
    f"light - {LIGHT:.0%}": darken,
    f"noise of {NOISE_LEVELS:.0f} grey levels": add_noise,
}


def measure_repeatability(
    version: Version, parts: Sequence[bytes], *, seed: int, max_pixels: int, on_part: Callable[[int], None]
) -> tuple[Repeat, ...]:
    """Apply every change to some good parts; empty where no part is grey or RGB of 8 bits."""
    generator = np.random.default_rng(seed)
    pictures = open_parts(parts[:NUM_PARTS], max_pixels=max_pixels)
    if not pictures:
        return ()
    plain = [inspect(to_png(picture), version, max_pixels=max_pixels) for picture in pictures]
    repeats = []
    for name, change in CHANGES.items():
        again = [inspect(to_png(change(picture, generator)), version, max_pixels=max_pixels) for picture in pictures]
        off = np.array([one.score - other.score for one, other in zip(again, plain, strict=True)])
        flipped = sum(one.verdict != other.verdict for one, other in zip(again, plain, strict=True))
        repeats.append(Repeat(name, len(off), float(off.std()), float(np.abs(off).max()), flipped))
        on_part(len(pictures))
    return tuple(repeats)


def count_repeats(num_parts: int) -> int:
    """Return the number of repeated inspections, for the progress."""
    return len(CHANGES) * min(num_parts, NUM_PARTS)
