"""Goodpart as a method of the bench: the steps of ``training.job`` on features that are already there."""

from dataclasses import dataclass

import torch
from baselines.method import Features, Judged, parameters_bytes
from torch import Tensor

from model.compare import Compare
from model.student import Student
from model.teacher import average_neighbours
from training.fit.distillation import TrainingSet, distill
from training.fit.memory import (
    FeatureDataset,
    ItemOrigins,
    fill_memory,
    fit_expected_distances,
    recall_all,
    train_memory,
)
from training.fit.networks import make_compare_spec, make_student_spec
from training.fit.statistics import fit_comparison
from training.settings import TrainSettings

BATCH_SIZE = 16
# Images that tell the constants of the comparison where all train and none is held out.
NUM_TELLING = 200


def nothing(*_: object) -> None:
    """Progress that nobody follows."""


@dataclass
class Goodpart:
    """Memory, student and comparison by these settings.

    Where no good part is held out (``fit`` without ``standardise``), the comparison's constants come from the training
    images, each of which recalls no item of its own.
    """

    settings: TrainSettings
    student_class: type[Student] = Student
    student: Student | None = None
    compare: Compare | None = None
    telling: Tensor | None = None
    hidden: Tensor | None = None

    def taps(self, features: Features) -> tuple[Tensor, ...]:
        """Teacher features, the first scale first, as ``Teacher.forward`` gives them."""
        first, *later = (features[stride] for stride in self.settings.strides)
        return average_neighbours(first), *later

    def fit(self, train: Features, *, seed: int, standardise: Features | None = None) -> None:
        """Fill, teach, learn, standardise."""
        settings = self.settings
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        features = self.taps(train)
        channels = tuple(scale.shape[1] for scale in features)
        self.student = self.student_class(make_student_spec(settings, channels)).eval()
        self.compare = Compare(make_compare_spec(settings), channels=channels).eval()
        valid = tuple(torch.ones(len(scale), *scale.shape[-2:]) for scale in features)
        self.student.fit_statistics(features, valid)
        with torch.no_grad():
            standard = self.student.standardise(features)
        exemplars = FeatureDataset(standard, valid, self.fill(standard[0], valid[0], generator))
        self.train(exemplars, generator)
        if standardise is None:
            self.telling = torch.randperm(len(features[0]), generator=generator)[:NUM_TELLING]
            self.hidden = exemplars.origins.find_own_items(self.telling)
            self.tell(tuple(scale[self.telling] for scale in features))
        else:
            self.tell(self.taps(standardise))

    def tell(self, features: tuple[Tensor, ...]) -> None:
        """The comparison's constants from these good parts."""
        ones = torch.ones(len(features[0]), *self.settings.map_size)
        fit_comparison(
            self.compare,
            self.student,
            features,
            ones,
            emphasis=self.settings.emphasis,
            hidden_items=self.hidden,
        )

    def compared_by(self, settings: TrainSettings, train: Features) -> None:
        """Another comparison of what was learned, where no good part was held out."""
        self.settings = settings
        features = self.taps(train)
        self.compare = Compare(make_compare_spec(settings), channels=tuple(scale.shape[1] for scale in features)).eval()
        self.tell(tuple(scale[self.telling] for scale in features))

    def fill(self, standard: Tensor, valid: Tensor, generator: torch.Generator) -> ItemOrigins:
        """Fill the memory; ablations change this."""
        return fill_memory(
            self.student, standard, valid, num_candidates=self.settings.num_candidates, generator=generator
        )

    def train(self, exemplars: FeatureDataset, generator: torch.Generator) -> None:
        """Run the gradient steps; none for ``quick``."""
        settings = self.settings
        if not settings.quick:
            train_memory(self.student, exemplars, settings=settings.memory, generator=generator, on_step=nothing)
        fit_expected_distances(self.student, exemplars)
        if not settings.quick:
            lesson = TrainingSet(exemplars, recall_all(self.student, exemplars))
            distill(self.student, lesson, settings=settings.learning, generator=generator, on_step=nothing)
        self.student.eval()

    @torch.no_grad()
    def judge(self, features: Features) -> Judged:
        """Scores and maps of the comparison."""
        scales = self.taps(features)
        scores, maps = [], []
        for first in range(0, len(scales[0]), BATCH_SIZE):
            some = tuple(scale[first : first + BATCH_SIZE] for scale in scales)
            reconstruction = self.student(*some)
            everywhere = torch.ones(len(some[0]), *self.settings.map_size)
            answer = self.compare(some, reconstruction.features, reconstruction.expected_distances, everywhere)
            scores.append(answer.score)
            maps.append(answer.map)
        return Judged(torch.cat(scores), torch.cat(maps))

    def size_bytes(self) -> int:
        """Student, memory included, and comparison."""
        return parameters_bytes(self.student) + parameters_bytes(self.compare)
