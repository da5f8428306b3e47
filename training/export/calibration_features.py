"""Calibration features: the teacher's features of calibration parts, for adaptation and the gate."""

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
NO_OWNER = -1


@dataclass(frozen=True)
class CalibrationFeatures:
    """``features``: float16 (parts, ...) a scale; ``valid``: where they count, (parts, h, w).

    ``owners``: the part that each item of the memory was taken from, or ``NO_OWNER``, int64 (items).
    """

    features: tuple[NDArray[np.float16], ...]
    valid: Floats
    owners: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of parts."""
        return len(self.valid)

    def extend(self, features: tuple[Tensor, ...], valid: Tensor, *, owners: Tensor) -> "CalibrationFeatures":
        """Return the features with new parts and their items; ``owners`` are indices of the new parts."""
        return CalibrationFeatures(
            tuple(np.concatenate([old, new.half().numpy()]) for old, new in zip(self.features, features, strict=True)),
            np.concatenate([self.valid, valid.numpy()]),
            np.concatenate([self.owners, owners.numpy() + len(self)]),
        )

    def take_newest(self, limit: int) -> "CalibrationFeatures":
        """Return the last ``limit`` parts."""
        num_left_out = max(0, len(self) - limit)
        owners = np.where(self.owners < num_left_out, NO_OWNER, self.owners - num_left_out)
        return CalibrationFeatures(
            tuple(scale[num_left_out:] for scale in self.features), self.valid[num_left_out:], owners
        )

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays of ``calibration_features.npz``, by name."""
        features = {f"t{k + 1}": scale for k, scale in enumerate(self.features)}
        return {**features, "valid": self.valid, "owners": self.owners}


def read_calibration_features(place: StoragePath, *, num_scales: int) -> CalibrationFeatures | None:
    """Read the features of a training, or None where there are none or they are of an older form."""
    names = {f"t{k + 1}": np.float16 for k in range(num_scales)}
    file = ArrayFile(place.name, {**names, "valid": np.float32, "owners": np.int64})
    try:
        *features, valid, owners = file.read(paths.read_immutable(place, place.name))
    except (StoreError, BundleError):
        return None
    return CalibrationFeatures(tuple(features), valid, owners)


def compare_part(detector: Detector, calibration_features: CalibrationFeatures, row: int) -> Comparison:
    """Return a version's comparison of one part."""
    features = {
        f"t{k + 1}": scale[row : row + 1].astype(np.float32) for k, scale in enumerate(calibration_features.features)
    }
    batch = Batch(pixels=np.zeros((1, 1, 1, 3), np.uint8), valid=calibration_features.valid[row : row + 1])
    (comparison,) = detector.compare_features(features, detector.reconstruct(features), batch)
    return comparison
