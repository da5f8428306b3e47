"""The trainer: features -> memory filled -> memory trained -> distillation -> statistics.

The two training phases take long; their state is saved in the run directory, and a resumed run continues there.
"""

import math
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from app.errors import SettingsError
from model.student import Student
from model.teacher import Teacher
from training.data.dataset import Split
from training.data.reader import ImageReader
from training.errors import TrainingError
from training.evaluation.synthetic import draw_defects
from training.fit.distillation import Distillation, TrainingSet
from training.fit.feature_store import GIB, FeatureRows, MemoryLimit, StandardisedRows
from training.fit.features import extract_features, resize_valid
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
from training.fit.statistics import ComparedImages, fit_comparison
from training.progress import ProgressReporter
from training.settings import TrainSettings

# Channel statistics from more images than these would change in the last digits only.
MAX_FOR_STATISTICS = 1000
# Synthetic defects for the weights of the comparison: on so many held-out images, so many each.
NUM_DEFECTIVE, NUM_DEFECTS = 48, 8
# Each loss by step, as ``phase: loss``.
Curves = dict[str, list[tuple[int, float]]]


class TrainingPhase(Protocol):
    """Gradient steps one after another, whose state can be saved."""

    num_steps: int
    num_done: int

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""

    def step(self) -> dict[str, float]:
        """Train on one batch; return its losses by name."""

    def state(self) -> dict[str, Any]:
        """Return the state."""

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""


@dataclass(frozen=True)
class TrainedNetworks:
    """Networks on the CPU, the images that the memory's items came from, and each loss by step: ``phase: loss``."""

    networks: Networks
    origins: ItemOrigins
    curves: Curves


