"""A trained version as files: what goes into the bundle, and what the trainer keeps beside it."""

import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version as installed_version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save

from app.imaging.decode import decode, load_upright, open_image
from app.imaging.roi import RegionOfInterest
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
    file_records,
    sha256_hex,
)
from model.compare import Compare
from model.student import Student
from model.teacher import teacher_spec
from training.evaluation.synthetic import Defect, as_png, with_defect
from training.export.calibrate import Calibrated
from training.export.calibration_features import CALIBRATION_FEATURES, Kept
from training.report.report import Findings, report_html
from training.settings import TrainSettings

TOOLS = ("goodpart", "torch", "onnx", "onnxruntime", "numpy", "pillow")
# In units of the absolute scale: what another machine's float32 may change of a golden score or map.
GOLDEN_TOLERANCE = {"float32": 0.02}
NUM_GOLDEN = 3
GOLDEN_DEFECT = Defect("scratch", size=0.3, contrast=1.0)


@dataclass(frozen=True)
class Looks:
    """What good parts look like: in numbers, for the service's guard, and in pictures, for its explanations."""

    expects: ExpectsRecord | None
    patches: bytes


@dataclass(frozen=True)
class Draft:
    """A version that judges, before its metrics and report are known. ``rule`` and ``weights`` a scale as learned."""

    product: str
    created: datetime
    rule: InputRecord
    interest: RegionOfInterest | None
    settings: TrainSettings
    graphs: Graphs
    looks: Looks
    map_weights: tuple[float, ...]
    calibrated: Calibrated
    fingerprint: str

    def files(self) -> dict[str, bytes]:
        """What it takes to judge."""
        region = {REGION: self.interest.to_png()} if self.interest else {}
        return {
            STUDENT: self.graphs.student,
            COMPARE: self.graphs.compare,
            CALIBRATION: pack_scores(self.calibrated.scores),
            PATCHES: self.looks.patches,
            **region,
        }

    def manifest(self, files: Mapping[str, bytes]) -> Manifest:
        """The manifest over these files."""
        settings, calibrated = self.settings, self.calibrated
        return Manifest(
            format=FORMAT,
            product=self.product,
            created=self.created,
            method="quick" if settings.quick else "full",
            input=self.rule,
            region=RegionRecord(file=REGION, share=self.interest.share, is_blanked=self.interest.is_blanked)
            if self.interest
            else None,
            expects=self.looks.expects,
            teacher=TeacherRecord(
                name=settings.teacher,
                sha256=sha256_hex(self.graphs.teacher),
                size_bytes=len(self.graphs.teacher),
                licence=teacher_spec(settings.teacher).licence,
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
            files=file_records(files),
        )


def make_scale_records(settings: TrainSettings, map_weights: Sequence[float]) -> tuple[ScaleRecord, ...]:
    """Return a record a map, in the order of ``Compare``: recalled scales, then extracted ones."""
    recalled = [(stride, "recall") for stride in settings.strides[: settings.num_recalled]]
    extracted = [(stride, "student") for stride in settings.strides[: settings.num_extracted]]
    return tuple(
        ScaleRecord(stride=stride, weight=weight, source=source)
        for (stride, source), weight in zip((*recalled, *extracted), map_weights, strict=True)
    )


def fingerprint(paths: Sequence[Path], settings: TrainSettings) -> str:
    """What a training depends on, as one digest: the settings and the bytes of every good image."""
    digests = sorted(sha256_hex(path.read_bytes()) for path in paths)
    return sha256_hex("\n".join([settings.model_dump_json(), *digests]).encode())


def golden_files(good: Sequence[tuple[str, bytes]], draft: Draft, detector: Detector) -> dict[str, bytes]:
    """Original bytes of a few good parts, some with a scratch, and what is expected of them, on the absolute scale.

    ``good``: suffix and bytes of each.
    """
    generator = np.random.default_rng(draft.settings.seed)
    chosen = good[:NUM_GOLDEN]
    originals = {f"{GOLDEN}/good_{i}{suffix}": data for i, (suffix, data) in enumerate(chosen)}
    for i, (_, data) in enumerate(chosen):
        picture = load_upright(open_image(data, max_pixels=draft.settings.max_pixels))
        if picture.mode in ("L", "RGB"):
            scratched, _ = with_defect(picture, GOLDEN_DEFECT, generator=generator)
            originals[f"{GOLDEN}/defect_{i}.png"] = as_png(scratched)
    return {**originals, EXPECTED: expected_file(originals, draft, detector)}


def expected_file(originals: Mapping[str, bytes], draft: Draft, detector: Detector) -> bytes:
    """Scores (images) and maps (images, h, w) of the golden images, in the order of their sorted names."""
    scale = draft.calibrated.score
    scores, maps = [], []
    for name in sorted(originals):
        image = decode(originals[name], draft.rule, max_pixels=draft.settings.max_pixels)
        batch = make_batch([image], map_size=draft.settings.map_size, roi=draft.interest)
        (comparison,) = detector.run(batch)
        scores.append(scale.standardise(comparison.score))
        maps.append((comparison.map - scale.mean) / scale.spread)
    return npz(scores=np.array(scores), maps=np.stack(maps).astype(np.float32))


def training_files(student: Student, compare: Compare, settings: TrainSettings, kept: Kept) -> dict[str, bytes]:
    """What ``adapt`` and the gate need later: weights, settings, and calibration parts as the teacher saw them."""
    return {
        "student.safetensors": save(student.state_dict()),
        "compare.safetensors": save(compare.state_dict()),
        "settings.json": settings.model_dump_json(indent=1).encode() + b"\n",
        CALIBRATION_FEATURES: npz(**kept.arrays()),
    }


def metrics_files(found: Findings) -> dict[str, bytes]:
    """The figures, for programs and for people."""
    return {
        METRICS: json.dumps(found.metrics, indent=1).encode() + b"\n",
        REPORT: report_html(found).encode(),
    }


def npz(**arrays: NDArray[np.generic]) -> bytes:
    """Arrays as the bytes of an ``.npz`` file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    return buffer.getvalue()
