"""Image bytes to pixels at the model's size: the one decoder of training, command line and service."""

import hashlib
import io
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from app.errors import ImageError
from model.bundle import InputRecord

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
# File suffixes of the accepted formats.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# Pillow refuses larger images.
MAX_PIXELS = 178_956_970
# How files of these formats end. Pillow takes images without their end, but what lacks it may lack more.
ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
WHITE_8_BIT = 255
# CMYK and Lab need a profile; I and F have 32 bits and no white.
AMBIGUOUS_MODES = ("CMYK", "YCCK", "LAB", "HSV", "I", "F")
# Exceptions of Pillow's decoders on damaged bytes; found by fuzzing.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    AttributeError,
    TypeError,
    OverflowError,
    struct.error,
)


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; ``x``, ``y`` is its upper left corner."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Image:
    """A decoded image. ``pixels``: uint8 (height, width, 3) at the model's size.

    ``width`` and ``height`` are those of the posted image, upright; ``content`` is where it lies in ``pixels``.
    """

    pixels: NDArray[np.uint8]
    content: Box
    width: int
    height: int
    sha256: str


def decode(data: bytes, rule: InputRecord, *, max_pixels: int) -> Image:
    """Decode, turn upright, bring to the product's channels, depth and size. Raises an ImageError."""
    upright = load_image(data, max_pixels=max_pixels)
    plain = to_channels(upright, rule)
    content = fit_box(upright.size, rule)
    return Image(
        pixels=to_canvas(plain, content, rule),
        content=content,
        width=upright.width,
        height=upright.height,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def load_image(data: bytes, *, max_pixels: int) -> Pillow.Image:
    """Open and decode an image, upright. Raises ImageError."""
    return load_upright(open_image(data, max_pixels=max_pixels))


def open_image(data: bytes, *, max_pixels: int) -> Pillow.Image:
    """Open an image and check its header; nothing is decoded yet. Raises ImageError."""
    if not data:
        raise ImageError("the image is empty (0 bytes)", kind="empty-image")
    try:
        picture = Pillow.open(io.BytesIO(data), formats=FORMATS)
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning):
        raise too_large_error("far more pixels", limit_px=max_pixels) from None
    except UnidentifiedImageError:
        raise ImageError(
            f"these bytes are not an image; accepted are {', '.join(FORMATS)}", kind="not-an-image"
        ) from None
    except DECODE_ERRORS as error:
        raise truncated_error("posted", str(error)) from error
    if picture.width * picture.height > max_pixels:
        raise too_large_error(f"{picture.width} x {picture.height} pixels", limit_px=max_pixels)
    if data.rfind(ENDS.get(str(picture.format), b"")) < 0:
        raise truncated_error(picture.format, "its end is missing")
    return picture


def too_large_error(size: str, *, limit_px: int) -> ImageError:
    """Return the error of an image with more pixels than the limit, judged by its header."""
    return ImageError(f"the image has {size}; the limit is {limit_px:,}", kind="image-too-large")


def truncated_error(format_name: str | None, why: str) -> ImageError:
    """Return the error of an image whose data ends early or is damaged."""
    return ImageError(f"the {format_name} image is truncated or damaged: {why}", kind="truncated-image")


def load_upright(picture: Pillow.Image) -> Pillow.Image:
    """Decode an image and apply its EXIF orientation. Raises ImageError."""
    refuse_deep_colour(picture)
    try:
        refuse_second_frame(picture)
        picture.load()
        return ImageOps.exif_transpose(picture)
    except DECODE_ERRORS as error:
        raise truncated_error(picture.format, str(error)) from error


def refuse_second_frame(picture: Pillow.Image) -> None:
    """Raise ImageError for an animation. One seek suffices; counting the frames of a hostile TIFF takes minutes."""
    try:
        picture.seek(1)
    except EOFError:
        picture.seek(0)
        return
    raise ImageError("the file holds more than one frame; send one image at a time", kind="too-many-frames")


def refuse_deep_colour(picture: Pillow.Image) -> None:
    """Raise ImageError for 16-bit colour, which Pillow would silently reduce to 8 bits."""
    raw_modes = [
        tile.args if isinstance(tile.args, str) else str((tile.args or ("",))[0])
        for tile in getattr(picture, "tile", ())
    ]
    if picture.mode in ("RGB", "RGBA", "LA") and any(";16" in mode for mode in raw_modes):
        raise unsupported_mode_error(
            "16-bit colour", remedy="send 8 bits a channel, or 16-bit grey to a product trained so"
        )


def to_channels(picture: Pillow.Image, rule: InputRecord) -> Pillow.Image:
    """Convert to mode RGB, or F for deep grey, by the product's channel rule and white level."""
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture, dtype=np.float32)
        if rule.white_level == WHITE_8_BIT or values.max() > rule.white_level:
            raise bit_depth_error(16, rule)
        return Pillow.fromarray(values)
    if picture.mode in AMBIGUOUS_MODES:
        raise unsupported_mode_error(f"mode {picture.mode}", remedy="convert it to RGB or grey first")
    if rule.white_level != WHITE_8_BIT:
        raise bit_depth_error(8, rule)
    opaque = drop_alpha(picture)
    return opaque.convert("L").convert("RGB") if rule.channels == "grey" else opaque.convert("RGB")


def unsupported_mode_error(what: str, *, remedy: str) -> ImageError:
    """Return the error of colours without a defined conversion."""
    return ImageError(f"{what} can't be inspected: {remedy}", kind="unsupported-mode")


def bit_depth_error(depth_bits: int, rule: InputRecord) -> ImageError:
    """Return the error of another bit depth than the product was trained on."""
    return ImageError(
        f"the image has {depth_bits} bits per channel, but the product's white level is {rule.white_level}",
        kind="wrong-bit-depth",
    )


def drop_alpha(picture: Pillow.Image) -> Pillow.Image:
    """Remove the alpha channel, which must be opaque everywhere."""
    if not picture.has_transparency_data:
        return picture
    full = picture.convert("RGBA")
    if full.getchannel("A").getextrema()[0] != WHITE_8_BIT:
        raise unsupported_mode_error("a transparent image", remedy="flatten it, so that every pixel is opaque")
    return full.convert("RGB")


def fit_box(size: tuple[int, int], rule: InputRecord) -> Box:
    """Return the box of an image of this ``(width, height)`` on the model's canvas."""
    if rule.fit == "stretch":
        return Box(0, 0, rule.width, rule.height)
    scale = min(rule.width / size[0], rule.height / size[1])
    width = max(1, min(rule.width, round(size[0] * scale)))
    height = max(1, min(rule.height, round(size[1] * scale)))
    return Box((rule.width - width) // 2, (rule.height - height) // 2, width, height)


def to_canvas(picture: Pillow.Image, content: Box, rule: InputRecord) -> NDArray[np.uint8]:
    """Return pixels uint8 (height, width, 3): the image in its box, its edges repeated around it."""
    small = picture.resize((content.width, content.height), Pillow.Resampling.BILINEAR)
    values = np.asarray(small, dtype=np.float32)
    if values.ndim == 2:  # deep grey has no channel axis
        scaled = np.clip(values * (WHITE_8_BIT / rule.white_level), 0, WHITE_8_BIT)
        values = np.repeat(np.rint(scaled)[:, :, None], 3, axis=2)
    below = rule.height - content.y - content.height
    right = rule.width - content.x - content.width
    margins = ((content.y, below), (content.x, right), (0, 0))
    return np.pad(values.astype(np.uint8), margins, mode="edge")
