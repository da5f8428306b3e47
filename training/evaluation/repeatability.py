"""Whether the same part gets the same answer when it lies a little beside, or light and noise change a little.

Each change is smaller than what a line can hold constant; a verdict that flips under it was a matter of luck.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow
from PIL import ImageChops, ImageEnhance

from app.inference.version import Version
from app.inspection.pipeline import inspect
from training.evaluation.sensitivity import pictures_of
from training.evaluation.synthetic import WHITE_8_BIT, as_png

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


def shifted(picture: Pillow.Image, _: np.random.Generator) -> Pillow.Image:
    """The part moved right and down; what leaves the image enters on the other side."""
    return ImageChops.offset(picture, SHIFT_PX, SHIFT_PX)


def brighter(picture: Pillow.Image, _: np.random.Generator) -> Pillow.Image:
    """A little more light."""
    return ImageEnhance.Brightness(picture).enhance(1 + LIGHT)


def darker(picture: Pillow.Image, _: np.random.Generator) -> Pillow.Image:
    """A little less light."""
    return ImageEnhance.Brightness(picture).enhance(1 - LIGHT)


def noisy(picture: Pillow.Image, generator: np.random.Generator) -> Pillow.Image:
    """The camera's noise."""
    pixels = np.asarray(picture, dtype=np.float64)
    noised = pixels + generator.normal(0, NOISE_LEVELS, pixels.shape)
    return Pillow.fromarray(np.clip(np.rint(noised), 0, WHITE_8_BIT).astype(np.uint8))


CHANGES: dict[str, Callable[[Pillow.Image, np.random.Generator], Pillow.Image]] = {
    f"moved by {SHIFT_PX} px": shifted,
    f"light + {LIGHT:.0%}": brighter,
    f"light - {LIGHT:.0%}": darker,
    f"noise of {NOISE_LEVELS:.0f} grey levels": noisy,
}


def repeatability(
    version: Version, parts: Sequence[bytes], *, seed: int, max_pixels: int, on_part: Callable[[int], None]
) -> tuple[Repeat, ...]:
    """Every change on some good parts; none where no part is grey or RGB of 8 bits."""
    generator = np.random.default_rng(seed)
    pictures = pictures_of(parts[:NUM_PARTS], max_pixels=max_pixels)
    if not pictures:
        return ()
    plain = [inspect(as_png(picture), version, max_pixels=max_pixels) for picture in pictures]
    repeats = []
    for name, change in CHANGES.items():
        again = [inspect(as_png(change(picture, generator)), version, max_pixels=max_pixels) for picture in pictures]
        off = np.array([one.score - other.score for one, other in zip(again, plain, strict=True)])
        flipped = sum(one.verdict != other.verdict for one, other in zip(again, plain, strict=True))
        repeats.append(Repeat(name, len(off), float(off.std()), float(np.abs(off).max()), flipped))
        on_part(len(pictures))
    return tuple(repeats)


def num_repeats(num_parts: int) -> int:
    """How many judgements are repeated, for the progress."""
    return len(CHANGES) * min(num_parts, NUM_PARTS)
