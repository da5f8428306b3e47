from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import TWO_SCALES, make_student

from model.compare import Compare, CompareSpec, make_gaussian, make_prior_weights, to_shares
from model.fusion import average_neighbours, resize
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


def slow_bilinear(values, size):
    """Values at another size, each position by its four neighbours; edges are repeated."""
    found = np.zeros(size)
    for row, column in np.ndindex(size):
        y = max(0.0, (row + 0.5) * values.shape[0] / size[0] - 0.5)
        x = max(0.0, (column + 0.5) * values.shape[1] / size[1] - 0.5)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, values.shape[0] - 1), min(left + 1, values.shape[1] - 1)
        down, across = y - top, x - left
        upper = values[top, left] * (1 - across) + values[top, right] * across
        lower = values[bottom, left] * (1 - across) + values[bottom, right] * across
        found[row, column] = upper * (1 - down) + lower * down
    return found


def slow_smooth(values, kernel):
    """Each position as the weighted mean of its neighbours; edges are repeated."""
    margin = len(kernel) // 2
    padded = np.pad(values, margin, mode="edge")
    found = np.zeros_like(values)
    for y, x in np.ndindex(values.shape):
        found[y, x] = (padded[y : y + len(kernel), x : x + len(kernel)] * np.outer(kernel, kernel)).sum()
    return found


def test_distance_maps_are_enlarged_and_smoothed_from_valid_positions_alone(compare):
    torch.manual_seed(0)
    distance = torch.rand(1, 4, 4)
    valid = torch.ones(1, 8, 8)
    valid[:, :3, :5] = 0
    kernel = make_gaussian(SPEC.smoothing_sigma).double().numpy()
    inside = valid[0].double().numpy()
    coarse = inside.reshape(4, 2, 4, 2).mean((1, 3))
    weights = slow_bilinear(coarse, (8, 8))
    enlarged = slow_bilinear(distance[0].double().numpy() * coarse, (8, 8)) / np.maximum(weights, 1e-6)
    expected = slow_smooth(enlarged * inside, kernel) / np.maximum(slow_smooth(inside, kernel), 1e-6)
    found = compare.enlarge((distance,), valid)
    assert found.shape == (1, 1, 8, 8)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-5)


def test_a_constant_distance_stays_what_it_is_at_any_size_and_border(compare):
    valid = (torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    found = compare.enlarge((torch.full((1, 4, 4), 0.7), torch.full((1, 16, 16), 0.7)), valid)
    torch.testing.assert_close(found * valid[:, None], 0.7 * valid[:, None].expand(1, 2, 8, 8))


def test_the_kernel_is_a_gaussian_out_to_three_sigma():
    for sigma, margin in ((0.8, 2), (2.0, 6), (0.1, 1)):
        bell = [np.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-margin, margin + 1)]
        np.testing.assert_allclose(make_gaussian(sigma).numpy(), np.array(bell) / sum(bell), rtol=1e-5)


def make_spec(**shape):
    return replace(SPEC, **shape)


@pytest.mark.parametrize(
    ("num_stored", "num_recalled", "num_extracted", "expected"),
    [
        (2, 3, 3, (4, 2, 4, 2, 1, 1)),
        (1, 3, 2, (4, 4, 4, 2, 1)),
        (3, 3, 0, (4, 2, 2)),
        (1, 1, 0, (4,)),
    ],
)
def test_before_anything_is_known_the_memorys_first_and_its_decoded_scales_count_most(
    num_stored, num_recalled, num_extracted, expected
):
    """Decision 014: twice the first extracted scale; every scale counts."""
    spec = make_spec(num_stored=num_stored, num_recalled=num_recalled, num_extracted=num_extracted)
    assert make_prior_weights(spec).tolist() == pytest.approx([one / sum(expected) for one in expected])
    assert torch.equal(Compare(spec, channels=(5, 4, 3)).map_weights, make_prior_weights(spec))


