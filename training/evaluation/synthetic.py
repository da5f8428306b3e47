"""Synthetic defects of known kind, size and contrast on good parts: for golden images and sensitivity.

Each is a mask and its content, blended into the part by the contrast.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFilter

WHITE_8_BIT: Final = 255
Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]
# Scratches bend a little; this many straight pieces make one.
NUM_PIECES = 6
# Bounds of random defects: share of the image, and opacity.
MIN_AREA, MAX_AREA, MIN_CONTRAST = 2e-4, 0.1, 0.3
# At least this share of a defect must lie where the part is inspected; so many places are tried for it.
MIN_INSIDE_SHARE, MAX_TRIES = 0.5, 50


@dataclass(frozen=True)
class Defect:
    """What to put onto a part. ``size``: its extent as a share of the shorter side; ``contrast``: 1 hides the part."""

    kind: str
    size: float
    contrast: float


def add_defect(picture: Pillow.Image, defect: Defect, *, generator: np.random.Generator) -> tuple[Pillow.Image, Mask]:
    """Add a defect at a random place of an 8-bit image, L or RGB; return image and mask. Raises KeyError."""
    pixels = np.asarray(picture, dtype=np.float32)
    extent = max(2, round(defect.size * min(picture.size)))
    mask, put = KINDS[defect.kind](picture, extent, generator)
    opacity = np.float32(defect.contrast) * mask.astype(np.float32)
    if pixels.ndim == 3:
        opacity = opacity[:, :, None]
    blended = pixels * (1 - opacity) + put * opacity
    return Pillow.fromarray(np.rint(blended).astype(np.uint8)), mask


def make_scratch(picture: Pillow.Image, extent: int, generator: np.random.Generator) -> tuple[Mask, Pixels]:
    """Return a bent line a tenth as wide as it is long, brighter or darker than what it crosses."""
    point = np.array(generator.uniform(0.2, 0.8, 2)) * picture.size
    angle, bend = generator.uniform(0, 2 * np.pi), generator.normal(0, 0.15)
    points = [tuple(point)]
    for _ in range(NUM_PIECES):
        angle += bend
        point = point + extent / NUM_PIECES * np.array([np.cos(angle), np.sin(angle)])
        points.append(tuple(point))
    canvas = Pillow.new("1", picture.size)
    ImageDraw.Draw(canvas).line(points, fill=1, width=max(1, round(extent / 10)), joint="curve")
    mask = np.asarray(canvas)
    return mask, fill_contrasting(picture, mask)


def make_spot(picture: Pillow.Image, extent: int, generator: np.random.Generator) -> tuple[Mask, Pixels]:
    """Return a disc, brighter or darker than what it covers."""
    left, top = choose_corner(picture, extent, generator)
    canvas = Pillow.new("1", picture.size)
    ImageDraw.Draw(canvas).ellipse((left, top, left + extent - 1, top + extent - 1), fill=1)
    mask = np.asarray(canvas)
    return mask, fill_contrasting(picture, mask)


def make_pasted_patch(picture: Pillow.Image, extent: int, generator: np.random.Generator) -> tuple[Mask, Pixels]:
    """Return a square of the part itself, turned by a right angle, from another place (CutPaste, Li et al., 2021)."""
    left, top = choose_corner(picture, extent, generator)
    from_left, from_top = choose_corner(picture, extent, generator)
    piece = picture.crop((from_left, from_top, from_left + extent, from_top + extent)).transpose(
        Pillow.Transpose.ROTATE_90
    )
    put = picture.copy()
    put.paste(piece, (left, top))
    return make_square(picture, left, top, extent), np.asarray(put, dtype=np.float32)


def make_texture_patch(picture: Pillow.Image, extent: int, generator: np.random.Generator) -> tuple[Mask, Pixels]:
    """Return a square with shuffled pixels: the same colours in another texture."""
    left, top = choose_corner(picture, extent, generator)
    put = np.asarray(picture, dtype=np.float32).copy()
    piece = put[top : top + extent, left : left + extent]
    flat = piece.reshape(-1, *piece.shape[2:])
    put[top : top + extent, left : left + extent] = generator.permutation(flat).reshape(piece.shape)
    return make_square(picture, left, top, extent), put


def make_missing_area(picture: Pillow.Image, extent: int, generator: np.random.Generator) -> tuple[Mask, Pixels]:
    """Return a square without its content: the part blurred over three times its extent."""
    left, top = choose_corner(picture, extent, generator)
    blurred = picture.filter(ImageFilter.GaussianBlur(1.5 * extent))
    return make_square(picture, left, top, extent), np.asarray(blurred, dtype=np.float32)


KINDS: Final[dict[str, Callable[[Pillow.Image, int, np.random.Generator], tuple[Mask, Pixels]]]] = {
    "scratch": make_scratch,
    "spot": make_spot,
    "pasted patch": make_pasted_patch,
    "texture patch": make_texture_patch,
    "missing area": make_missing_area,
}


def choose_corner(picture: Pillow.Image, extent: int, generator: np.random.Generator) -> tuple[int, int]:
    """Return the upper left corner of a random square in the image."""
    width, height = picture.size
    return int(generator.integers(0, max(1, width - extent))), int(generator.integers(0, max(1, height - extent)))


def make_square(picture: Pillow.Image, left: int, top: int, extent: int) -> Mask:
    """Return a square's mask."""
    mask = np.zeros((picture.height, picture.width), dtype=bool)
    mask[top : top + extent, left : left + extent] = True
    return mask


