"""The metrics of a version: what ``metrics.json`` holds, and the report and MLflow show."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from app.store.errors import StoreError
from app.store.paths import read_immutable
from app.store.store import Store
from model.bundle import METRICS, BundleError
from training.evaluation.evaluate import EvaluationMetrics
from training.evaluation.repeatability import Repeat
from training.evaluation.sensitivity import Cell, compute_recall
from training.export.onnx import Parity
from training.fit.trainer import Curves
from training.release.gate import GateResult


@dataclass(frozen=True, kw_only=True)
class TrainingMetrics:
    """Metrics that are known before a version is evaluated; those that it does not have are None.

    ``promise_in_words``: the false-alarm rate that its calibration parts support. ``settings``: without credentials.
    ``adapted_from``, ``num_new_parts``, ``num_added_items``: of an adapted version. ``teacher_key``, ``training_key``:
    digests of what its teacher was exported from, and of what it was trained from. ``training_s``: seconds.
    """

    promise_in_words: str
    parity: Parity
    adapted_from: str | None = None
    num_new_parts: int | None = None
    num_added_items: int | None = None
    num_train: int | None = None
    num_confirmed: int | None = None
    num_standardise: int | None = None
    num_calibrate: int
    settings: Mapping[str, Any]
    curves: Curves
    map_weights: tuple[float, ...] | None = None
    teacher_key: str | None
    training_s: float
    training_key: str | None = None


@dataclass(frozen=True)
class IncumbentMetrics:
    """Metrics of the version in service on a candidate's test parts, and its sensitivity to the same defects."""

    evaluation: EvaluationMetrics | None
    sensitivity: tuple[Cell, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics by name."""
        return {"synthetic_recall": compute_recall(self.sensitivity), **drop_missing(self.evaluation)}


@dataclass(frozen=True)
class VersionMetrics:
    """All metrics of a version. ``evaluation``: None without a test set; ``before``: of the version in service."""

    training: TrainingMetrics
    evaluation: EvaluationMetrics | None
    sensitivity: tuple[Cell, ...]
    repeatability: tuple[Repeat, ...]
    before: IncumbentMetrics | None
    gate: GateResult

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics by name, as in ``metrics.json``; those that the version does not have are left out."""
        recall = {"synthetic_recall": compute_recall(self.sensitivity)} if self.sensitivity else {}
        return {
            **drop_missing(self.training),
            **drop_missing(self.evaluation),
            "sensitivity": [asdict(cell) for cell in self.sensitivity],
            **recall,
            "repeatability": [asdict(repeat) for repeat in self.repeatability],
            "before": self.before.to_dict() if self.before else {},
            "gate": self.gate.to_dict(),
        }


@dataclass(frozen=True)
class VersionKeys:
    """The keys in a version's metrics by which another training recognises it; None where it is older than they."""

    teacher: str | None
    training: str | None


def read_keys(metrics: bytes) -> VersionKeys:
    """Return the keys in ``metrics.json``, of whichever release. Raises ValueError where it is not JSON."""
    found = json.loads(metrics)
    return VersionKeys(found.get("teacher_key"), found.get("training_key"))


def read_version_keys(store: Store, product: str, version: str) -> VersionKeys:
    """Return the keys of a version in a store; None where its metrics can't be read."""
    try:
        return read_keys(read_immutable(store.version_folder(product, version) / METRICS, METRICS))
    except (StoreError, BundleError, ValueError):
        return VersionKeys(None, None)


def drop_missing(metrics: TrainingMetrics | EvaluationMetrics | None) -> dict[str, Any]:
    """Return the metrics that are not None, by name."""
    return {} if metrics is None else {name: value for name, value in asdict(metrics).items() if value is not None}
