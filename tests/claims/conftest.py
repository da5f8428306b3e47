import pytest
import torch
from small_networks import THREE_SCALES, make_compare_spec
from small_networks import make_student as make_small_student

from model.compare import Compare

MAP_SIZE = (8, 10)


@pytest.fixture
def spec():
    """Three scales: that of the memory, a coarser one that it holds as well, and a finer one."""
    return THREE_SCALES


@pytest.fixture
def make_student(spec):
    """Makes students by their seed."""

    def make(seed, spec=spec):
        return make_small_student(spec, seed=seed)

    return make


@pytest.fixture
def make_compare():
    """Makes the comparison that belongs to a student."""

    def make(student):
        spec = make_compare_spec(student.spec, map_size=MAP_SIZE, top_shares=(0.02, 0.1))
        compare = Compare(spec, channels=student.spec.channels).eval()
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
