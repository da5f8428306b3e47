"""Near duplicates: copies, and pictures of one part taken twice.

A perceptual hash selects candidate pairs; since parts in similar positions have similar hashes, their differences from
the median image must correlate as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy.ndimage import gaussian_filter

# Bits of a hash's side, and how many of its 256 may differ. Copies that were encoded again, made smaller or brighter
# differ by 16 at most in 95 of 100 cases on the three data sets.
SIDE_BITS, MAX_DIFFERENT_BITS = 16, 16
# Pictures are compared at this size, their light left out; of copies the details correlate by 0.95 in 95 of 100 cases.
SIDE_PX, LIGHT_SIGMA_PX, MIN_CORRELATION = 64, 3.0, 0.95
CHUNK = 512


@dataclass(frozen=True)
class ImageFingerprint:
    """An image's hash, uint64 (4), and a small grey picture, float32 (side, side)."""

    path: Path
    hash: NDArray[np.uint64]
    small: NDArray[np.float32]


@dataclass(frozen=True)
class NearDuplicate:
    """Two images that show nearly the same. ``num_bits``: how many of 256 differ."""

    first: Path
    second: Path
    num_bits: int


def compute_fingerprint(path: Path, picture: Pillow.Image) -> ImageFingerprint:
    """Return the fingerprint of a decoded picture."""
    is_deep = picture.mode.startswith("I")
    grey = (picture.point(lambda value: value / 256) if is_deep else picture).convert("L")
    bits = imagehash.phash(grey, hash_size=SIDE_BITS).hash.ravel()
    small = np.asarray(grey.resize((SIDE_PX, SIDE_PX), Pillow.Resampling.BOX), dtype=np.float32)
    return ImageFingerprint(path, np.packbits(bits).view(np.uint64), (small - small.mean()) / (small.std() + 1e-3))


def find_duplicates(
    first: Sequence[ImageFingerprint], second: Sequence[ImageFingerprint] | None = None
) -> list[NearDuplicate]:
    """Return near duplicates within ``first``, or between it and ``second``; the most similar first."""
    others = first if second is None else second
    if not first or not others:
        return []
    usual = np.median([look.small for look in first], axis=0)
    found = []
    for row, column, num_bits in match_hashes(first, others):
        is_pair = second is not None or row < column
        if is_pair and correlate(first[row].small - usual, others[column].small - usual) >= MIN_CORRELATION:
            found.append(NearDuplicate(first[row].path, others[column].path, num_bits))
    return sorted(found, key=lambda pair: pair.num_bits)


def match_hashes(first: Sequence[ImageFingerprint], second: Sequence[ImageFingerprint]) -> list[tuple[int, int, int]]:
    """Return pairs with similar hashes, each with the number of different bits, computed in chunks of rows."""
    rows, columns = (np.stack([look.hash for look in looks]) for looks in (first, second))
    found = []
    for start in range(0, len(rows), CHUNK):
        different = np.bitwise_count(rows[start : start + CHUNK, None] ^ columns[None]).sum(2)
        pairs = np.argwhere(different <= MAX_DIFFERENT_BITS)
        found += [(start + int(row), int(column), int(different[row, column])) for row, column in pairs]
    return found


def correlate(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the correlation of two pictures' details, -1 to 1; slow changes of light do not count."""
    first, second = ((picture - gaussian_filter(picture, LIGHT_SIGMA_PX)).ravel() for picture in (one, other))
    product = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / product if product > 0 else 0.0