def fill_contrasting(picture: Pillow.Image, mask: Mask) -> Pixels:
    """Return white where the covered pixels are dark on average, else black."""
    covered = np.asarray(picture.convert("L"))[mask]
    tone = WHITE_8_BIT if len(covered) and covered.mean() < WHITE_8_BIT / 2 else 0
    return np.full(np.asarray(picture).shape, tone, dtype=np.float32)


def to_png(picture: Pillow.Image) -> bytes:
    """Return the image as PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def place_defect(
    picture: Pillow.Image, defect: Defect, *, inside: Mask, generator: np.random.Generator
) -> tuple[Pillow.Image, Mask]:
    """Return an image with a defect of which half is ``inside``, bool (height, width), if possible."""
    for _ in range(MAX_TRIES):
        defective, mask = add_defect(picture, defect, generator=generator)
        if inside[mask].mean() >= MIN_INSIDE_SHARE:
            break
    return defective, mask


def draw_defect(generator: np.random.Generator) -> Defect:
    """Return a random defect that covers some 0.02 to 10 % of an image."""
    kind = str(generator.choice(list(KINDS)))
    area = float(np.exp(generator.uniform(np.log(MIN_AREA), np.log(MAX_AREA))))
    # A scratch is a tenth as wide as long.
    size = (area * 10) ** 0.5 if kind == "scratch" else area**0.5
    return Defect(kind, size=min(size, 1.0), contrast=float(generator.uniform(MIN_CONTRAST, 1.0)))


def draw_defects(pixels: NDArray[np.uint8], valid: NDArray[np.float32], *, number: int, seed: int) -> NDArray[np.uint8]:
    """Put ``number`` random defects onto each image, one at a time: all images with one, then all with another.

    ``pixels``: uint8 (images, height, width, 3); ``valid``: where a defect may lie, (images, h, w), 1 or 0.
    """
    generator = np.random.default_rng(seed)
    height, width = pixels.shape[1:3]
    rows, columns = np.arange(height) * valid.shape[1] // height, np.arange(width) * valid.shape[2] // width
    drawn = []
    for _ in range(number):
        for image, inside in zip(pixels, valid, strict=True):
            defect, allowed = draw_defect(generator), inside[np.ix_(rows, columns)] > 0
            picture, _ = place_defect(Pillow.fromarray(image), defect, inside=allowed, generator=generator)
            drawn.append(np.asarray(picture))
    return np.stack(drawn)
