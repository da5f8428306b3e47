import pytest
import torch

from model.compare import Compare, CompareSpec
from model.student import Student, StudentSpec

MAP_SIZE = (8, 10)


@pytest.fixture
def spec():
    """Three scales: that of the memory, a coarser one that it holds as well, and a finer one."""
    return StudentSpec(
        channels=(6, 5, 4),
        strides=(16, 32, 8),
        hidden_channels=(8, 7, 5),
        bottleneck_channels=8,
        query_channels=9,
        num_stored=2,
        num_recall_items=7,
        num_read_items=4,
        num_adaptive_items=3,
        temperature=0.1,
        regularisation=0.5,
    )


@pytest.fixture
def make_student(spec):
    """Makes students whose standardisers are no identities, so that what skips one is found."""

    def make(seed, spec=spec):
        torch.manual_seed(seed)
        student = Student(spec).eval()
        for standardiser in (*student.standardisers, student.view.standardiser):
            standardiser.mean.normal_()
            standardiser.spread.uniform_(0.5, 2)
        return student

    return make


@pytest.fixture
def make_compare():
    """Makes the comparison that belongs to a student."""

    def make(student):
        compare = Compare(
            CompareSpec(
                map_size=MAP_SIZE,
                smoothing_sigma=0.5,
                top_shares=(0.02, 0.1),
                num_stored=student.spec.num_stored,
                num_recalled=len(student.spec.channels) if student.spec.extracts else student.spec.num_stored,
                num_extracted=len(student.spec.channels) if student.spec.extracts else 0,
                regularisation=student.spec.regularisation,
            ),
            channels=student.spec.channels,
        ).eval()
        compare.copy_statistics(student)
        return compare

    return make


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(5)
    return (
        torch.randn(2, 6, 4, 6, generator=generator),
        torch.randn(2, 5, 2, 3, generator=generator),
        torch.randn(2, 4, 8, 12, generator=generator),
    )
