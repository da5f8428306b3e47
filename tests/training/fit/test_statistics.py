"""The weights of the comparison, learned from synthetic defects."""

import pytest
import torch

from model.compare import Compare, CompareSpec, make_prior_weights
from training.fit.statistics import fit_weights

SIZE = 16


@pytest.fixture
def compare():
    spec = CompareSpec(
        map_size=(SIZE, SIZE),
        smoothing_sigma=1.0,
        top_shares=(0.01, 0.25),
        num_stored=1,
        num_recalled=1,
        num_extracted=2,
        regularisation=1.0,
    )
    return Compare(spec, channels=(4, 4))


def make_maps(*, seen_by, extent):
    """Noise of 30 good and 60 defective parts; a square of this extent is seen by one of three maps."""
    torch.manual_seed(0)
    maps = torch.randn(90, 3, SIZE, SIZE)
    maps[30:, seen_by, :extent, :extent] += 2
    return maps


def test_a_map_gains_weight_by_the_defects_that_it_sees(compare):
    weights = []
    for seen_by in range(3):
        fit_weights(compare, make_maps(seen_by=seen_by, extent=8), torch.ones(90, SIZE, SIZE), num_good=30)
        weights.append(compare.map_weights.clone())
    assert torch.stack(weights).argmax(0).tolist() == [0, 1, 2]
    torch.testing.assert_close(torch.stack(weights).sum(1), torch.ones(3))


def test_large_defects_raise_the_large_share_and_small_ones_the_small(compare):
    large = {}
    for extent, strength in ((2, 5), (10, 1)):
        torch.manual_seed(0)
        maps = torch.randn(90, 3, SIZE, SIZE)
        maps[30:, 0, :extent, :extent] += strength
        fit_weights(compare, maps, torch.ones(90, SIZE, SIZE), num_good=30)
        large[extent] = compare.share_weights[1].item()
    assert large[10] > large[2]


def test_defects_that_no_map_sees_leave_the_weights_as_they_were(compare):
    torch.manual_seed(0)
    fit_weights(compare, torch.randn(400, 3, SIZE, SIZE), torch.ones(400, SIZE, SIZE), num_good=200)
    assert (compare.map_weights - make_prior_weights(compare.spec)).abs().max() < 0.2


def test_positions_outside_the_region_of_interest_have_no_effect(compare):
    maps, valid = make_maps(seen_by=0, extent=8), torch.ones(90, SIZE, SIZE)
    valid[:, :8, :8] = 0
    fit_weights(compare, maps, valid, num_good=30)
    first = compare.map_weights.clone()
    maps[:, :, :8, :8] = 0
    fit_weights(compare, maps, valid, num_good=30)
    torch.testing.assert_close(first, compare.map_weights)
