"""A version that is ready to judge: manifest, graphs and calibration in memory."""

from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from app.engine.calibration import unpacked
from app.engine.detector import Detector, Graphs
from app.engine.explain import Patches, unpacked_patches
from app.engine.interest import RegionOfInterest, unpacked_region
from app.engine.sessions import Device, open_session
from app.store.store import Bundle
from model.bundle import CALIBRATION, COMPARE, PATCHES, REGION, STUDENT, Manifest, sha256_hex


@dataclass(frozen=True)
class Version:
    """One version of one product, loaded. ``calibration``: scores of held-out good parts, (parts).

    ``patches``: pictures of what the memory holds, None where the version keeps none.
    """

    name: str
    manifest: Manifest
    detector: Detector
    calibration: NDArray[np.float64]
    interest: RegionOfInterest | None = None
    patches: Patches | None = None

    @property
    def product(self) -> str:
        """The product it judges."""
        return self.manifest.product

    @property
    def threshold(self) -> float:
        """A score above this is ng."""
        return self.manifest.promise.threshold


class Loader:
    """Turns verified bytes into versions. Products with the same teacher share its session while any of them lives."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._teachers: WeakValueDictionary[str, ort.InferenceSession] = WeakValueDictionary()

    def load(self, bundle: Bundle) -> Version:
        """A version with its sessions open. Raises ModelError or BundleError."""
        graphs = Graphs(bundle.teacher, bundle.files[STUDENT], bundle.files[COMPARE])
        return Version(
            name=bundle.version,
            manifest=bundle.manifest,
            detector=self.detector(graphs),
            calibration=unpacked(bundle.files[CALIBRATION]),
            interest=unpacked_region(bundle.files[REGION]) if bundle.manifest.region else None,
            patches=unpacked_patches(bundle.files[PATCHES]) if PATCHES in bundle.files else None,
        )

    def detector(self, graphs: Graphs) -> Detector:
        """The three graphs, opened. Raises ModelError."""
        return Detector(
            teacher=self._teacher(graphs.teacher),
            student=open_session(graphs.student, what=STUDENT, device=self.device),
            compare=open_session(graphs.compare, what=COMPARE, device=self.device),
        )

    def _teacher(self, graph: bytes) -> ort.InferenceSession:
        sha256 = sha256_hex(graph)
        session = self._teachers.get(sha256)
        if session is None:
            session = open_session(graph, what="teacher.onnx", device=self.device)
            self._teachers[sha256] = session
        return session
