"""Explanations of regions: the share of each scale, and the good patches that the memory recalled.

The patches are small pictures of the training images that the memory's items were taken from, kept in the bundle.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.imaging.regions import Region
from app.inference.arrays import ArrayFile, pack_arrays
from app.inference.detector import Comparison, RecalledItems
from model.bundle import PATCHES, BundleError, Manifest

FILE = ArrayFile(PATCHES, {"data": np.uint8, "ends": np.int64})


@dataclass(frozen=True)
class Patches:
    """A JPEG an item. ``data``: uint8, all pictures in a row; ``ends``: int64 (items), where each ends."""

    data: NDArray[np.uint8]
    ends: NDArray[np.int64]

    def jpeg(self, item: int) -> bytes:
        """Return one item's picture."""
        start = 0 if item == 0 else int(self.ends[item - 1])
        return self.data[start : int(self.ends[item])].tobytes()


@dataclass(frozen=True)
class ScaleShare:
    """A scale's share of the map at the region's peak; shares sum to 1."""

    stride: int
    share: float


@dataclass(frozen=True)
class RecalledPatch:
    """A good patch that was recalled at the region's peak: its weight, and its picture as ``jpeg``."""

    weight: float
    jpeg: bytes


@dataclass(frozen=True)
class Explanation:
    """The explanation of one region: shares of the scales, and the expected patches, the heaviest first."""

    scales: tuple[ScaleShare, ...]
    expected: tuple[RecalledPatch, ...]


def explain_region(region: Region, comparison: Comparison, manifest: Manifest, patches: Patches | None) -> Explanation:
    """Explain a region; there are no patches where the version keeps no pictures."""
    recalled = comparison.recalled
    expected = () if recalled is None or patches is None else find_recalled_patches(region, recalled, manifest, patches)
    return Explanation(scales=compute_scale_shares(region, comparison, manifest), expected=expected)


def compute_scale_shares(region: Region, comparison: Comparison, manifest: Manifest) -> tuple[ScaleShare, ...]:
    """Return each scale's share of the peak."""
    put = [
        weight * max(0.0, float(map_[region.peak_row, region.peak_column]))
        for weight, map_ in zip(get_map_weights(comparison, manifest), comparison.scale_maps, strict=True)
    ]
    total = sum(put) or 1.0
    by_stride = dict.fromkeys(manifest.strides, 0.0)
    for scale, one in zip(manifest.scales, put, strict=True):
        by_stride[scale.stride] += one / total
    return tuple(ScaleShare(stride, share) for stride, share in by_stride.items())


def get_map_weights(comparison: Comparison, manifest: Manifest) -> list[float]:
    """Return each scale's weight in the map.

    Since format 2 those of the manifest. In format 1 equal, in a quick version the first alone, and in versions that do
    not export what they recalled as in the score.
    """
    if manifest.format > 1 or comparison.recalled is None:
        return [scale.weight for scale in manifest.scales]
    later = float(manifest.method == "full")
    return [1.0, *(later for _ in manifest.scales[1:])]


def find_recalled_patches(
    region: Region, reading: RecalledItems, manifest: Manifest, patches: Patches
) -> tuple[RecalledPatch, ...]:
    """Return the patches that the memory read at the region's peak; identical pictures are joined."""
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
    return tuple(RecalledPatch(weight, jpeg) for jpeg, weight in ordered)


def pack_patches(pictures: list[bytes]) -> bytes:
    """Return ``patches.npz``: a JPEG an item."""
    ends = np.cumsum([len(picture) for picture in pictures], dtype=np.int64)
    return pack_arrays(data=np.frombuffer(b"".join(pictures), np.uint8), ends=ends)


def unpack_patches(data: bytes) -> Patches:
    """Return the pictures in ``patches.npz``. Raises BundleError."""
    patches = Patches(*FILE.read(data))
    if (
        patches.ends.ndim != 1
        or len(patches.ends) == 0
        or (np.diff(patches.ends, prepend=0) <= 0).any()
        or patches.ends[-1] != len(patches.data)
    ):
        raise BundleError("patches.npz holds no row of pictures")
    return patches
