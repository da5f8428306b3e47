"""A version that is ready to judge: manifest, graphs and calibration in memory."""

from dataclasses import dataclass, replace
from typing import Literal
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from app.imaging.roi import RegionOfInterest, unpacked_region
from app.inference.calibration import p_value, promise, unpacked
from app.inference.detector import Detector, DeviceDetector, Graphs
from app.inference.explain import Patches, unpacked_patches
from app.inference.sessions import Device, open_session
from app.store.state import Override
from app.store.store import Bundle
from model.bundle import CALIBRATION, COMPARE, PATCHES, REGION, STUDENT, Manifest, PromiseRecord, sha256_hex

ThresholdFrom = Literal["calibration", "rate", "value"]


@dataclass(frozen=True)
class Version:
    """One version of one product, loaded. ``calibration``: scores of held-out good parts, (parts).

    ``patches``: pictures of what the memory holds, None where the version keeps none. ``chosen``: the promise of a
    threshold that people chose at run time; ``threshold_from`` says whether by a rate or by a value.
    """

    name: str
    manifest: Manifest
    detector: Detector
    calibration: NDArray[np.float64]
    interest: RegionOfInterest | None = None
    patches: Patches | None = None
    chosen: PromiseRecord | None = None
    threshold_from: ThresholdFrom = "calibration"

    @property
    def product(self) -> str:
        """The product it judges."""
        return self.manifest.product

    @property
    def promise(self) -> PromiseRecord:
        """The false-alarm rate that holds now, and its threshold."""
        return self.chosen or self.manifest.promise

    @property
    def threshold(self) -> float:
        """A score above this is ng."""
        return self.promise.threshold

    def ruled(self, override: Override | None) -> "Version":
        """This version under an override; itself where that changes nothing."""
        chosen, threshold_from = self._chosen(override)
        if (chosen, threshold_from) == (self.chosen, self.threshold_from):
            return self
        return replace(self, chosen=chosen, threshold_from=threshold_from)

    def _chosen(self, override: Override | None) -> tuple[PromiseRecord | None, ThresholdFrom]:
        """A rate is derived anew from this version's calibration; a value holds for the version it was chosen for."""
        if override is not None and override.false_alarm_rate is not None:
            return promise(self.calibration, asked=override.false_alarm_rate), "rate"
        if override is not None and override.threshold is not None and override.version == self.name:
            rate = p_value(self.calibration, np.nextafter(override.threshold, np.inf))
            own = self.manifest.promise
            return own.model_copy(update={"threshold": override.threshold, "supported": rate}), "value"
        return None, "calibration"


def graphs_of(bundle: Bundle) -> Graphs:
    """The three graphs among a version's bytes."""
    return Graphs(bundle.teacher, bundle.files[STUDENT], bundle.files[COMPARE])


class Loader:
    """Turns verified bytes into versions. Products with the same teacher share its session while any of them lives."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._teachers: WeakValueDictionary[str, ort.InferenceSession] = WeakValueDictionary()

    def load(self, bundle: Bundle) -> Version:
        """A version with its sessions open. Raises ModelError or BundleError."""
        return Version(
            name=bundle.version,
            manifest=bundle.manifest,
            detector=self.detector(graphs_of(bundle)),
            calibration=unpacked(bundle.files[CALIBRATION]),
            interest=unpacked_region(bundle.files[REGION]) if bundle.manifest.region else None,
            patches=unpacked_patches(bundle.files[PATCHES]) if PATCHES in bundle.files else None,
        )

    def detector(self, graphs: Graphs) -> Detector:
        """The three graphs, opened; features stay on a device that has a memory of its own. Raises ModelError."""
        kind = Detector if self.device.provider == "cpu" else DeviceDetector
        return kind(
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
