"""The heat-map: the anomaly map over the posted image, coloured on one absolute scale, never per image."""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from app.imaging.decode import Box, Image

HeatmapKind = Literal["png", "overlay", "raw", "none"]

# Colours from normal to anomalous, evenly over RANGE: dark blue, blue, teal, yellow, orange, red; none is the colour of
# bare metal.
COLOURS = (
    (8, 12, 48),
    (24, 66, 140),
    (20, 142, 140),
    (240, 212, 60),
    (238, 96, 32),
    (196, 12, 44),
)
PALETTE = np.rint(
    [np.interp(np.arange(256), np.linspace(0, 255, len(COLOURS)), band) for band in zip(*COLOURS, strict=True)]
).T.astype(np.uint8)
# On the map's scale: 0 is the mean of good positions, 1 their spread.
RANGE = (0.0, 12.0)
MAX_SIDE_PX = 1024
OVERLAY_OPACITY = 0.55


@dataclass(frozen=True)
class Heatmap:
    """An encoded picture. ``range``: the values at the first and last colour, or at 0 and 65535 if raw."""

    media_type: str
    width: int
    height: int
    range: tuple[float, float]
    data: bytes


def render(map_: NDArray[np.float32], image: Image, *, kind: HeatmapKind) -> Heatmap | None:
    """Render the map (h, w) on the absolute scale as a PNG over the posted image, or None for ``none``.

    The longer side is at most ``MAX_SIDE_PX``.
    """
    if kind == "none":
        return None
    steps = 65535 if kind == "raw" else 255
    levels = resize_to_image(map_, image)
    levels -= RANGE[0]
    levels *= steps / (RANGE[1] - RANGE[0])
    np.rint(np.clip(levels, 0, steps, out=levels), out=levels)
    if kind == "raw":
        picture = Pillow.fromarray(levels.astype(np.uint16))
    elif kind == "png":
        # A palette image: a third of the bytes, and a ninth of the encoding time (docs/performance.md).
        picture = Pillow.fromarray(levels.astype(np.uint8))
        picture.putpalette(PALETTE.tobytes())
    else:
        picture = Pillow.fromarray(overlay(levels.astype(np.uint8), image))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return Heatmap("image/png", picture.width, picture.height, RANGE, buffer.getvalue())


def resize_to_image(map_: NDArray[np.float32], image: Image) -> NDArray[np.float32]:
    """Resize the map to the picture, without the padding around the image's content."""
    scale = min(1.0, MAX_SIDE_PX / max(image.width, image.height))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return enlarge(map_, image.content, canvas=image.pixels.shape[:2], size=size)


def enlarge(
    map_: NDArray[np.float32], content: Box, *, canvas: tuple[int, ...], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Interpolate the part of a map over ``content`` of a canvas (height, width) to ``size`` (width, height).

    Returns a new array.
    """
    step_y, step_x = canvas[0] / map_.shape[0], canvas[1] / map_.shape[1]
    box = (
        content.x / step_x,
        content.y / step_y,
        (content.x + content.width) / step_x,
        (content.y + content.height) / step_y,
    )
    grown = Pillow.fromarray(map_).resize(size, Pillow.Resampling.BILINEAR, box=box)
    return np.array(grown, dtype=np.float32)


def overlay(levels: NDArray[np.uint8], image: Image) -> NDArray[np.uint8]:
    """Blend the colours of levels (height, width) over the model's image; ordinary positions stay clear."""
    height, width = levels.shape
    box = image.content
    part = image.pixels[box.y : box.y + box.height, box.x : box.x + box.width]
    under = np.asarray(Pillow.fromarray(part).resize((width, height), Pillow.Resampling.BILINEAR), dtype=np.float32)
    opacity = (OVERLAY_OPACITY * np.clip(4 * np.linspace(0, 1, 256, dtype=np.float32), 0, 1))[levels][:, :, None]
    blended: NDArray[np.uint8] = np.rint(under * (1 - opacity) + PALETTE[levels] * opacity).astype(np.uint8)
    return blended
