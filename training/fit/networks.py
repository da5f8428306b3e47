"""The three networks of a version, created by the settings."""

from dataclasses import dataclass

import torch

from model.compare import Compare, CompareSpec
from model.student import Student, StudentSpec
from model.teacher import Teacher
from training.fit.weights import load_teacher
from training.settings import TrainSettings


@dataclass(frozen=True)
class Networks:
    """Teacher, student and comparison."""

    teacher: Teacher
    student: Student
    compare: Compare

    def to(self, device: torch.device) -> None:
        """Move all three to a device."""
        for network in (self.teacher, self.student, self.compare):
            network.to(device)


def create_networks(settings: TrainSettings) -> Networks:
    """Create the teacher with its weights, a student with a random memory, and a comparison. Raises TrainingError."""
    teacher = load_teacher(
        settings.teacher,
        weights=settings.teacher_weights,
        sha256=settings.teacher_sha256,
        strides=settings.strides,
        taps=settings.taps,
    )
    student = Student(make_student_spec(settings, teacher.channels)).eval()
    compare = Compare(make_compare_spec(settings), channels=teacher.channels).eval()
    return Networks(teacher, student, compare)


def make_student_spec(settings: TrainSettings, channels: tuple[int, ...]) -> StudentSpec:
    """Return the student's shape by the settings."""
    return StudentSpec(
        channels=channels,
        strides=settings.strides,
        hidden_channels=settings.hidden_channels,
        bottleneck_channels=settings.bottleneck_channels,
        query_channels=min(settings.query_channels, sum(channels)),
        num_stored=settings.num_stored,
        num_recall_items=settings.num_recall_items,
        num_read_items=settings.num_read_items,
        num_adaptive_items=settings.num_adaptive_items,
        temperature=settings.temperature,
        regularisation=settings.regularisation,
        extracts=settings.num_extracted > 0,
    )


def make_compare_spec(settings: TrainSettings) -> CompareSpec:
    """Return the comparison's shape by the settings."""
    return CompareSpec(
        map_size=settings.map_size,
        smoothing_sigma=settings.smoothing_sigma,
        top_shares=settings.top_shares,
        num_stored=settings.num_stored,
        num_recalled=settings.num_recalled,
        num_extracted=settings.num_extracted,
        regularisation=settings.regularisation,
    )
