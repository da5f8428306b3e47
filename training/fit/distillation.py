"""The gradient steps: the student learns to rebuild good parts from what its memory recalls of other good parts."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from model.losses import distillation_loss, usual_loss
from model.measure import distance
from model.recall import Recalled
from model.student import Student
from training.fit.memory import BATCH_SIZE, Exemplars, recalled_now
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
    """What there is to learn: exemplars, and what each recalls from other parts, None where that is asked each time."""

    exemplars: Exemplars
    recalled: Recalled | None

    def batch(self, student: Student, images: Tensor) -> tuple[Recalled, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What these images recall, their features and valid positions of every scale, on the student's device."""
        device = student.recall.keys.device
        features, valid, _ = self.exemplars.of(images, device)
        if self.recalled is None:
            return recalled_now(student, self.exemplars, images), features, valid
        return Recalled(*(one[images].to(device) for one in self.recalled)), features, valid


def num_steps_for(num_images: int, settings: LearningSettings) -> int:
    """How many batches are learned from: as many as the settings say, else by the number of images."""
    if settings.num_steps is not None:
        return settings.num_steps
    return min(MOST_STEPS, max(FEWEST_STEPS, PASSES * num_images // settings.batch_size))


@dataclass
class Settling:
    """Whether a loss has settled: not better by ``least_gain`` of itself in ``patience`` looks; 0 looks for ever."""

    patience: int
    least_gain: float
    best: float = 0.0
    num_since: int = 0
    num_looks: int = 0

    def look(self, loss: float) -> None:
        """Take note of one more loss."""
        if self.num_looks == 0 or loss < self.best - self.least_gain * abs(self.best):
            self.best, self.num_since = loss, 0
        else:
            self.num_since += 1
        self.num_looks += 1

    @property
    def has_settled(self) -> bool:
        """Whether more steps are in vain."""
        return 0 < self.patience <= self.num_since


class Learning:
    """Trains what extracts from the memory, in place; the memory itself stays as it was taught.

    A course: ``step`` after ``step``, its ``state`` can be kept and taken up again. With ``held_out`` good parts the
    course ends early where their loss has settled.
    """

    def __init__(
        self,
        student: Student,
        lesson: Lesson,
        *,
        settings: LearningSettings,
        generator: torch.Generator,
        held_out: Lesson | None = None,
    ) -> None:
        self.student = student
        self.lesson = lesson
        self.settings = settings
        self.generator = generator
        self.held_out = held_out
        self.num_steps = num_steps_for(lesson.exemplars.num_images, settings)
        self.num_done = 0
        self.settling = Settling(settings.patience, settings.least_gain)
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
        """Whether products are taken in half precision: on CUDA alone."""
        return self.settings.mixed_precision and self.student.recall.keys.device.type == "cuda"

    @property
    def is_over(self) -> bool:
        """Whether every step is done, or more of them are in vain."""
        return self.num_done >= self.num_steps or self.settling.has_settled

    def step(self) -> dict[str, float]:
        """One batch; its losses by name, with that of the held-out parts where it was their turn."""
        self.student.train()
        chosen = torch.randint(self.lesson.exemplars.num_images, (self.settings.batch_size,), generator=self.generator)
        recalled, features, valid = self.lesson.batch(self.student, chosen)
        loss, parts = step_loss(self.student, recalled, features, valid, settings=self.settings, is_mixed=self.is_mixed)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        self.num_done += 1
        self.student.eval()
        return {"loss": loss.item(), **asdict(parts), **self.looked_at_held_out()}

    def looked_at_held_out(self) -> dict[str, float]:
        """The held-out parts' loss, every ``look_interval`` steps."""
        if self.held_out is None or self.num_done % self.settings.look_interval:
            return {}
        loss = held_out_loss(self.student, self.held_out, settings=self.settings)
        self.settling.look(loss)
        return {"held_out": loss}

    def state(self) -> dict[str, Any]:
        """Where the course stands, beside the student and the generator."""
        return {
            "num_done": self.num_done,
            "settling": [self.settling.best, self.settling.num_since, self.settling.num_looks],
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.num_done = state["num_done"]
        self.settling.best, self.settling.num_since, self.settling.num_looks = state["settling"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"] and self.is_mixed:  # kept on another kind of device, it has nothing to say here
            self.scaler.load_state_dict(state["scaler"])


def learn(
    student: Student,
    lesson: Lesson,
    *,
    settings: LearningSettings,
    generator: torch.Generator,
    on_step: Progress,
) -> None:
    """The whole course at once."""
    course = Learning(student, lesson, settings=settings, generator=generator)
    while not course.is_over:
        losses = course.step()
        on_step(course.num_done, LossParts(losses["distillation"], losses["usual"]))


def warm_up_share(num_steps: int) -> float:
    """A tenth; a fifth of ten steps, since torch divides by zero where the warm-up is one step exactly."""
    return 0.2 if num_steps == 10 else 0.1


@torch.no_grad()
def held_out_loss(student: Student, lesson: Lesson, *, settings: LearningSettings) -> float:
    """The mean loss of good parts that are not learned from."""
    num_images = lesson.exemplars.num_images
    total = 0.0
    for first in range(0, num_images, BATCH_SIZE):
        images = torch.arange(first, min(first + BATCH_SIZE, num_images))
        loss, _ = step_loss(student, *lesson.batch(student, images), settings=settings)
        total += loss.item() * len(images)
    return total / num_images


def step_loss(
    student: Student,
    recalled: Recalled,
    features: tuple[Tensor, ...],
    valid: tuple[Tensor, ...],
    *,
    settings: LearningSettings,
    is_mixed: bool = False,
) -> tuple[Tensor, LossParts]:
    """The loss of one batch (``L_KD + c L_usual``) and its parts.

    ``is_mixed`` lets extraction take its products in half precision; what is squared is never that short.
    """
    with torch.autocast("cuda", enabled=is_mixed):
        extraction = student.extract(recalled, [(scale.shape[-2], scale.shape[-1]) for scale in features[1:]])
    distances = tuple(
        distance(expected, seen.float(), regularisation=student.spec.regularisation)
        for expected, seen in zip(features, extraction.features, strict=True)
    )
    distillation = distillation_loss(distances, valid, hardness=settings.hardness)
    usual_distances = [one.float() for one in extraction.usual_distances]
    usual = torch.stack([usual_loss(*scale) for scale in zip(distances, usual_distances, valid, strict=True)]).sum()
    return distillation + settings.usual_weight * usual, LossParts(distillation.item(), usual.item())
