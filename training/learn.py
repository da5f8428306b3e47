"""The gradient steps: the student learns to rebuild good parts from what its memory recalls of other good parts."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.losses import distillation_loss, usual_loss
from model.measure import distance
from model.recall import Recalled
from model.student import Student
from training.memory import Exemplars
from training.settings import LearningSettings

# Passes over the images where the settings name no number of steps, and the fewest and most steps then.
PASSES, FEWEST_STEPS, MOST_STEPS = 12, 400, 2000


@dataclass(frozen=True)
class LossParts:
    """One step's losses, before their weights: per-scale comparison, and how far good parts usually are."""

    distillation: float
    usual: float


Progress = Callable[[int, LossParts], None]


@dataclass(frozen=True)
class Lesson:
    """What there is to learn: exemplars, and what each recalls from other parts."""

    exemplars: Exemplars
    recalled: Recalled

    def batch(self, images: Tensor, device: torch.device) -> tuple[Recalled, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What these images recall, their features and valid positions of every scale, on a device."""
        features, valid, _ = self.exemplars.of(images, device)
        return Recalled(*(one[images].to(device) for one in self.recalled)), features, valid


def num_steps_for(num_images: int, settings: LearningSettings) -> int:
    """How many batches are learned from: as many as the settings say, else by the number of images."""
    if settings.num_steps is not None:
        return settings.num_steps
    return min(MOST_STEPS, max(FEWEST_STEPS, PASSES * num_images // settings.batch_size))


def learn(
    student: Student,
    lesson: Lesson,
    *,
    settings: LearningSettings,
    generator: torch.Generator,
    on_step: Progress,
) -> None:
    """Train what extracts from the memory, in place; the memory itself stays as it was taught."""
    extracting = [*student.first.parameters(), *student.later.parameters()]
    num_steps = num_steps_for(lesson.exemplars.num_images, settings)
    optimiser = torch.optim.AdamW(extracting, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=settings.learning_rate,
        total_steps=num_steps,
        pct_start=warm_up_share(num_steps),
    )
    device = student.recall.keys.device
    student.train()
    for step in range(num_steps):
        chosen = torch.randint(lesson.exemplars.num_images, (settings.batch_size,), generator=generator)
        recalled, features, valid = lesson.batch(chosen, device)
        loss, parts = step_loss(student, recalled, features, valid, settings=settings)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        on_step(step + 1, parts)
    student.eval()


def warm_up_share(num_steps: int) -> float:
    """A tenth; a fifth of ten steps, since torch divides by zero where the warm-up is one step exactly."""
    return 0.2 if num_steps == 10 else 0.1


def step_loss(
    student: Student,
    recalled: Recalled,
    features: tuple[Tensor, ...],
    valid: tuple[Tensor, ...],
    *,
    settings: LearningSettings,
) -> tuple[Tensor, LossParts]:
    """The loss of one batch (``L_KD + c L_usual``) and its parts."""
    extraction = student.extract(recalled, [(scale.shape[-2], scale.shape[-1]) for scale in features[1:]])
    distances = tuple(
        distance(expected, seen, regularisation=student.spec.regularisation)
        for expected, seen in zip(features, extraction.features, strict=True)
    )
    distillation = distillation_loss(distances, valid, hardness=settings.hardness)
    usual = torch.stack(
        [usual_loss(*scale) for scale in zip(distances, extraction.usual_distances, valid, strict=True)]
    ).sum()
    return distillation + settings.usual_weight * usual, LossParts(distillation.item(), usual.item())
