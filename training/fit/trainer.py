"""The trainer: features -> memory filled -> memory trained -> distillation -> statistics.

The two training phases take long; their state is saved in the run directory, and a resumed run continues there.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from model.student import Student
from model.teacher import Teacher
from training.data.dataset import Split
from training.errors import BadSettings, NotLearned
from training.fit.distillation import Distillation, TrainingSet
from training.fit.feature_store import GIB, FeatureRows, MemoryLimit, StandardisedRows
from training.fit.features import ImageReader, extract_features, resize_valid
from training.fit.memory import (
    FeatureDataset,
    ItemOrigins,
    MemoryTraining,
    fill_memory,
    fit_expected_distances,
    recall_all,
)
from training.fit.networks import Networks, create_networks
from training.fit.run_directory import RunDirectory
from training.fit.statistics import fit_comparison
from training.progress import ProgressReporter
from training.settings import TrainSettings

# Channel statistics from more images than these would change in the last digits only.
MAX_STATISTICS_IMAGES = 1000
NO_IMAGE = -1
Curves = dict[str, list[tuple[int, float]]]


class TrainingPhase(Protocol):
    """Gradient steps whose state can be saved."""

    num_steps: int
    num_done: int

    @property
    def is_over(self) -> bool:
        """Whether the phase is finished."""

    def step(self) -> dict[str, float]:
        """Train on one batch; return its losses by name."""

    def state(self) -> dict[str, Any]:
        """Return the state."""

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state."""


@dataclass(frozen=True)
class TrainedNetworks:
    """Networks on the CPU, the origins of the memory's items, and each loss by step: ``phase: loss``."""

    networks: Networks
    origins: ItemOrigins
    curves: Curves


