"""From images to networks that have learned: features -> memory filled -> taught -> learning -> standardise.

What takes long are two courses of gradient steps; where each stands is kept in the workplace, and a run that resumes
does the rest of it and nothing twice.
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
from training.fit.distillation import Learning, Lesson
from training.fit.feature_store import GIB, Bound, Rows, Standardised
from training.fit.features import Reader, teacher_features, valid_at_scales
from training.fit.memory import Exemplars, Origins, Teaching, fill_memory, recalled_by, tell_usual_distances
from training.fit.networks import Networks, new_networks
from training.fit.run_directory import Workplace
from training.fit.statistics import fit_comparison
from training.progress import Narrator
from training.settings import TrainSettings

# Channel statistics from more images than these would change in the last digits only.
MOST_FOR_STATISTICS = 1000
NO_IMAGE = -1
Curves = dict[str, list[tuple[int, float]]]


class Course(Protocol):
    """Gradient steps one after another, whose state can be kept."""

    num_steps: int
    num_done: int

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do."""

    def step(self) -> dict[str, float]:
        """One batch; its losses by name."""

    def state(self) -> dict[str, Any]:
        """Where it stands."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""


@dataclass(frozen=True)
class Learned:
    """Networks on the CPU, which images the memory's items came from, and each loss by step: ``course: loss``."""

    networks: Networks
    origins: Origins
    curves: Curves


