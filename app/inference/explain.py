"""Why a region is wrong: what each scale says there, and which good patches the memory recalled in its place.

The patches are small pictures of the training images that the memory's items were taken from, kept in the bundle.
"""

import io
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.imaging.regions import Region
from app.inference.arrays import ArrayFile
from app.inference.detector import Comparison, Reading
from model.bundle import PATCHES, BundleError, Manifest


class BadPatches(BundleError):
    """Pictures of the memory's items that can't be read or don't make sense."""


FILE = ArrayFile(PATCHES, {"data": np.uint8, "ends": np.int64}, damage=BadPatches)


@dataclass(frozen=True)
class Patches:
    """A JPEG an item. ``data``: uint8, all pictures in a row; ``ends``: int64 (items), where each ends."""

    data: NDArray[np.uint8]
    ends: NDArray[np.int64]

    def jpeg(self, item: int) -> bytes:
        """One item's picture."""
        start = 0 if item == 0 else int(self.ends[item - 1])
        return self.data[start : int(self.ends[item])].tobytes()


@dataclass(frozen=True)
class ScaleShare:
    """What a scale put into the map at the region's peak, as a share of 1."""

    stride: int
    share: float


@dataclass(frozen=True)
class Expected:
    """A good patch that was recalled at the region's peak, by how much it weighed there. ``jpeg``: its picture."""

    weight: float
    jpeg: bytes


@dataclass(frozen=True)
class Explanation:
    """Of one region: what is wrong, by scale, and what was expected instead, the heaviest first."""

    scales: tuple[ScaleShare, ...]
    expected: tuple[Expected, ...]


def explained(region: Region, comparison: Comparison, manifest: Manifest, patches: Patches | None) -> Explanation:
    """Why a region is where it is; nothing expected is shown where the version keeps no pictures."""
    recalled = comparison.reading
    expected = () if recalled is None or patches is None else expected_at(region, recalled, manifest, patches)
    return Explanation(scales=shares_at(region, comparison, manifest), expected=expected)


def shares_at(region: Region, comparison: Comparison, manifest: Manifest) -> tuple[ScaleShare, ...]:
    """Each scale's part in the peak."""
    put = [
        weight * max(0.0, float(map_[region.peak_row, region.peak_column]))
        for weight, map_ in zip(map_weights(comparison, manifest), comparison.scale_maps, strict=True)
    ]
    total = sum(put) or 1.0
    return tuple(ScaleShare(scale.stride, one / total) for scale, one in zip(manifest.scales, put, strict=True))


def map_weights(comparison: Comparison, manifest: Manifest) -> list[float]:
    """Each scale's part of the map: all alike; in a quick version the first alone, in older ones as in the score."""
    if comparison.reading is None:
        return [scale.weight for scale in manifest.scales]
    later = float(manifest.method == "full")
    return [1.0, *(later for _ in manifest.scales[1:])]


def expected_at(region: Region, reading: Reading, manifest: Manifest, patches: Patches) -> tuple[Expected, ...]:
    """The items that the memory read at the region's peak, twins joined."""
    stride = manifest.scales[0].stride
    columns = manifest.input.width // stride
    row = region.peak_row * manifest.input.height // (manifest.map_size[0] * stride)
    column = region.peak_column * manifest.input.width // (manifest.map_size[1] * stride)
    position = row * columns + column
    weights: dict[bytes, float] = defaultdict(float)
    for item, weight in zip(reading.items[position], reading.weights[position], strict=True):
        if item < len(patches.ends):
            weights[patches.jpeg(int(item))] += float(weight)
    ordered = sorted(weights.items(), key=lambda pair: -pair[1])
    return tuple(Expected(weight, jpeg) for jpeg, weight in ordered)


def packed_patches(pictures: list[bytes]) -> bytes:
    """``patches.npz``: a JPEG an item."""
    buffer = io.BytesIO()
    ends = np.cumsum([len(picture) for picture in pictures], dtype=np.int64)
    np.savez(buffer, data=np.frombuffer(b"".join(pictures), np.uint8), ends=ends)
    return buffer.getvalue()


def unpacked_patches(data: bytes) -> Patches:
    """The pictures in ``patches.npz``; raises BadPatches."""
    patches = Patches(*FILE.unpacked(data))
    if (
        patches.ends.ndim != 1
        or len(patches.ends) == 0
        or (np.diff(patches.ends, prepend=0) <= 0).any()
        or patches.ends[-1] != len(patches.data)
    ):
        raise BadPatches("patches.npz holds no row of pictures")
    return patches
