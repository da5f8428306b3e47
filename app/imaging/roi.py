"""The region of interest: which part of an image is inspected. The rest is ignored."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from model.bundle import BundleError

WHITE_8_BIT = 255


@dataclass(frozen=True)
class RegionOfInterest:
    """``inside``: bool (rows, columns) over the whole image, upright, independent of the image's size.

    ``is_blanked``: whether pixels outside are made grey before the teacher sees them, so that they reach no feature.
    Versions of format 1 do not.
    """

    inside: NDArray[np.bool_]
    is_blanked: bool = False

    @property
    def share(self) -> float:
        """The share of the image that is inspected, in 0 to 1."""
        return float(self.inside.mean())

    def contains(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether points lie inside, bool (len(y), len(x)); ``y`` and ``x`` are shares of the image's sides."""
        rows = np.clip((y * self.inside.shape[0]).astype(int), 0, self.inside.shape[0] - 1)
        columns = np.clip((x * self.inside.shape[1]).astype(int), 0, self.inside.shape[1] - 1)
        return self.inside[np.ix_(rows, columns)]

    def to_png(self) -> bytes:
        """Return ``region.png``: white where the image is inspected."""
        buffer = io.BytesIO()
        picture = Pillow.fromarray(np.where(self.inside, WHITE_8_BIT, 0).astype(np.uint8))
        picture.save(buffer, format="PNG")
        return buffer.getvalue()


def region_from_png(data: bytes, *, is_blanked: bool = False) -> RegionOfInterest:
    """Read the region in ``region.png``. Raises BundleError."""
    try:
        with Pillow.open(io.BytesIO(data), formats=("PNG",)) as picture:
            inside = np.asarray(picture.convert("L")) > WHITE_8_BIT // 2
    except UnidentifiedImageError as error:
        raise BundleError("the region is not a PNG image") from error
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise BundleError(f"the region can't be read: {error}") from error
    if not inside.any():
        raise BundleError("the region has no white pixel: nothing would be inspected")
    return RegionOfInterest(inside, is_blanked)
