"""Distillation: the student learns to reconstruct good parts from its memory and the bottleneck."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.losses import distillation_loss, expected_distance_loss
from model.recall import Recalled
from model.similarity import cosine_distance
from model.student import Student
from training.fit.memory import BATCH_SIZE, FeatureDataset, recall_batch
from training.settings import LearningSettings

# Passes over the images where the settings give no number of steps, and the bounds of the steps then.
NUM_PASSES, MIN_STEPS, MAX_STEPS = 12, 1000, 2000
# Adam's decay rates as in reverse distillation: a short memory of gradients suits a short one-cycle schedule.
BETAS = (0.5, 0.999)
# Share of the steps in which the learning rate rises.
WARM_UP_SHARE = 0.3
# Weight of the expected distances' loss; its gradient reaches nothing but the decoder.
EXPECTED_WEIGHT = 0.1


@dataclass(frozen=True)
class TrainingSet:
    """The images of a dataset that a phase uses: their numbers (images), and what each image recalls from other parts.

    ``recalled``: of all images of the dataset, or None where it is computed at each step.
    """

    dataset: FeatureDataset
    recalled: Recalled | None
    images: Tensor

    def load(self, student: Student, images: Tensor) -> tuple[Recalled, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the recalled features, features and valid positions of these images, on the student's device."""
        device = student.recall.keys.device
        features, valid, _ = self.dataset.load(images, device)
        if self.recalled is None:
            return recall_batch(student, self.dataset, images), features, valid
        return pick_images(self.recalled, images, device), features, valid


def pick_images(recalled: Recalled, images: Tensor, device: torch.device) -> Recalled:
    """Return what these images recall, on a device."""
    return Recalled(
        features=tuple(scale[images].to(device) for scale in recalled.features),
        expected_distances=tuple(scale[images].to(device) for scale in recalled.expected_distances),
        items=recalled.items[images].to(device),
        weights=recalled.weights[images].to(device),
    )


