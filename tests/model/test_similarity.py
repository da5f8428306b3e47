import math

import numpy as np
import pytest
import torch

from model.similarity import cosine_distance, sum_channels, to_direction


def slow_direction(feature, regularisation):
    """A vector with one constant appended, divided by its length."""
    longer = [*feature, math.sqrt(regularisation * len(feature))]
    length = math.sqrt(sum(value**2 for value in longer))
    return [value / length for value in longer]


@pytest.mark.parametrize("regularisation", [0.0, 0.3, 2.0])
def test_directions_are_the_slow_directions(regularisation):
    features = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = to_direction(features, regularisation=regularisation)
    assert found.shape == (3, 4, 6)
    for row, column in np.ndindex(3, 4):
        expected = slow_direction(features[row, column].double().tolist(), regularisation)
        np.testing.assert_allclose(found[row, column].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("regularisation", [0.0, 0.3, 2.0])
def test_a_distance_is_1_less_the_product_of_the_directions(regularisation):
    one, other = torch.randn(2, 2, 5, 3, 4, generator=torch.Generator().manual_seed(1))
    found = cosine_distance(one, 3 * other, regularisation=regularisation)
    directions = [to_direction(maps.movedim(1, -1), regularisation=regularisation) for maps in (one, 3 * other)]
    torch.testing.assert_close(found, 1 - (directions[0] * directions[1]).sum(-1), atol=1e-6, rtol=0)


def test_the_distance_of_nothing_from_nothing_is_finite():
    nothing = torch.zeros(1, 3, 2, 2)
    assert cosine_distance(nothing, nothing, regularisation=0.0).tolist() == torch.ones(1, 2, 2).tolist()
    assert cosine_distance(nothing, nothing, regularisation=1.0).abs().max() < 1e-6


def test_small_features_count_as_features_all_the_same():
    """The bound on the norm only keeps from dividing by zero."""
    small = torch.full((1, 3, 1, 1), 1e-4)
    assert cosine_distance(small, -small, regularisation=0.0).item() == pytest.approx(2.0)


def test_the_sum_over_channels_is_the_sum_at_each_position():
    maps = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(sum_channels(maps), maps.sum(1))
