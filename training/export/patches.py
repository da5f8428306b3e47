"""Pictures of the memory's items: the patch of the good part that each was taken from."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from training.data.images import ImageFile
from training.data.reader import ImageReader
from training.fit.memory import ItemOrigins

# Width of the area that a patch shows, in strides, and of its picture, in pixels.
SHOWN_STRIDES, SIDE_PX, JPEG_QUALITY = 4, 48, 70


def render_patches(
    images: Sequence[ImageFile],
    origins: ItemOrigins,
    *,
    reader: ImageReader,
    stride: int,
    on_images: Callable[[int], None],
) -> list[bytes]:
    """Render a JPEG an item, in order, from the images that filled the memory. Raises BadImage."""
    pictures = [b""] * len(origins.images)
    for index, image in enumerate(images):
        items = (origins.images == index).nonzero()[:, 0].tolist()
        if items:
            pixels = reader.decode(image).pixels
            for item in items:
                pictures[item] = render_patch(pixels, int(origins.positions[item]), stride=stride)
        on_images(1)
    return pictures


def render_patch(pixels: NDArray[np.uint8], position: int, *, stride: int) -> bytes:
    """Render the patch around a position of the first scale as a JPEG; beyond the image its edge is repeated."""
    row, column = divmod(position, pixels.shape[1] // stride)
    margin = stride * (SHOWN_STRIDES - 1) // 2
    side = stride + 2 * margin
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    patch = padded[row * stride : row * stride + side, column * stride : column * stride + side]
    buffer = io.BytesIO()
    small = Pillow.fromarray(patch).resize((SIDE_PX, SIDE_PX), Pillow.Resampling.BILINEAR)
    small.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
