"""Arrays in the files of a bundle: what is read, and that nothing else is."""

import io
import zipfile

import numpy as np
import pytest

from app.inference.arrays import ArrayFile, pack_arrays
from model.bundle import BundleError

FILE = ArrayFile("some.npz", {"a": np.float64, "b": np.int64})


def save(write, **arrays):
    buffer = io.BytesIO()
    write(buffer, **arrays)
    return buffer.getvalue()


def test_arrays_come_back_in_the_order_and_type_of_the_file():
    a, b = FILE.read(pack_arrays(b=np.arange(3, dtype=np.int32), a=np.ones((2, 2), np.float32)))
    assert (a.dtype, a.shape, b.dtype, b.tolist()) == (np.float64, (2, 2), np.int64, [0, 1, 2])


def claim_a_huge_array():
    header = np.lib.format.magic(1, 0)
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000,), }\n"
    member = header + len(text).to_bytes(2, "little") + text
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.npy", member)
        archive.writestr("b.npy", member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        pack_arrays(a=np.zeros(1), b=np.zeros(1))[:-30],
        pack_arrays(a=np.zeros(1)),
        pack_arrays(a=np.array(["x"]), b=np.zeros(1)),
        save(np.savez, a=np.array([{}]), b=np.zeros(1)),
        save(np.savez_compressed, a=np.zeros(1_000_000), b=np.zeros(1)),
        claim_a_huge_array(),
    ],
    ids=["empty", "cut", "no end", "one missing", "text", "pickled", "compressed", "huge"],
)
def test_what_cannot_be_read_is_one_error_that_names_the_file(data):
    with pytest.raises(BundleError, match=r"^some\.npz can't be read"):
        FILE.read(data)
