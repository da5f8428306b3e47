import numpy as np
import torch

from model.losses import distillation_loss, normality_loss
from model.similarity import cosine_distance


def slow_distance(a, b, regularisation):
    """1 - cos of two vectors with a constant appended."""
    constant = np.sqrt(regularisation * len(a))
    a, b = np.append(a, constant), np.append(b, constant)
    return 1 - a @ b / np.sqrt((a @ a) * (b @ b))


def slow_distances(expected, seen, regularisation):
    distances = np.zeros((expected.shape[0], *expected.shape[2:]))
    for batch, y, x in np.ndindex(distances.shape):
        distances[batch, y, x] = slow_distance(expected[batch, :, y, x], seen[batch, :, y, x], regularisation)
    return distances


def test_the_normality_loss_is_the_mean_distance():
    torch.manual_seed(0)
    recalled, exemplars = torch.randn(2, 2, 5, 3, 3)
    expected = slow_distances(exemplars.numpy(), recalled.numpy(), 0.5).mean()
    assert abs(normality_loss(recalled, exemplars, torch.ones(2, 3, 3), regularisation=0.5).item() - expected) < 1e-6


def test_gradients_reach_what_was_recalled_and_not_the_exemplar():
    torch.manual_seed(0)
    recalled = torch.randn(2, 5, 3, 3, requires_grad=True)
    exemplars = torch.randn(2, 5, 3, 3, requires_grad=True)
    normality_loss(recalled, exemplars, torch.ones(2, 3, 3), regularisation=0.5).backward()
    assert recalled.grad.abs().sum() > 0
    assert exemplars.grad is None


def make_pair(seed=0):
    torch.manual_seed(seed)
    return torch.randn(2, 2, 5, 3, 3)


def test_distillation_sums_the_scales_mean_distances():
    torch.manual_seed(0)
    teacher = (torch.randn(2, 5, 3, 3), torch.randn(2, 4, 6, 6))
    student = (torch.randn(2, 5, 3, 3), torch.randn(2, 4, 6, 6))
    expected = sum(slow_distances(t.numpy(), s.numpy(), 0.5).mean() for t, s in zip(teacher, student, strict=True))
    distances = tuple(cosine_distance(t, s, regularisation=0.5) for t, s in zip(teacher, student, strict=True))
    loss = distillation_loss(distances, (torch.ones(2, 3, 3), torch.ones(2, 6, 6)), hardness=0.0)
    assert abs(loss.item() - expected) < 1e-6


def test_hard_positions_weigh_by_their_distance():
    teacher, student = make_pair()
    distances = slow_distances(teacher.numpy(), student.numpy(), 0.5)
    loss = distillation_loss(
        (cosine_distance(teacher, student, regularisation=0.5),), (torch.ones(2, 3, 3),), hardness=1.0
    )
    assert abs(loss.item() - (distances**2).sum() / distances.sum()) < 1e-6


def test_what_lies_outside_the_region_of_interest_costs_nothing():
    teacher, student = make_pair()
    valid = torch.zeros(2, 3, 3)
    valid[:, 1] = 1
    expected = slow_distances(teacher.numpy(), student.numpy(), 0.5)[:, 1].mean()
    distances = cosine_distance(teacher, student, regularisation=0.5)
    assert abs(distillation_loss((distances,), (valid,), hardness=0.0).item() - expected) < 1e-6
    assert abs(normality_loss(student, teacher, valid, regularisation=0.5).item() - expected) < 1e-6