def test_recalled_decoded_and_extracted_scales_are_each_compared_with_the_teachers_own():
    """Two stored scales as the memory sees them, a decoded one at its own size, then all three as extracted."""
    torch.manual_seed(0)
    sizes = ((5, 4, 4), (4, 2, 2), (3, 8, 8))
    compare = Compare(make_spec(num_stored=2, num_recalled=3, num_extracted=3), channels=(5, 4, 3)).eval()
    for one in (*compare.standardisers, compare.view.standardiser):
        one.mean.normal_()
        one.spread.uniform_(0.5, 2)
    teacher = tuple(torch.randn(2, *size) for size in sizes)
    student = Reconstruction(
        recalled=(torch.randn(2, 5, 4, 4), torch.randn(2, 4, 4, 4), torch.randn(2, 3, 8, 8)),
        expected_distances=tuple(torch.rand(2, side, side) + 0.5 for side in (4, 4, 8)),
        extracted=tuple(torch.randn(2, *size) for size in sizes),
        items=torch.zeros(2, 16, 1),
        weights=torch.zeros(2, 16, 1),
    )
    standard = [one(scale) for one, scale in zip(compare.standardisers, teacher, strict=True)]
    seen = (compare.view.standardiser(average_neighbours(standard[0])), resize(standard[1], (4, 4)), standard[2])
    expected = [
        cosine_distance(own, found, regularisation=SPEC.regularisation) / ordinary
        for own, found, ordinary in zip(seen, student.recalled, student.expected_distances, strict=True)
    ]
    expected += [
        cosine_distance(own, one(found), regularisation=SPEC.regularisation)
        for own, one, found in zip(standard, compare.standardisers, student.extracted, strict=True)
    ]
    distances = compare.compute_distances(teacher, student)
    assert len(distances) == 6
    for found, one in zip(distances, expected, strict=True):
        torch.testing.assert_close(found, one)


def test_the_statistics_are_copied_from_the_student():
    student = make_student(replace(TWO_SCALES, channels=(5, 4)))
    compare = Compare(SPEC, channels=(5, 4))
    compare.copy_statistics(student)
    assert torch.equal(compare.standardisers[1].mean, student.standardisers[1].mean)
    assert torch.equal(compare.view.standardiser.spread, student.view.standardiser.spread)


def test_negative_contributions_have_no_share_and_where_all_are_none_has():
    found = to_shares(torch.tensor([[3.0, -5.0, 1.0], [-1.0, -2.0, 0.0]]))
    assert found.tolist() == [[0.75, 0.0, 0.25], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(("share", "expected"), [(0.25, 16), (0.251, 17), (1.0, 64), (0.001, 1)])
def test_as_many_positions_are_ranked_as_the_largest_share_covers(share, expected):
    assert Compare(make_spec(top_shares=(share,)), channels=(5, 4)).num_ranks == expected


def test_a_defect_lower_than_all_else_is_still_found_beside_what_is_hidden(compare):
    """Positions outside have no value at all, not a low one."""
    joint = torch.full((1, 8, 8), -50.0)
    joint[0, 7, 7] = -40
    valid = torch.zeros(1, 8, 8)
    valid[0, 7] = 1
    values, positions = compare.find_top(joint, valid)
    assert values[0, :8].tolist() == [-40.0, *[-50.0] * 7]
    assert positions[0, 0] == 63
    assert (positions[0, :8] >= 56).all()


def test_the_whole_comparison_is_distances_enlarged_standardised_and_joined(compare):
    teacher, student = make_pair()
    valid = torch.ones(1, 8, 8)
    valid[:, :2] = 0
    enlarged = compare.enlarge(compare.compute_distances(teacher, student), valid)
    expected = compare.join(compare.standardise(enlarged), valid)
    for found, one in zip(compare(teacher, student, valid), expected, strict=True):
        assert torch.equal(found, one)
    assert expected.scale_maps.abs().sum() > 0
