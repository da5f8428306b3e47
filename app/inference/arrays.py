"""Arrays in the files of a bundle: the one reader and writer of ``.npz``; it never unpickles nor decompresses."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zipfile import ZIP_STORED, BadZipFile

import numpy as np
from numpy.typing import DTypeLike, NDArray

from model.bundle import BundleError


@dataclass(frozen=True)
class ArrayFile:
    """An ``.npz`` file of a bundle: its path, and its arrays' types by name."""

    path: str
    dtypes: Mapping[str, DTypeLike]

    def read(self, data: bytes) -> tuple[NDArray[Any], ...]:
        """Return the arrays in the order of their types; they take no more memory than ``data``. Raises BundleError."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                if any(member.compress_type != ZIP_STORED for member in arrays.zip.infolist()):
                    raise ValueError("its arrays are compressed")  # noqa: TRY301  # as damaged as any other
                return tuple(np.asarray(arrays[name], dtype) for name, dtype in self.dtypes.items())
        except (OSError, EOFError, ValueError, KeyError, TypeError, MemoryError, BadZipFile) as error:
            raise BundleError(f"{self.path} can't be read: {error}") from error


def pack_arrays(**arrays: NDArray[Any]) -> bytes:
    """Return arrays as the bytes of an ``.npz`` file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    return buffer.getvalue()
