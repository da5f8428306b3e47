"""A trained version as files: the bundle, and the trainer's own files beside it."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version as installed_version

import numpy as np
from safetensors.torch import save

from app.imaging.decode import decode, load_image
from app.imaging.roi import RegionOfInterest
from app.inference.arrays import pack_arrays
from app.inference.calibration import pack_scores
from app.inference.detector import Detector, Graphs, make_batch
from app.inspection.verification import EXPECTED
from model.bundle import (
    CALIBRATION,
    COMPARE,
    FORMAT,
    GOLDEN,
    METRICS,
    PATCHES,
    REGION,
    REPORT,
    STUDENT,
    ExpectsRecord,
    InputRecord,
    Manifest,
    RegionRecord,
    ScaleRecord,
    TeacherRecord,
    make_file_records,
    sha256_hex,
)
from model.compare import Compare
from model.student import Student
from model.teacher_specs import get_teacher_spec
from training.evaluation.synthetic import Defect, add_defect, to_png
from training.export.calibrate import Calibration
from training.export.calibration_features import CALIBRATION_FEATURES, CalibrationFeatures
from training.report.report import ReportContent, render_report
from training.settings import TrainSettings

TOOLS = ("goodpart", "torch", "onnx", "onnxruntime", "numpy", "pillow")
# In units of the absolute scale: what another machine's float32 may change of a golden score or map.
GOLDEN_TOLERANCE = {"float32": 0.02}
NUM_GOLDEN = 3
GOLDEN_DEFECT = Defect("scratch", size=0.3, contrast=1.0)


@dataclass(frozen=True)
class Appearance:
    """What good parts look like: ranges for the input check, and pictures for explanations."""

    expects: ExpectsRecord | None
    patches: bytes


@dataclass(frozen=True)
class BundleBuilder:
    """A version before its metrics and report are known; builds the bundle's files and manifest."""

    product: str
    created: datetime
    rule: InputRecord
    roi: RegionOfInterest | None
    settings: TrainSettings
    graphs: Graphs
    appearance: Appearance
    map_weights: tuple[float, ...]
    calibration: Calibration
    fingerprint: str

    def build_files(self) -> dict[str, bytes]:
        """Return the files that an inspection needs."""
        region = {REGION: self.roi.to_png()} if self.roi else {}
        return {
            STUDENT: self.graphs.student,
            COMPARE: self.graphs.compare,
            CALIBRATION: pack_scores(self.calibration.scores),
            PATCHES: self.appearance.patches,
            **region,
        }

    def build_manifest(self, files: Mapping[str, bytes]) -> Manifest:
        """Return the manifest over these files."""
        settings, calibrated = self.settings, self.calibration
        return Manifest(
            format=FORMAT,
            product=self.product,
            created=self.created,
            method="quick" if settings.quick else "full",
            input=self.rule,
            region=RegionRecord(file=REGION, share=self.roi.share, is_blanked=self.roi.is_blanked)
            if self.roi
            else None,
            expects=self.appearance.expects,
            teacher=TeacherRecord(
                name=settings.teacher,
                sha256=sha256_hex(self.graphs.teacher),
                size_bytes=len(self.graphs.teacher),
                licence=get_teacher_spec(settings.teacher).licence,
                strides=settings.strides,
            ),
            scales=make_scale_records(settings, self.map_weights),
            map_size=settings.map_size,
            top_share=settings.top_share,
            score=calibrated.score,
            map=calibrated.score,
            promise=calibrated.promise,
            golden_tolerance=GOLDEN_TOLERANCE,
            fingerprint=self.fingerprint,
            tools={**{tool: installed_version(tool) for tool in TOOLS}, "python": platform.python_version()},
            files=make_file_records(files),
        )


def make_scale_records(settings: TrainSettings, map_weights: Sequence[float]) -> tuple[ScaleRecord, ...]:
    """Return a record a map, in the order of ``Compare``: recalled scales, then extracted ones."""
    recalled = [(stride, "recall") for stride in settings.strides[: settings.num_recalled]]
    extracted = [(stride, "student") for stride in settings.strides[: settings.num_extracted]]
    return tuple(
        ScaleRecord(stride=stride, weight=weight, source=source)
        for (stride, source), weight in zip((*recalled, *extracted), map_weights, strict=True)
    )


def build_golden_files(
    good: Sequence[tuple[str, bytes]], builder: BundleBuilder, detector: Detector
) -> dict[str, bytes]:
    """Return a few good parts, some with a scratch, and their expected results on the absolute scale.

    ``good``: suffix and bytes of each.
    """
    generator = np.random.default_rng(builder.settings.seed)
    chosen = good[:NUM_GOLDEN]
    originals = {f"{GOLDEN}/good_{i}{suffix}": data for i, (suffix, data) in enumerate(chosen)}
    for i, (_, data) in enumerate(chosen):
        picture = load_image(data, max_pixels=builder.settings.max_pixels)
        if picture.mode in ("L", "RGB"):
            scratched, _ = add_defect(picture, GOLDEN_DEFECT, generator=generator)
            originals[f"{GOLDEN}/defect_{i}.png"] = to_png(scratched)
    return {**originals, EXPECTED: build_expected_file(originals, builder, detector)}


def build_expected_file(originals: Mapping[str, bytes], builder: BundleBuilder, detector: Detector) -> bytes:
    """Return scores (images) and maps (images, h, w) of the golden images, in the order of their sorted names."""
    scale = builder.calibration.score
    scores, maps = [], []
    for name in sorted(originals):
        image = decode(originals[name], builder.rule, max_pixels=builder.settings.max_pixels)
        batch = make_batch([image], map_size=builder.settings.map_size, roi=builder.roi)
        (comparison,) = detector.run(batch)
        scores.append(scale.standardise(comparison.score))
        maps.append((comparison.map - scale.mean) / scale.spread)
    return pack_arrays(scores=np.array(scores), maps=np.stack(maps).astype(np.float32))


def build_training_files(
    student: Student, compare: Compare, settings: TrainSettings, calibration_features: CalibrationFeatures
) -> dict[str, bytes]:
    """Return the files that ``adapt`` and the gate need: weights, settings, calibration features."""
    return {
        "student.safetensors": save(student.state_dict()),
        "compare.safetensors": save(compare.state_dict()),
        "settings.json": settings.model_dump_json(indent=1).encode() + b"\n",
        CALIBRATION_FEATURES: pack_arrays(**calibration_features.to_arrays()),
    }


def build_metrics_files(content: ReportContent) -> dict[str, bytes]:
    """Return the metrics as JSON and as the report."""
    return {
        METRICS: json.dumps(content.metrics.to_dict(), indent=1).encode() + b"\n",
        REPORT: render_report(content).encode(),
    }