def compute_num_steps(num_images: int, settings: LearningSettings) -> int:
    """Return the number of batches to learn from: that of the settings, or one that grows with the images."""
    if settings.num_steps is not None:
        return settings.num_steps
    return min(MAX_STEPS, max(MIN_STEPS, NUM_PASSES * num_images // settings.batch_size))


@dataclass
class EarlyStopping:
    """Stops when a loss has not improved by ``min_delta`` of itself in ``patience`` evaluations; 0 never stops.

    ``best_state``: the parameters at the best loss.
    """

    patience: int
    min_delta: float
    best: float = 0.0
    num_since: int = 0
    num_evaluations: int = 0
    best_state: dict[str, Tensor] | None = None

    def update(self, loss: float, student: Student) -> None:
        """Add one evaluation of the student."""
        if self.num_evaluations == 0 or loss < self.best - self.min_delta * abs(self.best):
            self.best, self.num_since = loss, 0
            self.best_state = {name: value.clone() for name, value in student.state_dict().items()}
        else:
            self.num_since += 1
        self.num_evaluations += 1

    @property
    def is_over(self) -> bool:
        """Whether to stop."""
        return 0 < self.patience <= self.num_since


class Distillation:
    """Trains everything but the memory, in place; the memory stays as it was filled and trained.

    A training phase: ``step`` after ``step``; its ``state`` can be saved and restored. With ``held_out`` good parts and
    a ``patience`` the phase ends early, with the weights of the lowest held-out loss.
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
        self.num_steps = compute_num_steps(len(training_set.images), settings)
        self.num_done = 0
        self.stopping = EarlyStopping(settings.patience, settings.min_delta)
        modules = (student.decoder, student.bottleneck, student.first, student.later)
        parameters = [parameter for module in modules if module is not None for parameter in module.parameters()]
        self.optimiser = torch.optim.AdamW(
            parameters, lr=settings.learning_rate, betas=BETAS, weight_decay=settings.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser,
            max_lr=settings.learning_rate,
            total_steps=self.num_steps,
            pct_start=WARM_UP_SHARE,
        )
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.is_mixed)

    @property
    def is_mixed(self) -> bool:
        """Whether products are computed in half precision: on CUDA alone."""
        return self.settings.mixed_precision and self.student.recall.keys.device.type == "cuda"

    @property
    def is_over(self) -> bool:
        """Whether every step is done, or the held-out loss stopped improving."""
        return self.num_done >= self.num_steps or self.stopping.is_over

    def step(self) -> dict[str, float]:
        """Train on one batch; return its loss, and the held-out loss where it was evaluated."""
        self.student.train()
        candidates = self.training_set.images
        images = candidates[torch.randint(len(candidates), (self.settings.batch_size,), generator=self.generator)]
        loss, expected_loss = compute_losses(
            self.student,
            *self.training_set.load(self.student, images),
            settings=self.settings,
            is_mixed=self.is_mixed,
        )
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(loss + EXPECTED_WEIGHT * expected_loss))
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        self.num_done += 1
        self.student.eval()
        losses = {"loss": loss.item(), **self._evaluate_held_out()}
        if self.is_over and self.stopping.best_state is not None:
            self.student.load_state_dict(self.stopping.best_state)
        return losses

    def _evaluate_held_out(self) -> dict[str, float]:
        if self.held_out is None or self.settings.patience == 0 or self.num_done % self.settings.eval_interval:
            return {}
        loss = compute_held_out_loss(self.student, self.held_out, settings=self.settings)
        self.stopping.update(loss, self.student)
        return {"held_out": loss}

    def state(self) -> dict[str, Any]:
        """Return the state of the phase, without the student and the generator."""
        return {
            "num_done": self.num_done,
            "stopping": [self.stopping.best, self.stopping.num_since, self.stopping.num_evaluations],
            "best": self.stopping.best_state,
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.num_done = state["num_done"]
        self.stopping.best, self.stopping.num_since, self.stopping.num_evaluations = state["stopping"]
        self.stopping.best_state = state["best"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"] and self.is_mixed:  # saved on another kind of device, it does not apply here
            self.scaler.load_state_dict(state["scaler"])


def distil(
    student: Student,
    training_set: TrainingSet,
    *,
    settings: LearningSettings,
    generator: torch.Generator,
    on_step: Callable[[int, float], None],
) -> None:
    """Run the whole phase. ``on_step`` gets the number of steps done and the loss."""
    phase = Distillation(student, training_set, settings=settings, generator=generator)
    while not phase.is_over:
        losses = phase.step()
        on_step(phase.num_done, losses["loss"])


@torch.no_grad()
def compute_held_out_loss(student: Student, held_out: TrainingSet, *, settings: LearningSettings) -> float:
    """Return the mean ``L_KD`` of good parts that are not learned from."""
    total = 0.0
    for images in torch.split(held_out.images, BATCH_SIZE):
        loss, _ = compute_losses(student, *held_out.load(student, images), settings=settings)
        total += loss.item() * len(images)
    return total / len(held_out.images)


def compute_losses(
    student: Student,
    recalled: Recalled,
    features: tuple[Tensor, ...],
    valid: tuple[Tensor, ...],
    *,
    settings: LearningSettings,
    is_mixed: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return ``L_KD`` of one batch, of decoded and extracted scales, and the loss of the expected distances.

    They are apart, since only the former is never below 0, so that a share of it says whether it still falls.

    ``is_mixed``: modules compute products in half precision; distances never do, as their squares overflow.
    """
    num_stored = student.spec.num_stored
    with torch.autocast("cuda", enabled=is_mixed):
        decoded, expected = student.decode(recalled, features)
        extracted = student.extract(recalled, features)
    distances = tuple(
        cosine_distance(target, found.float(), regularisation=student.spec.regularisation)
        for target, found in zip((*features[num_stored:], *features), (*decoded, *extracted), strict=True)
    )
    loss = distillation_loss(distances, (*valid[num_stored:], *valid), hardness=settings.hardness)
    expected_loss = loss.new_zeros(())
    for distance, mean, inside in zip(distances, expected, valid[num_stored:], strict=False):
        expected_loss = expected_loss + expected_distance_loss(distance, mean.float(), inside)
    return loss, expected_loss
