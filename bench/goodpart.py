"""Goodpart as a method of the bench: the steps of ``training.job`` on features that are already there."""

from dataclasses import dataclass, field

import numpy as np
import torch
from baselines.method import Features, Judged, parameters_bytes
from evidence import PIXELS
from torch import Tensor

from model.compare import Compare
from model.student import Student
from training.evaluation.synthetic import draw_defects
from training.fit.distillation import TrainingSet, distil
from training.fit.memory import (
    FeatureDataset,
    ItemOrigins,
    fill_memory,
    fit_expected_distances,
    recall_all,
    train_memory,
)
from training.fit.networks import make_compare_spec, make_student_spec
from training.fit.statistics import ComparedImages, fit_comparison
from training.fit.trainer import NUM_DEFECTIVE, NUM_DEFECTS
from training.fit.weights import load_teacher
from training.settings import TrainSettings

BATCH_SIZE = 16
# Where all images train, this share is held out of distillation; the memory still holds them.
HELD_OUT_SHARE, MIN_HELD_OUT, MAX_HELD_OUT = 0.125, 8, 96


def ignore(*_: object) -> None:
    """Progress that is not shown."""


@dataclass
class Goodpart:
    """Memory, student and comparison by these settings.

    Where no good part is held out (``fit`` without ``standardise``), the comparison's constants come from training
    images that distillation has not seen, each of which recalls no item of its own.
    """

    settings: TrainSettings
    student_class: type[Student] = Student
    student: Student = field(init=False)
    compare: Compare = field(init=False)

    def tap(self, features: Features) -> tuple[Tensor, ...]:
        """Return teacher features, the first scale first, as ``Teacher.forward`` does."""
        return tuple(features[stride] for stride in self.settings.strides)

    def fit(self, train: Features, *, seed: int, standardise: Features | None = None) -> None:
        """Fill and train the memory, distil, fit the comparison."""
        settings = self.settings
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        if standardise is None:
            train, held_out = hold_out(train, generator)
        else:
            held_out = standardise
        both = tuple(torch.cat(pair) for pair in zip(self.tap(train), self.tap(held_out), strict=True))
        num_train = len(train[settings.strides[0]])
        channels = tuple(scale.shape[1] for scale in both)
        self.student = self.student_class(make_student_spec(settings, channels)).eval()
        self.compare = Compare(make_compare_spec(settings), channels=channels).eval()
        valid = tuple(torch.ones(1, 1, 1).expand(len(scale), *scale.shape[-2:]) for scale in both)
        self.student.fit_statistics(both, valid)
        with torch.no_grad():
            standard = self.student.standardise(both)
        origins = self.fill(standard, valid[0], generator)
        known = FeatureDataset(standard, valid, origins)
        self.train_memory(known, generator)
        self.fit_expected(known)
        self.distil(known, torch.arange(num_train), generator)
        self.student.eval()
        self.fit_comparison(held_out, origins, num_train, seed=seed)

    def fill(self, standard: tuple[Tensor, ...], valid: Tensor, generator: torch.Generator) -> ItemOrigins:
        """Fill the memory."""
        num_candidates = self.settings.num_candidates
        return fill_memory(self.student, standard, valid, num_candidates=num_candidates, generator=generator)

    def train_memory(self, known: FeatureDataset, generator: torch.Generator) -> None:
        """Train the memory, unless the settings say quick."""
        if not self.settings.quick:
            train_memory(self.student, known, settings=self.settings.memory, generator=generator, on_step=ignore)

    def fit_expected(self, known: FeatureDataset) -> None:
        """Fit the memory's expected distances."""
        fit_expected_distances(self.student, known)

    def distil(self, known: FeatureDataset, images: Tensor, generator: torch.Generator) -> None:
        """Train the student's modules on these images, where it has any modules."""
        if self.student.spec.extracts:
            training_set = TrainingSet(known, recall_all(self.student, known), images)
            distil(self.student, training_set, settings=self.settings.learning, generator=generator, on_step=ignore)

    def fit_comparison(self, held_out: Features, origins: ItemOrigins, num_train: int, *, seed: int) -> None:
        """Fit the comparison's constants, and the weights of its maps."""
        settings = self.settings
        images = torch.arange(len(held_out[PIXELS]))
        hidden = origins.find_own_items(images + num_train)
        valid = torch.ones(1, 1, 1).expand(len(images), *settings.map_size)
        pixels = held_out[PIXELS][:NUM_DEFECTIVE].numpy()
        drawn = draw_defects(pixels, valid[: len(pixels)].numpy(), number=NUM_DEFECTS, seed=seed)
        rows = images[: len(pixels)].repeat(NUM_DEFECTS)
        features = self.tap(compute_features(drawn, teacher=settings.teacher))
        fit_comparison(
            self.compare,
            self.student,
            ComparedImages(self.tap(held_out), valid, hidden),
            ComparedImages(features, valid[:1].expand(len(rows), -1, -1), hidden[rows]),
        )

    @torch.no_grad()
    def judge(self, features: Features) -> Judged:
        """Return scores and maps of the comparison."""
        scales = self.tap(features)
        scores, maps = [], []
        for rows in torch.arange(len(scales[0])).split(BATCH_SIZE):
            some = tuple(scale[rows] for scale in scales)
            valid = torch.ones(len(rows), *self.settings.map_size)
            answer = self.compare(some, self.student(*some), valid)
            scores.append(answer.score)
            maps.append(answer.map)
        return Judged(torch.cat(scores), torch.cat(maps))

    def size_bytes(self) -> int:
        """Return the bytes of student, memory included, and comparison."""
        return parameters_bytes(self.student) + parameters_bytes(self.compare)


def hold_out(features: Features, generator: torch.Generator) -> tuple[Features, Features]:
    """Split images at random into those to distil from and those to fit the comparison with."""
    num_images = len(features[PIXELS])
    num_held_out = min(MAX_HELD_OUT, max(MIN_HELD_OUT, round(HELD_OUT_SHARE * num_images)))
    order = torch.randperm(num_images, generator=generator)
    first, second = order[num_held_out:], order[:num_held_out]
    return {s: scale[first] for s, scale in features.items()}, {s: scale[second] for s, scale in features.items()}


@torch.no_grad()
def compute_features(images: np.ndarray, *, teacher: str) -> Features:
    """Return raw taps of images at every stride of the teacher."""
    strides = (4, 8, 16, 32)
    network = load_teacher(teacher, weights=None, sha256=None, strides=strides, taps={})
    batches: list[tuple[Tensor, ...]] = []
    for image in images:
        pixels = torch.from_numpy(image)[None]
        batches.append(tuple(network.network.forward_taps(network.normalise(pixels), network.taps)))
    return {stride: torch.cat([batch[k] for batch in batches]) for k, stride in enumerate(strides)}
