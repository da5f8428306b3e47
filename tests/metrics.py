"""Metrics of a version that no training made."""

from training.export.onnx import Parity
from training.release.gate import GateResult
from training.version_metrics import TrainingMetrics, VersionMetrics


def make_metrics(*, evaluation=None, sensitivity=(), repeatability=(), before=None, gate=None, **training):
    """Metrics of a small version. ``training``: what is known before the evaluation, where it matters."""
    known = {
        "promise_in_words": "20 parts support 6 %.",
        "parity": Parity(num_images=20, score=1e-6, map=2e-6),
        "num_calibrate": 20,
        "settings": {"seed": 0, "mlflow_uri": None},
        "curves": {},
        "teacher_key": "a" * 64,
        "training_s": 1.5,
    }
    return VersionMetrics(
        TrainingMetrics(**{**known, **training}),
        evaluation,
        tuple(sensitivity),
        tuple(repeatability),
        before,
        gate or GateResult((), None),
    )
