import math

import pytest
import torch

from model.losses import distillation_loss, expected_distance_loss, weighted_mean


def test_the_expected_distance_with_the_least_loss_is_the_mean_of_the_distances():
    distances = torch.tensor([0.1, 0.2, 0.6]).expand(1, 1, 3)
    everywhere = torch.ones(1, 1, 3)
    losses = {
        expected: expected_distance_loss(distances, torch.full_like(distances, expected), everywhere).item()
        for expected in (0.1, 0.2, 0.29, 0.3, 0.31, 0.6)
    }
    assert min(losses, key=losses.__getitem__) == 0.3


def test_positions_outside_do_not_count_for_expected_distances():
    distances = torch.tensor([0.1, 9.0]).expand(1, 1, 2)
    valid = torch.tensor([1.0, 0.0]).expand(1, 1, 2)
    expected = torch.full_like(distances, 0.1)
    alone = expected_distance_loss(distances[..., :1], expected[..., :1], valid[..., :1])
    torch.testing.assert_close(expected_distance_loss(distances, expected, valid), alone)


def test_an_expected_distance_does_not_pull_at_the_distance():
    distances = torch.full((1, 1, 2), 0.5, requires_grad=True)
    expected = torch.full((1, 1, 2), 0.2, requires_grad=True)
    expected_distance_loss(distances, expected, torch.ones(1, 1, 2)).backward()
    assert distances.grad is None
    assert expected.grad is not None


def test_without_a_valid_position_a_loss_is_0():
    assert weighted_mean(torch.ones(1, 2, 2), torch.zeros(1, 2, 2)).item() == 0


def test_a_weighted_mean_is_that_of_its_values():
    values, weights = torch.tensor([[[1.0, 2.0, 6.0]]]), torch.tensor([[[1.0, 3.0, 0.0]]])
    assert weighted_mean(values, weights).item() == (1 * 1 + 3 * 2) / 4


def test_the_loss_of_an_expected_distance_is_that_of_the_exponential_distribution():
    distances, expected = torch.tensor([[[0.2, 0.4]]]), torch.tensor([[[0.1, 0.8]]])
    likelihoods = [math.exp(-d / mean) / mean for d, mean in ((0.2, 0.1), (0.4, 0.8))]
    loss = expected_distance_loss(distances, expected, torch.ones(1, 1, 2)).item()
    assert loss == pytest.approx(-sum(map(math.log, likelihoods)) / 2)


def test_the_weights_of_hard_positions_carry_no_gradient():
    """Each position's gradient is its own weight in the mean."""
    distances = torch.tensor([[[0.1, 0.3]]], requires_grad=True)
    distillation_loss((distances,), (torch.ones(1, 1, 2),), hardness=1.0).backward()
    torch.testing.assert_close(distances.grad, torch.tensor([[[0.25, 0.75]]]))


def test_a_distance_that_rounding_made_negative_weighs_nothing():
    distances = torch.tensor([[[-1e-7, 0.5]]])
    assert distillation_loss((distances,), (torch.ones(1, 1, 2),), hardness=0.5).item() == pytest.approx(0.5)
