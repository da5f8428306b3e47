"""The gradient steps: the student learns to rebuild good parts from what its memory recalls of other good parts."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.losses import distillation_loss, normality_loss, orthogonality_loss
from model.student import Student
from training.memory import Origins
from training.settings import LearningSettings


@dataclass(frozen=True)
class LossParts:
    """One step's losses, before their weights: per-scale comparison, normality, orthogonality."""

    distillation: float
    normality: float
    orthogonality: float


Progress = Callable[[int, LossParts], None]


def parameter_groups(student: Student, settings: LearningSettings) -> list[dict[str, object]]:
    """The memory learns slower than the rest: it holds real features already."""
    memory = list(student.recall.parameters())
    known = {id(parameter) for parameter in memory}
    rest = [parameter for parameter in student.parameters() if id(parameter) not in known]
    return [
        {"params": rest, "lr": settings.learning_rate},
        {"params": memory, "lr": settings.memory_learning_rate, "weight_decay": 0.0},
    ]


@dataclass(frozen=True)
class Lesson:
    """What there is to learn: standardised features of good parts, scales 1..K, and where they count.

    ``features``: (images, channels, height, width) a scale; ``valid``: (images, height, width), 1 or 0.
    """

    features: tuple[Tensor, ...]
    valid: tuple[Tensor, ...]
    origins: Origins

    def batch(self, images: Tensor, device: torch.device) -> "Lesson":
        """These images alone, on a device."""
        return Lesson(
            tuple(scale[images].to(device) for scale in self.features),
            tuple(scale[images].to(device) for scale in self.valid),
            self.origins,
        )


def learn(
    student: Student,
    lesson: Lesson,
    *,
    settings: LearningSettings,
    generator: torch.Generator,
    on_step: Progress,
) -> None:
    """Train ``student`` in place, ``settings.num_steps`` batches long."""
    student.recall.values.requires_grad_(settings.learn_values)
    optimiser = torch.optim.AdamW(parameter_groups(student, settings), weight_decay=settings.weight_decay)
    rates = [settings.learning_rate, settings.memory_learning_rate]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=rates,
        total_steps=settings.num_steps,
        pct_start=warm_up_share(settings.num_steps),
    )
    device = student.recall.keys.device
    student.train()
    for step in range(settings.num_steps):
        num_images = len(lesson.features[0])
        chosen = torch.randint(num_images, (settings.batch_size,), generator=generator)
        loss, parts = step_loss(
            student,
            lesson.batch(chosen, device),
            hidden_items=lesson.origins.hidden_from(chosen).to(device),
            settings=settings,
            generator=generator,
        )
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
    lesson: Lesson,
    *,
    hidden_items: Tensor,
    settings: LearningSettings,
    generator: torch.Generator,
) -> tuple[Tensor, LossParts]:
    """The loss of one batch (``L_KD + a L_NM + b L_orth``) and its parts."""
    regularisation = student.spec.regularisation
    expected, valid = lesson.features, lesson.valid
    extraction = student.extract(expected, hidden_items=hidden_items)
    distillation = distillation_loss(
        expected,
        extraction.features,
        valid,
        regularisation=regularisation,
        hardness=settings.hardness,
    )
    normality = normality_loss(extraction.recalled, expected[0], valid[0], regularisation=regularisation)
    some_keys = torch.randperm(student.recall.num_items, generator=generator)
    keys = student.recall.keys[some_keys[: settings.num_orthogonal_keys]]
    orthogonality = orthogonality_loss(keys)
    loss = distillation + settings.normality_weight * normality + settings.orthogonality_weight * orthogonality
    return loss, LossParts(distillation.item(), normality.item(), orthogonality.item())
