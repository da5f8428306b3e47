"""The weights of the comparison, learned from synthetic defects."""

import pytest
import torch

from model.compare import Compare, CompareSpec
from training.fit.statistics import fit_weights

SIZE = 16


@pytest.fixture
def compare():
    spec = CompareSpec(
        map_size=(SIZE, SIZE),
        smoothing_sigma=1.0,
        top_shares=(0.01, 0.25),
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


@pytest.mark.parametrize("seen_by", [0, 1, 2])
def test_the_map_that_sees_the_defects_weighs_most(compare, seen_by):
    fit_weights(compare, make_maps(seen_by=seen_by, extent=8), torch.ones(90, SIZE, SIZE), num_good=30)
    assert compare.map_weights.argmax() == seen_by
    assert compare.map_weights[seen_by] > 0.4
    torch.testing.assert_close(compare.map_weights.sum(), torch.tensor(1.0))


def test_large_defects_raise_the_large_share_and_small_ones_the_small(compare):
    large = {}
    for extent, strength in ((2, 5), (10, 1)):
        torch.manual_seed(0)
        maps = torch.randn(90, 3, SIZE, SIZE)
        maps[30:, 0, :extent, :extent] += strength
        fit_weights(compare, maps, torch.ones(90, SIZE, SIZE), num_good=30)
        large[extent] = compare.share_weights[1].item()
    assert large[10] > large[2]


def test_defects_that_no_map_sees_leave_the_weights_nearly_even(compare):
    torch.manual_seed(0)
    fit_weights(compare, torch.randn(400, 3, SIZE, SIZE), torch.ones(400, SIZE, SIZE), num_good=200)
    assert (compare.map_weights - 1 / 3).abs().max() < 0.2


def test_what_lies_outside_the_region_of_interest_teaches_nothing(compare):
    maps, valid = make_maps(seen_by=0, extent=8), torch.ones(90, SIZE, SIZE)
    valid[:, :8, :8] = 0
    fit_weights(compare, maps, valid, num_good=30)
    first = compare.map_weights.clone()
    maps[:, :, :8, :8] = 0
    fit_weights(compare, maps, valid, num_good=30)
    torch.testing.assert_close(first, compare.map_weights)