@dataclass
class Trainer:
    """Trains the networks of one version.

    The memory holds items of the images to train on and of those to standardise with. The latter are kept from
    distillation, and none recalls its own items when the comparison is fitted, so they count as unseen there.
    """

    settings: TrainSettings
    split: Split
    reader: ImageReader
    reporter: ProgressReporter
    run_directory: RunDirectory
    device: torch.device
    curves: Curves = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=torch.Generator)

    def train(self) -> TrainedNetworks:
        """Run every step. Raises TrainingError."""
        torch.manual_seed(self.settings.seed)
        self.generator.manual_seed(self.settings.seed)
        networks = create_networks(self.settings)
        networks.to(self.device)
        saved = self.run_directory.checkpoint or {}
        features = self._compute_features(networks.teacher)
        dataset = self._make_dataset(networks.student, features, saved)
        if not self.settings.quick and saved.get("phase") != "learning":
            self._run_phase("teaching", self._make_memory_phase(networks.student, dataset), networks, dataset, saved)
        fit_expected_distances(networks.student, dataset)
        if not self.settings.quick:
            self._run_phase("learning", self._make_distillation(networks.student, dataset), networks, dataset, saved)
        networks.student.eval()
        self._fit_comparison(networks, features, dataset.origins)
        networks.to(torch.device("cpu"))
        return TrainedNetworks(networks, dataset.origins, self.curves)

    def _compute_features(self, teacher: Teacher) -> tuple[FeatureRows, ...]:
        bound = MemoryLimit(self.settings.feature_memory_gib * GIB, self.run_directory.features / "good")
        images = self.split.remembered
        with self.reporter.step("features", total=len(images)) as advance:
            return extract_features(teacher, images, reader=self.reader, limit=bound, on_images=advance)

    def _make_dataset(
        self, student: Student, features: tuple[FeatureRows, ...], saved: dict[str, Any]
    ) -> FeatureDataset:
        """Fit the student's statistics, and fill its memory or restore it from a checkpoint."""
        valid = resize_valid(self.reader.compute_valid(self.split.remembered), features)
        if not all(scale.any() for scale in valid):
            raise SettingsError("the region of interest is thinner than a feature: widen it, or take smaller strides")
        student.to("cpu")
        some = torch.arange(min(features[0].shape[0], MAX_FOR_STATISTICS))
        student.fit_statistics(tuple(scale[some] for scale in features), tuple(scale[some] for scale in valid))
        standard = standardise_rows(student, features)
        origins = restore_student(student, saved) if saved else self._fill_memory(student, standard, valid[0])
        student.to(self.device)
        return FeatureDataset(standardise_rows(student, features), valid, origins)

    def _fill_memory(self, student: Student, standard: tuple[FeatureRows, ...], valid: Tensor) -> ItemOrigins:
        with self.reporter.step("memory", total=student.recall.num_items) as advance:
            num_candidates = self.settings.num_candidates
            origins = fill_memory(student, standard, valid, num_candidates=num_candidates, generator=self.generator)
            advance(student.recall.num_items)
        return origins

    def _make_memory_phase(self, student: Student, dataset: FeatureDataset) -> TrainingPhase:
        return MemoryTraining(student, dataset, settings=self.settings.memory, generator=self.generator)

    def _make_distillation(self, student: Student, dataset: FeatureDataset) -> TrainingPhase:
        is_in_memory = isinstance(dataset.features[0], StandardisedRows) and isinstance(
            dataset.features[0].rows, Tensor
        )
        recalled = recall_all(student, dataset) if is_in_memory else None
        train, held_out = torch.split(
            torch.arange(dataset.num_images), [len(self.split.train), len(self.split.standardise)]
        )
        return Distillation(
            student,
            TrainingSet(dataset, recalled, train),
            settings=self.settings.learning,
            generator=self.generator,
            held_out=TrainingSet(dataset, recalled, held_out),
        )

    def _run_phase(
        self, name: str, phase: TrainingPhase, networks: Networks, dataset: FeatureDataset, saved: dict[str, Any]
    ) -> None:
        """Run a phase to its end, with progress and checkpoints. Raises TrainingError, StoreUnusable."""
        if saved.get("phase") == name:
            phase.restore(saved["state"])
            self.generator.set_state(saved["generator"])
            self.curves.update(saved["curves"])
            self.reporter.print_line(f"{name} continues at step {phase.num_done}")
        due = Interval(self.settings.checkpoint_interval_s)
        with self.reporter.step(name, total=phase.num_steps, done=phase.num_done) as advance:
            while not phase.is_over:
                losses = phase.step()
                refuse_infinite(losses["loss"], step=phase.num_done)
                for loss, value in losses.items():
                    self.curves.setdefault(f"{name}: {loss}", []).append((phase.num_done, value))
                if self.reporter.is_stopping() or due.is_due():
                    self._save(name, phase, networks.student, dataset.origins)
                advance(1, note="  ".join(f"{one} {loss:.4f}" for one, loss in losses.items()))

    def _save(self, name: str, phase: TrainingPhase, student: Student, origins: ItemOrigins) -> None:
        """Save the state of the training in the run directory."""
        self.run_directory.save_checkpoint(
            {
                "phase": name,
                "state": phase.state(),
                "generator": self.generator.get_state(),
                "curves": self.curves,
                "student": student.state_dict(),
                "origins": {"images": origins.images, "positions": origins.positions},
            }
        )

    def _fit_comparison(self, networks: Networks, features: tuple[FeatureRows, ...], origins: ItemOrigins) -> None:
        """Fit the comparison to the images to standardise with, and to synthetic defects on some of them."""
        images = torch.arange(len(self.split.standardise)) + len(self.split.train)
        valid = self.reader.compute_valid(self.split.standardise)
        good = ComparedImages(tuple(scale[images] for scale in features), valid, origins.find_own_items(images))
        fit_comparison(networks.compare, networks.student, good, self._make_defective(networks.teacher, good))

    def _make_defective(self, teacher: Teacher, good: ComparedImages) -> ComparedImages:
        """Return some of the images to standardise with, with synthetic defects."""
        shown = self.split.standardise[:NUM_DEFECTIVE]
        rows = torch.arange(len(shown)).repeat(NUM_DEFECTS)
        with self.reporter.step("synthetic defects to weigh the maps", total=len(rows)) as advance:
            pixels = self.reader.to_pixels(list(self.reader.decode_all(shown))).numpy()
            drawn = draw_defects(pixels, good.valid[: len(shown)].numpy(), number=NUM_DEFECTS, seed=self.settings.seed)
            found = []
            for one in torch.split(torch.from_numpy(drawn), 1):
                found.append(tuple(scale.cpu() for scale in teacher(one.to(self.device))))
                advance(1)
        hidden = None if good.hidden_items is None else good.hidden_items[rows]
        return ComparedImages(tuple(torch.cat(scale) for scale in zip(*found, strict=True)), good.valid[rows], hidden)


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


def restore_student(student: Student, saved: dict[str, Any]) -> ItemOrigins:
    """Load a checkpoint's student; its memory may hold fewer items than the settings say."""
    weights, origins = saved["student"], saved["origins"]
    student.recall.write(keys=weights["recall.keys"], values=weights["recall.values"])
    student.load_state_dict(weights)
    return ItemOrigins(origins["images"], origins["positions"])


def refuse_infinite(loss: float, *, step: int) -> None:
    """Raise TrainingError where a loss is not finite."""
    if not math.isfinite(loss):
        raise TrainingError(f"the loss at step {step} is not a finite number; nothing was written", kind="not-learned")
