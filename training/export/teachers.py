"""Teachers that were exported before: a training takes the graph of a version in service instead of a new export."""

import hashlib
import json
from contextlib import suppress
from importlib.metadata import version

from torch import Tensor

from app.store.errors import StoreError
from app.store.state import State
from app.store.store import Store
from model.bundle import BundleError
from model.teacher import Teacher
from training.export.onnx import OPSET
from training.version_metrics import read_version_keys

# Packages that decide on the bytes of a graph.
EXPORTERS = ("torch", "onnx", "onnxscript")


def compute_teacher_key(teacher: Teacher, pixels: Tensor) -> str:
    """Return a digest of all that the bytes of an exported teacher depend on; pixels are (batch, height, width, 3)."""
    exporters = [f"{package} {version(package)}" for package in EXPORTERS]
    facts = [teacher.name, teacher.taps, teacher.strides, tuple(pixels.shape[1:]), OPSET, exporters]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for name, value in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(value.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def find_exported_teacher(store: Store, state: State, *, key: str) -> bytes | None:
    """Return the graph of this key from a version in service, whichever product it is of; None if there is none."""
    for product in store.list_products():
        with suppress(StoreError, BundleError):
            current = state.read_current(product)
            if current is not None and read_version_keys(store, product, current.version).teacher == key:
                return store.load_bundle(product, current.version).teacher
    return None