@dataclass
class Trainer:
    """Trains the networks of one version."""

    settings: TrainSettings
    split: Split
    reader: ImageReader
    reporter: ProgressReporter
    run_directory: RunDirectory
    device: torch.device
    curves: Curves = field(default_factory=dict)

    def train(self) -> TrainedNetworks:
        """Train the networks. Raises TrainingError."""
        torch.manual_seed(self.settings.seed)
        self.generator = torch.Generator().manual_seed(self.settings.seed)
        networks = create_networks(self.settings)
        networks.to(self.device)
        checkpoint = self.run_directory.checkpoint or {}
        dataset = self.build_dataset(networks, checkpoint)
        held_out = self.compute_features(networks.teacher, self.split.standardise, "standardise")
        if not self.settings.quick:
            self.train_memory(networks.student, dataset, checkpoint)
        fit_expected_distances(networks.student, dataset)
        if not self.settings.quick:
            self.train_extraction(
                networks.student, dataset, self.build_held_out(networks.student, held_out), checkpoint
            )
        networks.student.eval()
        self.fit_statistics(networks, held_out)
        networks.to(torch.device("cpu"))
        return TrainedNetworks(networks, dataset.origins, self.curves)

    def build_dataset(self, networks: Networks, checkpoint: dict[str, Any]) -> FeatureDataset:
        """Return the data set; also sets the student's statistics and fills its memory."""
        paths = self.split.train
        features = self.compute_features(networks.teacher, paths, "train")
        valid = resize_valid(self.reader.compute_valid(paths), features)
        if not all(scale.any() for scale in valid):
            raise BadSettings("the region of interest is thinner than a feature: widen it, or take smaller strides")
        student = networks.student.to("cpu")
        some = torch.arange(min(features[0].shape[0], MAX_STATISTICS_IMAGES))
        student.fit_statistics(tuple(scale[some] for scale in features), tuple(scale[some] for scale in valid))
        standard = standardise_rows(student, features)
        origins = restore_student(student, checkpoint) if checkpoint else self.fill(student, standard[0], valid[0])
        student.to(self.device)
        return FeatureDataset(standard, valid, origins)

    def compute_features(self, teacher: Teacher, paths: Sequence[Path], part: str) -> tuple[FeatureRows, ...]:
        """Return teacher features of this part of the split, in memory or in the run directory."""
        bound = MemoryLimit(self.settings.feature_memory_gib * GIB, self.run_directory.features / part)
        with self.reporter.step(f"features to {part}", total=len(paths)) as advance:
            return extract_features(teacher, paths, reader=self.reader, limit=bound, on_images=advance)

    def fill(self, student: Student, standard: FeatureRows, valid: Tensor) -> ItemOrigins:
        """Fill the memory with a coreset of the first scale."""
        with self.reporter.step("memory", total=student.recall.num_items) as advance:
            origins = fill_memory(
                student,
                standard,
                valid,
                num_candidates=self.settings.num_candidates,
                generator=self.generator,
            )
            advance(student.recall.num_items)
        return origins

    def train_memory(self, student: Student, dataset: FeatureDataset, checkpoint: dict[str, Any]) -> None:
        """Run the phase that trains the memory."""
        phase = MemoryTraining(student, dataset, settings=self.settings.memory, generator=self.generator)
        if checkpoint.get("course") == "learning":
            return  # it was over
        self.run_phase("teaching", phase, student, dataset.origins, checkpoint)

    def train_extraction(
        self, student: Student, dataset: FeatureDataset, held_out: TrainingSet, checkpoint: dict[str, Any]
    ) -> None:
        """Run the phase that trains the extraction modules."""
        is_small = isinstance(dataset.features[0], StandardisedRows) and isinstance(dataset.features[0].rows, Tensor)
        training_set = TrainingSet(dataset, recall_all(student, dataset) if is_small else None)
        phase = Distillation(
            student, training_set, settings=self.settings.learning, generator=self.generator, held_out=held_out
        )
        self.run_phase("learning", phase, student, dataset.origins, checkpoint)

    def run_phase(
        self, name: str, phase: TrainingPhase, student: Student, origins: ItemOrigins, checkpoint: dict[str, Any]
    ) -> None:
        """Run every step of a phase, with progress and checkpoints. Raises NotLearned, Stopped, StoreUnusable."""
        if checkpoint.get("course") == name:
            phase.restore(checkpoint["state"])
            self.generator.set_state(checkpoint["generator"])
            self.curves.update(checkpoint["curves"])
            self.reporter.print_line(f"{name} goes on at step {phase.num_done}")
        due = Interval(self.settings.checkpoint_interval_s)
        with self.reporter.step(name, total=phase.num_steps, done=phase.num_done) as advance:
            while not phase.is_over:
                losses = phase.step()
                refuse_infinite(losses["loss"], step=phase.num_done)
                self.record_losses(name, phase.num_done, losses)
                if self.reporter.is_stopping() or due.is_due():
                    self.save_checkpoint(name, phase, student, origins)
                advance(1, note="  ".join(f"{one} {loss:.4f}" for one, loss in losses.items()))

    def record_losses(self, phase: str, step: int, losses: dict[str, float]) -> None:
        """Add losses to the curves."""
        for name, loss in losses.items():
            self.curves.setdefault(f"{phase}: {name}", []).append((step, loss))

    def save_checkpoint(self, name: str, phase: TrainingPhase, student: Student, origins: ItemOrigins) -> None:
        """Save the state of the training in the run directory."""
        self.run_directory.save_checkpoint(
            {
                "course": name,
                "state": phase.state(),
                "generator": self.generator.get_state(),
                "curves": self.curves,
                "student": student.state_dict(),
                "origins": {"images": origins.images, "positions": origins.positions},
            }
        )

    def build_held_out(self, student: Student, features: tuple[FeatureRows, ...]) -> TrainingSet:
        """Return good parts that are not trained on, for early stopping."""
        valid = resize_valid(self.reader.compute_valid(self.split.standardise), features)
        nobody = torch.full((student.recall.num_items,), NO_IMAGE)
        dataset = FeatureDataset(standardise_rows(student, features), valid, ItemOrigins(nobody, nobody))
        return TrainingSet(dataset, None)

    def fit_statistics(self, networks: Networks, features: tuple[FeatureRows, ...]) -> None:
        """Fit the comparison's constants on good parts that were not trained on."""
        images = torch.arange(len(self.split.standardise))
        fit_comparison(
            networks.compare,
            networks.student,
            tuple(scale[images] for scale in features),
            self.reader.compute_valid(self.split.standardise),
            emphasis=self.settings.emphasis,
        )


class Interval:
    """Says when something periodic is due."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.last = time.monotonic()

    def is_due(self) -> bool:
        """Whether the interval has passed; then it starts again."""
        now = time.monotonic()
        if now - self.last < self.interval_s:
            return False
        self.last = now
        return True


def standardise_rows(student: Student, features: tuple[FeatureRows, ...]) -> tuple[FeatureRows, ...]:
    """Return teacher features in the student's standard space."""
    return tuple(
        StandardisedRows(rows, standardiser)  # type: ignore[arg-type]  # a ModuleList forgets what it holds
        for rows, standardiser in zip(features, student.standardisers, strict=True)
    )


def restore_student(student: Student, checkpoint: dict[str, Any]) -> ItemOrigins:
    """Restore the student from a checkpoint; its memory may hold fewer items than the settings say."""
    weights, origins = checkpoint["student"], checkpoint["origins"]
    student.recall.write(keys=weights["recall.keys"], values=weights["recall.values"])
    student.load_state_dict(weights)
    return ItemOrigins(origins["images"], origins["positions"])


def refuse_infinite(loss: float, *, step: int) -> None:
    """Raise NotLearned where a loss is not finite."""
    if not math.isfinite(loss):
        raise NotLearned(step=step)
