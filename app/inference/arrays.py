"""Arrays in the files of a bundle: the one reader of ``.npz``, which never unpickles."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import DTypeLike, NDArray

from model.bundle import BundleError


@dataclass(frozen=True)
class ArrayFile:
    """An ``.npz`` file of a bundle: its path, and its arrays' types by name."""

    path: str
    dtypes: Mapping[str, DTypeLike]

    def read(self, data: bytes) -> tuple[NDArray[Any], ...]:
        """Return the arrays, in the order of their types. Raises BundleError."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return tuple(np.asarray(arrays[name], dtype) for name, dtype in self.dtypes.items())
        except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise BundleError(f"{self.path} can't be read: {error}") from error
