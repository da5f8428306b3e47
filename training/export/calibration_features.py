"""Calibration parts as a version's teacher saw them: what adapting and the gate judge again without the images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from app.inference.arrays import ArrayFile
from app.inference.detector import Batch, Comparison, Detector, Floats
from app.store import paths
from app.store.errors import StoreError
from app.store.paths import StoragePath
from model.bundle import BundleError

CALIBRATION_FEATURES = "calibration_features.npz"
# The owner of an item that no kept part gave.
NOBODY = -1


class BadFeatures(BundleError):
    """Kept features that can't be read."""


@dataclass(frozen=True)
class Kept:
    """``features``: float16 (parts, ...) a scale; ``valid``: where they count, (parts, h, w).

    ``owners``: the kept part that each item of the memory was taken from, ``NOBODY`` for all others, int64 (items).
    """

    features: tuple[NDArray[np.float16], ...]
    valid: Floats
    owners: NDArray[np.int64]

    def __len__(self) -> int:
        """How many parts."""
        return len(self.valid)

    def joined(self, features: tuple[Tensor, ...], valid: Tensor, *, owners: Tensor) -> "Kept":
        """With new parts, and new items that these own: ``owners`` counts among the new parts."""
        return Kept(
            tuple(np.concatenate([old, new.half().numpy()]) for old, new in zip(self.features, features, strict=True)),
            np.concatenate([self.valid, valid.numpy()]),
            np.concatenate([self.owners, owners.numpy() + len(self)]),
        )

    def newest(self, most: int) -> "Kept":
        """The last ``most`` parts."""
        num_left_out = max(0, len(self) - most)
        owners = np.where(self.owners < num_left_out, NOBODY, self.owners - num_left_out)
        return Kept(tuple(scale[num_left_out:] for scale in self.features), self.valid[num_left_out:], owners)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What ``calibration_features.npz`` holds, by name."""
        features = {f"t{k + 1}": scale for k, scale in enumerate(self.features)}
        return {**features, "valid": self.valid, "owners": self.owners}


def kept_parts(place: StoragePath, *, num_scales: int) -> Kept | None:
    """What a training kept, None where it kept nothing that can be used: versions from before did not say where."""
    names = {f"t{k + 1}": np.float16 for k in range(num_scales)}
    file = ArrayFile(place.name, {**names, "valid": np.float32, "owners": np.int64}, error=BadFeatures)
    try:
        *features, valid, owners = file.read(paths.read_immutable(place, place.name))
    except (StoreError, BadFeatures):
        return None
    return Kept(tuple(features), valid, owners)


def compared_part(detector: Detector, kept: Kept, row: int) -> Comparison:
    """What a version says of one kept part, as of a part that it never saw."""
    features = {f"t{k + 1}": scale[row : row + 1].astype(np.float32) for k, scale in enumerate(kept.features)}
    batch = Batch(pixels=np.zeros((1, 1, 1, 3), np.uint8), valid=kept.valid[row : row + 1])
    (comparison,) = detector.compare_features(features, detector.reconstruct(features), batch)
    return comparison
