"""A loaded version: manifest, graphs and calibration in memory."""

from dataclasses import dataclass, replace
from typing import Literal
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from app.imaging.roi import RegionOfInterest, region_from_png
from app.inference.calibration import compute_promise, p_value, unpack_scores
from app.inference.detector import Detector, DeviceDetector, Graphs
from app.inference.explain import Patches, unpack_patches
from app.inference.sessions import Device, open_session
from app.store.state import Override
from app.store.store import Bundle
from model.bundle import CALIBRATION, COMPARE, PATCHES, REGION, STUDENT, Manifest, PromiseRecord, sha256_hex

ThresholdFrom = Literal["calibration", "rate", "value"]


@dataclass(frozen=True)
class Version:
    """One loaded version of one product. ``calibration``: scores of held-out good parts, (parts).

    ``patches``: pictures of the memory's items, or None. ``chosen``: the promise of a threshold set at run time;
    ``threshold_from`` says whether by a rate or by a value.
    """

    name: str
    manifest: Manifest
    detector: Detector
    calibration: NDArray[np.float64]
    roi: RegionOfInterest | None = None
    patches: Patches | None = None
    chosen: PromiseRecord | None = None
    threshold_from: ThresholdFrom = "calibration"

    @property
    def product(self) -> str:
        """The product's name."""
        return self.manifest.product

    @property
    def promise(self) -> PromiseRecord:
        """The current false-alarm rate and its threshold."""
        return self.chosen or self.manifest.promise

    @property
    def is_region_bound_to_verdict(self) -> bool:
        """Whether the verdict's threshold makes the regions, which only an ng part has. Not in format 1."""
        return self.manifest.pixel_threshold is None

    @property
    def region_threshold(self) -> float:
        """The map value above which positions form a region."""
        own = self.manifest.pixel_threshold
        return self.threshold if own is None else own

    @property
    def threshold(self) -> float:
        """A score above this is ng."""
        return self.promise.threshold

    def with_override(self, override: Override | None) -> "Version":
        """Return this version under an override; itself where nothing changes."""
        chosen, threshold_from = self._choose_promise(override)
        if (chosen, threshold_from) == (self.chosen, self.threshold_from):
            return self
        return replace(self, chosen=chosen, threshold_from=threshold_from)

    def _choose_promise(self, override: Override | None) -> tuple[PromiseRecord | None, ThresholdFrom]:
        """Derive a rate's threshold from this version's calibration; a value applies to its own version alone."""
        if override is not None and override.false_alarm_rate is not None:
            return compute_promise(self.calibration, asked=override.false_alarm_rate), "rate"
        if override is not None and override.threshold is not None and override.version == self.name:
            rate = p_value(self.calibration, np.nextafter(override.threshold, np.inf))
            own = self.manifest.promise
            return own.model_copy(update={"threshold": override.threshold, "supported": rate}), "value"
        return None, "calibration"


def graphs_from_bundle(bundle: Bundle) -> Graphs:
    """Return the three graphs of a bundle."""
    return Graphs(bundle.teacher, bundle.files[STUDENT], bundle.files[COMPARE])


def read_region(bundle: Bundle) -> RegionOfInterest | None:
    """Return the region of interest of a version, or None where it inspects the whole image. Raises BundleError."""
    record = bundle.manifest.region
    return region_from_png(bundle.files[REGION], is_blanked=record.is_blanked) if record else None


class Loader:
    """Loads versions from verified bytes. Loaded products with the same teacher share its session."""

    def __init__(self, device: Device) -> None:
        self.device = device
        # Weak: versions of one teacher share its session, which is freed with the last of them.
        self._teachers: WeakValueDictionary[str, ort.InferenceSession] = WeakValueDictionary()

    def load(self, bundle: Bundle) -> Version:
        """Load a version and open its sessions. Raises ModelError or BundleError."""
        return Version(
            name=bundle.version,
            manifest=bundle.manifest,
            detector=self.open_detector(graphs_from_bundle(bundle)),
            calibration=unpack_scores(bundle.files[CALIBRATION]),
            roi=read_region(bundle),
            patches=unpack_patches(bundle.files[PATCHES]) if PATCHES in bundle.files else None,
        )

    def open_detector(self, graphs: Graphs) -> Detector:
        """Open the three graphs; on a device with its own memory, features stay there. Raises ModelError."""
        kind = Detector if self.device.provider == "cpu" else DeviceDetector
        return kind(
            teacher=self._open_teacher(graphs.teacher),
            student=open_session(graphs.student, what=STUDENT, device=self.device),
            compare=open_session(graphs.compare, what=COMPARE, device=self.device),
        )

    def _open_teacher(self, graph: bytes) -> ort.InferenceSession:
        sha256 = sha256_hex(graph)
        session = self._teachers.get(sha256)
        if session is None:
            session = open_session(graph, what="teacher.onnx", device=self.device)
            self._teachers[sha256] = session
        return session
