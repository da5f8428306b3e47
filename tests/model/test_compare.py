import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.compare import Compare, CompareSpec, gaussian, top_mean
from model.similarity import distance

SPEC = CompareSpec(map_size=(8, 8), smoothing_sigma=0.8, top_share=0.1, regularisation=0.5)


@pytest.fixture
def compare():
    compare = Compare(SPEC, channels=(5, 4)).eval()
    compare.scale_means.copy_(torch.tensor([0.2, 0.4]))
    compare.scale_spreads.copy_(torch.tensor([0.1, 0.3]))
    compare.map_weights.copy_(torch.tensor([0.6, 0.4]))
    compare.score_weights.copy_(torch.tensor([0.7, 0.3]))
    return compare


def slow_top_mean(values, valid, share):
    inside = sorted((value for value, ok in zip(values, valid, strict=True) if ok), reverse=True)
    count = max(1, int(np.ceil(share * len(inside))))
    return sum(inside[:count]) / count if inside else 0.0


@given(st.integers(0, 2**31), st.sampled_from([0.01, 0.1, 0.25, 1.0]), st.floats(0, 1))
def test_the_score_is_the_mean_of_the_highest_share_of_valid_positions(seed, share, visible):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(6, 6)).astype(np.float32)
    valid = (generator.random((6, 6)) < visible).astype(np.float32)
    found = top_mean(torch.from_numpy(values)[None, None], torch.from_numpy(valid)[None], share=share)
    assert abs(found.item() - slow_top_mean(values.ravel(), valid.ravel(), share)) < 1e-5


def test_the_joint_map_is_the_weighted_sum_of_the_scale_maps(compare):
    torch.manual_seed(0)
    answer = compare.score(torch.rand(2, 2, 8, 8), torch.ones(2, 8, 8))
    expected = 0.6 * answer.scale_maps[:, 0] + 0.4 * answer.scale_maps[:, 1]
    torch.testing.assert_close(answer.map, expected)


def test_the_score_is_the_weighted_sum_of_the_scales_own_scores(compare):
    torch.manual_seed(0)
    answer = compare.score(torch.rand(2, 2, 8, 8), torch.ones(2, 8, 8))
    torch.testing.assert_close(answer.score, 0.7 * answer.scale_scores[:, 0] + 0.3 * answer.scale_scores[:, 1])


def test_a_position_is_as_wrong_as_it_is_far_off_against_what_is_usual_for_it(compare):
    torch.manual_seed(0)
    teacher = (torch.randn(1, 5, 4, 4), torch.randn(1, 4, 8, 8))
    student = (torch.randn(1, 5, 4, 4), torch.randn(1, 4, 8, 8))
    usual = (torch.ones(1, 4, 4), torch.ones(1, 8, 8))
    before = compare.relative_maps(teacher, student, usual)
    after = compare.relative_maps(teacher, student, (2 * usual[0], usual[1]))
    torch.testing.assert_close(after[:, 0], before[:, 0] / 2)
    torch.testing.assert_close(after[:, 1], before[:, 1])


def test_a_scale_map_is_the_distance_in_spreads_of_good_positions(compare):
    torch.manual_seed(0)
    distances = torch.rand(2, 2, 8, 8)
    answer = compare.score(distances, torch.ones(2, 8, 8))
    expected = (distances.numpy() - np.array([0.2, 0.4]).reshape(2, 1, 1)) / np.array([0.1, 0.3]).reshape(2, 1, 1)
    np.testing.assert_allclose(answer.scale_maps.numpy(), expected, rtol=1e-5)


def test_shares_are_what_each_scale_put_into_the_score(compare):
    """A defect that only scale 1 sees is scale 1's."""
    distances = torch.tensor([0.2, 0.4])[None, :, None, None].repeat(1, 1, 8, 8)
    distances[0, 0, 3:5, 3:5] = 1.0
    answer = compare.score(distances, torch.ones(1, 8, 8))
    torch.testing.assert_close(answer.scale_shares, torch.tensor([[1.0, 0.0]]))


def test_invalid_positions_count_nowhere(compare):
    distances = torch.full((1, 2, 8, 8), 0.3)
    valid = torch.ones(1, 8, 8)
    before = compare.score(distances, valid)
    distances[0, :, 2, 2] = 100
    valid[0, 2, 2] = 0
    after = compare.score(distances, valid)
    torch.testing.assert_close(before.score, after.score)
    assert after.map[0, 2, 2] == 0


def test_smoothing_is_the_slow_convolution_with_repeated_edges(compare):
    torch.manual_seed(0)
    maps = torch.rand(1, 1, 8, 8)
    kernel = gaussian(SPEC.smoothing_sigma).double().numpy()
    margin = len(kernel) // 2
    padded = np.pad(maps[0, 0].numpy(), margin, mode="edge")
    expected = np.zeros((8, 8))
    for y, x in np.ndindex(8, 8):
        expected[y, x] = (padded[y : y + len(kernel), x : x + len(kernel)] * np.outer(kernel, kernel)).sum()
    np.testing.assert_allclose(compare.smooth(maps)[0, 0].numpy(), expected, atol=1e-6)


def test_flat_features_are_alike_whatever_their_noise():
    """The reason for the constant channel: noise around zero has directions, but no say."""
    torch.manual_seed(0)
    noise = 0.01 * torch.randn(2, 1, 8, 4, 4)
    assert distance(noise[0], noise[1], regularisation=1.0).max() < 1e-3
    assert distance(noise[0], noise[1], regularisation=0.0).mean() > 0.5