@dataclass
class Lessons:
    """One training's lessons."""

    settings: TrainSettings
    split: Split
    reader: Reader
    narrator: Narrator
    place: Workplace
    device: torch.device
    curves: Curves = field(default_factory=dict)

    def learned(self) -> Learned:
        """All of them, in order; raises TrainingError."""
        torch.manual_seed(self.settings.seed)
        self.generator = torch.Generator().manual_seed(self.settings.seed)
        networks = new_networks(self.settings)
        networks.to(self.device)
        kept = self.place.checkpoint or {}
        exemplars = self.exemplars(networks, kept)
        held_out = self.features(networks.teacher, self.split.standardise, "standardise")
        if not self.settings.quick:
            self.taught(networks.student, exemplars, kept)
        tell_usual_distances(networks.student, exemplars)
        if not self.settings.quick:
            self.extracting(networks.student, exemplars, self.held_out(networks.student, held_out), kept)
        networks.student.eval()
        self.standardise(networks, held_out)
        networks.to(torch.device("cpu"))
        return Learned(networks, exemplars.origins, self.curves)

    def exemplars(self, networks: Networks, kept: dict[str, Any]) -> Exemplars:
        """What there is to learn from; on the way the student gets its statistics and its memory."""
        paths = self.split.train
        features = self.features(networks.teacher, paths, "train")
        valid = valid_at_scales(self.reader.valid(paths), features)
        if not all(scale.any() for scale in valid):
            raise BadSettings("the region of interest is thinner than a feature: widen it, or take smaller strides")
        student = networks.student.to("cpu")
        some = torch.arange(min(features[0].shape[0], MOST_FOR_STATISTICS))
        student.fit_statistics(tuple(scale[some] for scale in features), tuple(scale[some] for scale in valid))
        standard = standard_rows(student, features)
        origins = restored(student, kept) if kept else self.filled(student, standard[0], valid[0])
        student.to(self.device)
        return Exemplars(standard, valid, origins)

    def features(self, teacher: Teacher, paths: Sequence[Path], part: str) -> tuple[Rows, ...]:
        """Teacher features of this part of the split, in memory or in the workplace."""
        bound = Bound(self.settings.feature_memory_gib * GIB, self.place.features / part)
        with self.narrator.step(f"features to {part}", total=len(paths)) as advance:
            return teacher_features(teacher, paths, reader=self.reader, bound=bound, on_images=advance)

    def filled(self, student: Student, standard: Rows, valid: Tensor) -> Origins:
        """The memory, written from a coreset of the first scale."""
        with self.narrator.step("memory", total=student.recall.num_items) as advance:
            origins = fill_memory(
                student,
                standard,
                valid,
                num_candidates=self.settings.num_candidates,
                generator=self.generator,
            )
            advance(student.recall.num_items)
        return origins

    def taught(self, student: Student, exemplars: Exemplars, kept: dict[str, Any]) -> None:
        """The memory's own course."""
        course = Teaching(student, exemplars, settings=self.settings.memory, generator=self.generator)
        if kept.get("course") == "learning":
            return  # it was over
        self.followed("teaching", course, student, exemplars.origins, kept)

    def extracting(self, student: Student, exemplars: Exemplars, held_out: Lesson, kept: dict[str, Any]) -> None:
        """The course of what extracts from the memory."""
        is_small = isinstance(exemplars.features[0], Standardised) and isinstance(exemplars.features[0].rows, Tensor)
        lesson = Lesson(exemplars, recalled_by(student, exemplars) if is_small else None)
        course = Learning(student, lesson, settings=self.settings.learning, generator=self.generator, held_out=held_out)
        self.followed("learning", course, student, exemplars.origins, kept)

    def followed(self, name: str, course: Course, student: Student, origins: Origins, kept: dict[str, Any]) -> None:
        """Every step of a course, told and kept. Raises NotLearned, Stopped, StoreUnusable."""
        if kept.get("course") == name:
            course.restore(kept["state"])
            self.generator.set_state(kept["generator"])
            self.curves.update(kept["curves"])
            self.narrator.say(f"{name} goes on at step {course.num_done}")
        due = Due(self.settings.checkpoint_interval_s)
        with self.narrator.step(name, total=course.num_steps, done=course.num_done) as advance:
            while not course.is_over:
                losses = course.step()
                refuse_infinite(losses["loss"], step=course.num_done)
                self.note(name, course.num_done, losses)
                if self.narrator.is_stopped() or due.is_now():
                    self.keep(name, course, student, origins)
                advance(1, note="  ".join(f"{one} {loss:.4f}" for one, loss in losses.items()))

    def note(self, course: str, step: int, losses: dict[str, float]) -> None:
        """Add to the curves."""
        for name, loss in losses.items():
            self.curves.setdefault(f"{course}: {name}", []).append((step, loss))

    def keep(self, name: str, course: Course, student: Student, origins: Origins) -> None:
        """Where the training stands, into the workplace."""
        self.place.keep(
            {
                "course": name,
                "state": course.state(),
                "generator": self.generator.get_state(),
                "curves": self.curves,
                "student": student.state_dict(),
                "origins": {"images": origins.images, "positions": origins.positions},
            }
        )

    def held_out(self, student: Student, features: tuple[Rows, ...]) -> Lesson:
        """Good parts that are not learned from, to see when learning has settled."""
        valid = valid_at_scales(self.reader.valid(self.split.standardise), features)
        nobody = torch.full((student.recall.num_items,), NO_IMAGE)
        exemplars = Exemplars(standard_rows(student, features), valid, Origins(nobody, nobody))
        return Lesson(exemplars, None)

    def standardise(self, networks: Networks, features: tuple[Rows, ...]) -> None:
        """The comparison's constants from good parts that nothing was learned from."""
        images = torch.arange(len(self.split.standardise))
        fit_comparison(
            networks.compare,
            networks.student,
            tuple(scale[images] for scale in features),
            self.reader.valid(self.split.standardise),
            emphasis=self.settings.emphasis,
        )


class Due:
    """Says when something that is done every so many seconds is due."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.last = time.monotonic()

    def is_now(self) -> bool:
        """Whether it is; then the next time is an interval away."""
        now = time.monotonic()
        if now - self.last < self.interval_s:
            return False
        self.last = now
        return True


def standard_rows(student: Student, features: tuple[Rows, ...]) -> tuple[Rows, ...]:
    """Teacher features in the student's standard space."""
    return tuple(
        Standardised(rows, standardiser)  # type: ignore[arg-type]  # a ModuleList forgets what it holds
        for rows, standardiser in zip(features, student.standardisers, strict=True)
    )


def restored(student: Student, kept: dict[str, Any]) -> Origins:
    """Give the student what it knew at a checkpoint; the memory may hold fewer items than the settings say."""
    weights, origins = kept["student"], kept["origins"]
    student.recall.write(keys=weights["recall.keys"], values=weights["recall.values"])
    student.load_state_dict(weights)
    return Origins(origins["images"], origins["positions"])


def refuse_infinite(loss: float, *, step: int) -> None:
    """Raise NotLearned where a loss is no number any more."""
    if not math.isfinite(loss):
        raise NotLearned(step=step)
