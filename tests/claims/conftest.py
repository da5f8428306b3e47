import pytest
import torch

from model.student import Student, StudentSpec


@pytest.fixture
def spec():
    return StudentSpec(
        channels=(6, 4),
        hidden_channels=(8, 5),
        num_recall_items=7,
        num_read_items=4,
        num_adaptive_items=3,
        temperature=0.1,
        regularisation=0.5,
    )


@pytest.fixture
def make_student(spec):
    def make(seed):
        torch.manual_seed(seed)
        return Student(spec).eval()

    return make


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(5)
    return (
        torch.randn(2, 6, 4, 5, generator=generator),
        torch.randn(2, 4, 8, 10, generator=generator),
    )
