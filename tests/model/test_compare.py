import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.compare import Compare, CompareSpec, make_gaussian
from model.similarity import cosine_distance
from model.student import Reconstruction

SPEC = CompareSpec(
    map_size=(8, 8),
    smoothing_sigma=0.8,
    top_shares=(0.05, 0.25),
    num_stored=1,
    num_recalled=1,
    num_extracted=2,
    regularisation=0.5,
)
MAP_WEIGHTS, SHARE_WEIGHTS = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.7, 0.3])


@pytest.fixture
def compare():
    torch.manual_seed(0)
    compare = Compare(SPEC, channels=(5, 4)).eval()
    compare.map_means.copy_(torch.tensor([0.2, 0.4, 0.3]))
    compare.map_spreads.copy_(torch.tensor([0.1, 0.3, 0.2]))
    compare.map_weights.copy_(MAP_WEIGHTS)
    compare.share_weights.copy_(SHARE_WEIGHTS)
    return compare


def make_pair(seed=0):
    """Teacher features and a reconstruction of them."""
    torch.manual_seed(seed)
    sizes = ((5, 4, 4), (4, 8, 8))
    student = Reconstruction(
        recalled=(torch.randn(1, *sizes[0]),),
        expected_distances=(torch.rand(1, 4, 4) + 0.5,),
        extracted=tuple(torch.randn(1, *size) for size in sizes),
        items=torch.zeros(1, 16, 1),
        weights=torch.zeros(1, 16, 1),
    )
    return tuple(torch.randn(1, *size) for size in sizes), student


def slow_score(joint, valid):
    """The weighted mean of the means of the highest 5 % and 25 % of the valid positions, at least one of each."""
    inside = sorted((value for value, ok in zip(joint, valid, strict=True) if ok), reverse=True)
    if not inside:
        return 0.0
    counts = [max(1, int(np.ceil(np.float32(share) * np.float32(len(inside))))) for share in SPEC.top_shares]
    means = [sum(inside[:count]) / count for count in counts]
    return sum(weight * mean for weight, mean in zip(SHARE_WEIGHTS.tolist(), means, strict=True))


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_the_score_is_a_weighted_mean_of_the_maps_highest_valid_positions(seed, visible):
    generator = np.random.default_rng(seed)
    compare = Compare(SPEC, channels=(5, 4))
    compare.map_weights.copy_(MAP_WEIGHTS)
    compare.share_weights.copy_(SHARE_WEIGHTS)
    maps = torch.from_numpy(generator.normal(size=(1, 3, 8, 8)).astype(np.float32))
    valid = torch.from_numpy((generator.random((1, 8, 8)) < visible).astype(np.float32))
    found = compare.join(maps, valid)
    assert abs(found.score.item() - slow_score(found.map.flatten().tolist(), valid.flatten().tolist())) < 1e-5


def test_where_the_score_exceeds_a_threshold_so_does_the_map(compare):
    for seed in range(20):
        torch.manual_seed(seed)
        found = compare.join(torch.randn(4, 3, 8, 8), torch.ones(4, 8, 8))
        assert (found.map.flatten(1).amax(1) >= found.score - 1e-6).all()


def test_the_anomaly_map_is_the_weighted_sum_of_the_maps(compare):
    maps = torch.randn(2, 3, 8, 8)
    found = compare.join(maps, torch.ones(2, 8, 8))
    torch.testing.assert_close(found.map, torch.einsum("bmhw,m->bhw", maps, MAP_WEIGHTS))


def test_the_maps_contributions_sum_to_the_score(compare):
    found = compare.join(torch.rand(2, 3, 8, 8), torch.ones(2, 8, 8))
    torch.testing.assert_close(found.score, found.scale_scores @ MAP_WEIGHTS)
    torch.testing.assert_close(found.scale_shares.sum(1), torch.ones(2))


def test_a_defect_that_one_map_alone_sees_is_that_maps(compare):
    maps = torch.zeros(1, 3, 8, 8)
    maps[0, 1, 3:5, 3:5] = 1.0
    torch.testing.assert_close(compare.join(maps, torch.ones(1, 8, 8)).scale_shares, torch.tensor([[0.0, 1.0, 0.0]]))


def test_a_recalled_distance_is_relative_to_the_one_expected_there(compare):
    teacher, student = make_pair()
    before = compare.compute_distances(teacher, student)
    doubled = student._replace(expected_distances=(2 * student.expected_distances[0],))
    after = compare.compute_distances(teacher, doubled)
    torch.testing.assert_close(after[0], before[0] / 2)
    assert torch.equal(after[1], before[1])


def test_distances_are_damped_multiples_of_the_spread_of_good_positions(compare):
    distances = torch.rand(2, 3, 8, 8)
    z = (distances.numpy() - np.array([0.2, 0.4, 0.3]).reshape(3, 1, 1)) / np.array([0.1, 0.3, 0.2]).reshape(3, 1, 1)
    expected = np.sign(z) * np.log1p(np.abs(z))
    np.testing.assert_allclose(compare.standardise(distances).numpy(), expected, rtol=1e-4, atol=1e-6)


def test_nothing_outside_the_region_of_interest_reaches_map_or_score(compare):
    """Upsampling and smoothing must not carry it across the border."""
    teacher, student = make_pair()
    valid = torch.ones(1, 8, 8)
    valid[:, :, 4:] = 0
    changed = tuple(scale.clone() for scale in teacher)
    for scale in changed:
        scale[..., scale.shape[-1] // 2 :] += 10
    before, after = compare(teacher, student, valid), compare(changed, student, valid)
    # The memory averages 3 x 3 features of the first scale, so the column at the border does see its neighbour.
    assert torch.equal(before.scale_maps[:, 1:], after.scale_maps[:, 1:])
    assert before.map[0, :, 4:].abs().sum() == 0


def test_an_image_without_a_valid_position_scores_0(compare):
    teacher, student = make_pair()
    assert compare(teacher, student, torch.zeros(1, 8, 8)).score.item() == 0


def test_smoothing_is_the_slow_convolution_with_repeated_edges(compare):
    maps = torch.rand(1, 1, 8, 8)
    kernel = make_gaussian(SPEC.smoothing_sigma).double().numpy()
    margin = len(kernel) // 2
    padded = np.pad(maps[0, 0].numpy(), margin, mode="edge")
    expected = np.zeros((8, 8))
    for y, x in np.ndindex(8, 8):
        expected[y, x] = (padded[y : y + len(kernel), x : x + len(kernel)] * np.outer(kernel, kernel)).sum()
    np.testing.assert_allclose(compare._smooth(maps)[0, 0].numpy(), expected, atol=1e-6)


def test_flat_features_are_alike_whatever_their_noise():
    """The reason for the constant channel: noise around zero has directions, but they mean nothing."""
    torch.manual_seed(0)
    noise = 0.01 * torch.randn(2, 1, 8, 4, 4)
    assert cosine_distance(noise[0], noise[1], regularisation=1.0).max() < 1e-3
    assert cosine_distance(noise[0], noise[1], regularisation=0.0).mean() > 0.5
