"""Distillation: the student learns to reconstruct good parts from what its memory recalls of other good parts."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from model.losses import distillation_loss, expected_distance_loss
from model.recall import Recalled
from model.similarity import distance
from model.student import Student
from training.fit.memory import BATCH_SIZE, FeatureDataset, recall_batch
from training.settings import LearningSettings

# Passes over the images where the settings name no number of steps, and the fewest and most steps then.
PASSES, MIN_STEPS, MAX_STEPS = 12, 400, 2000


@dataclass(frozen=True)
class LossParts:
    """One step's losses, unweighted: comparison over all scales, and expected distance."""

    distillation: float
    usual: float


OnStep = Callable[[int, LossParts], None]


@dataclass(frozen=True)
class TrainingSet:
    """Exemplars, and what each recalls from other parts; None where that is recalled at each step."""

    dataset: FeatureDataset
    recalled: Recalled | None

    def select(self, student: Student, images: Tensor) -> tuple[Recalled, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return what these images recall, and their features and valid positions, on the student's device."""
        device = student.recall.keys.device
        features, valid, _ = self.dataset.select(images, device)
        if self.recalled is None:
            return recall_batch(student, self.dataset, images), features, valid
        return Recalled(*(one[images].to(device) for one in self.recalled)), features, valid


def choose_num_steps(num_images: int, settings: LearningSettings) -> int:
    """Return the number of steps: the setting, else by the number of images."""
    if settings.num_steps is not None:
        return settings.num_steps
    return min(MAX_STEPS, max(MIN_STEPS, PASSES * num_images // settings.batch_size))


@dataclass
class EarlyStopping:
    """Stops once a loss has not improved by ``min_delta`` of itself in ``patience`` evaluations; 0 disables it."""

    patience: int
    min_delta: float
    best: float = 0.0
    num_since: int = 0
    num_evals: int = 0

    def update(self, loss: float) -> None:
        """Add one evaluation."""
        if self.num_evals == 0 or loss < self.best - self.min_delta * abs(self.best):
            self.best, self.num_since = loss, 0
        else:
            self.num_since += 1
        self.num_evals += 1

    @property
    def should_stop(self) -> bool:
        """Whether training should stop."""
        return 0 < self.patience <= self.num_since


class Distillation:
    """Trains the extraction modules, in place; the memory stays fixed.

    A training phase: call ``step`` until ``is_over``; ``state`` can be saved and restored. With ``held_out`` parts it
    stops early.
    """

    def __init__(
        self,
        student: Student,
        training_set: TrainingSet,
        *,
        settings: LearningSettings,
        generator: torch.Generator,
        held_out: TrainingSet | None = None,
    ) -> None:
        self.student = student
        self.training_set = training_set
        self.settings = settings
        self.generator = generator
        self.held_out = held_out
        self.num_steps = choose_num_steps(training_set.dataset.num_images, settings)
        self.num_done = 0
        self.early_stopping = EarlyStopping(settings.patience, settings.least_gain)
        extracting = [*student.first.parameters(), *student.later.parameters()]
        self.optimiser = torch.optim.AdamW(extracting, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser,
            max_lr=settings.learning_rate,
            total_steps=self.num_steps,
            pct_start=warm_up_share(self.num_steps),
        )
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.is_mixed)

    @property
    def is_mixed(self) -> bool:
        """Whether mixed precision is used: on CUDA alone."""
        return self.settings.mixed_precision and self.student.recall.keys.device.type == "cuda"

    @property
    def is_over(self) -> bool:
        """Whether all steps are done, or early stopping applies."""
        return self.num_done >= self.num_steps or self.early_stopping.should_stop

    def step(self) -> dict[str, float]:
        """Train on one batch; return its losses by name, with the held-out loss when it is due."""
        self.student.train()
        chosen = torch.randint(
            self.training_set.dataset.num_images, (self.settings.batch_size,), generator=self.generator
        )
        recalled, features, valid = self.training_set.select(self.student, chosen)
        loss, parts = compute_loss(
            self.student, recalled, features, valid, settings=self.settings, is_mixed=self.is_mixed
        )
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        self.num_done += 1
        self.student.eval()
        return {"loss": loss.item(), **asdict(parts), **self.evaluate_held_out()}

    def evaluate_held_out(self) -> dict[str, float]:
        """Return the held-out loss, every ``look_interval`` steps."""
        if self.held_out is None or self.num_done % self.settings.look_interval:
            return {}
        loss = compute_held_out_loss(self.student, self.held_out, settings=self.settings)
        self.early_stopping.update(loss)
        return {"held_out": loss}

    def state(self) -> dict[str, Any]:
        """Return the state of the phase, without the student and the generator."""
        return {
            "num_done": self.num_done,
            "settling": [self.early_stopping.best, self.early_stopping.num_since, self.early_stopping.num_evals],
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self.num_done = state["num_done"]
        self.early_stopping.best, self.early_stopping.num_since, self.early_stopping.num_evals = state["settling"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"] and self.is_mixed:  # kept on another kind of device, it has nothing to say here
            self.scaler.load_state_dict(state["scaler"])


def distill(
    student: Student,
    training_set: TrainingSet,
    *,
    settings: LearningSettings,
    generator: torch.Generator,
    on_step: OnStep,
) -> None:
    """Run the whole phase."""
    phase = Distillation(student, training_set, settings=settings, generator=generator)
    while not phase.is_over:
        losses = phase.step()
        on_step(phase.num_done, LossParts(losses["distillation"], losses["usual"]))


def warm_up_share(num_steps: int) -> float:
    """Return a tenth; a fifth of ten steps, since torch divides by zero where the warm-up is exactly one step."""
    return 0.2 if num_steps == 10 else 0.1


@torch.no_grad()
def compute_held_out_loss(student: Student, training_set: TrainingSet, *, settings: LearningSettings) -> float:
    """Return the mean loss of held-out good parts."""
    num_images = training_set.dataset.num_images
    total = 0.0
    for first in range(0, num_images, BATCH_SIZE):
        images = torch.arange(first, min(first + BATCH_SIZE, num_images))
        loss, _ = compute_loss(student, *training_set.select(student, images), settings=settings)
        total += loss.item() * len(images)
    return total / num_images


def compute_loss(
    student: Student,
    recalled: Recalled,
    features: tuple[Tensor, ...],
    valid: tuple[Tensor, ...],
    *,
    settings: LearningSettings,
    is_mixed: bool = False,
) -> tuple[Tensor, LossParts]:
    """Return the loss of one batch (``L_KD + c L_usual``) and its parts.

    ``is_mixed`` computes the extraction in half precision; the losses stay in float32.
    """
    with torch.autocast("cuda", enabled=is_mixed):
        extraction = student.extract(recalled, [(scale.shape[-2], scale.shape[-1]) for scale in features[1:]])
    distances = tuple(
        distance(expected, seen.float(), regularisation=student.spec.regularisation)
        for expected, seen in zip(features, extraction.features, strict=True)
    )
    distillation = distillation_loss(distances, valid, hardness=settings.hardness)
    usual_distances = [one.float() for one in extraction.expected_distances]
    usual = torch.stack(
        [expected_distance_loss(*scale) for scale in zip(distances, usual_distances, valid, strict=True)]
    ).sum()
    return distillation + settings.usual_weight * usual, LossParts(distillation.item(), usual.item())
