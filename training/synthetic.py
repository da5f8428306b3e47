"""Defects of known kind put onto good parts: for golden images and sensitivity, never for the threshold."""

import io
from typing import Final

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

WHITE_8_BIT: Final = 255


def with_scratch(picture: Pillow.Image, *, generator: np.random.Generator) -> Pillow.Image:
    """An 8-bit image with a scratch: a bent line, brighter or darker than what it crosses.

    It is a third of the image long and a hundredth of it wide.
    """
    width, height = picture.size
    side = min(width, height)
    start = generator.uniform((0.2 * width, 0.2 * height), (0.8 * width, 0.8 * height))
    angle = generator.uniform(0, 2 * np.pi)
    bend = generator.normal(0, 0.15)
    points = [start]
    for _ in range(6):
        angle += bend
        points.append(points[-1] + side / 18 * np.array([np.cos(angle), np.sin(angle)]))
    tone = WHITE_8_BIT if np.asarray(picture.convert("L")).mean() < WHITE_8_BIT / 2 else 0
    scratched = picture.copy()
    ImageDraw.Draw(scratched).line(
        [tuple(point) for point in points],
        fill=tone if picture.mode == "L" else (tone,) * 3,
        width=max(2, side // 100),
        joint="curve",
    )
    return scratched


def as_png(picture: Pillow.Image) -> bytes:
    """The image as PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
