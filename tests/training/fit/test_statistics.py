"""The constants of the comparison, from good parts, and its weights, learned from synthetic defects."""

import copy
import math

import numpy as np
import pytest
import torch
from small_networks import TWO_SCALES, make_compare_spec

from model.compare import Compare, CompareSpec, make_prior_weights
from model.student import Student
from training.fit.statistics import (
    BATCH_SIZE,
    LEARNING_RATE,
    MIN_SPREAD,
    NUM_STEPS,
    PRIOR_WEIGHT,
    ComparedImages,
    fit_comparison,
    fit_weights,
    separation_loss,
)

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


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Student(TWO_SCALES).eval()


@pytest.fixture
def compare_student():
    """The comparison that belongs to the student, with constants that nothing was fitted to."""
    compare = Compare(make_compare_spec(TWO_SCALES, top_shares=(0.02, 0.1)), channels=TWO_SCALES.channels).eval()
    compare.map_means.fill_(77.0)
    compare.map_spreads.fill_(77.0)
    return compare


def make_images(seed, *, number=BATCH_SIZE + 3, shift=0.0):
    """Parts, more than a batch, of which no part sees the last columns, and each has given some items."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.ones(number, 8, 8)
    valid[:, :, 6:] = 0
    valid[0] = 0
    hidden = torch.arange(number)[:, None] % 9 == torch.arange(9)[None]
    sizes = ((6, 4, 4), (4, 8, 8))
    features = tuple(torch.randn(number, *size, generator=generator) + shift for size in sizes)
    return ComparedImages(features, valid, hidden)


def compare_one(compare, student, images, row):
    """The maps of one image, which does not recall its own items, by the comparison's own steps."""
    features = tuple(scale[row : row + 1] for scale in images.features)
    hidden = None if images.hidden_items is None else images.hidden_items[row : row + 1]
    distances = compare.compute_distances(features, student(*features, hidden_items=hidden))
    return compare.enlarge(distances, images.valid[row : row + 1])[0].detach()


def test_the_constants_are_mean_and_spread_of_each_map_over_valid_positions(student, compare_student):
    student.standardisers[0].mean.fill_(0.3)
    good = make_images(1)
    fit_comparison(compare_student, student, good)
    assert torch.equal(compare_student.standardisers[0].mean, student.standardisers[0].mean)
    rows = [compare_one(compare_student, student, good, row) for row in range(len(good.valid))]
    for number in range(4):
        values = np.concatenate(
            [maps[number][inside > 0].numpy() for maps, inside in zip(rows, good.valid, strict=True)]
        )
        assert compare_student.map_means[number].item() == pytest.approx(values.mean(), rel=1e-4)
        assert compare_student.map_spreads[number].item() == pytest.approx(values.std(ddof=1), rel=1e-4)


def test_good_parts_alone_leave_the_weights(student, compare_student):
    fit_comparison(compare_student, student, make_images(1))
    assert torch.equal(compare_student.map_weights, make_prior_weights(compare_student.spec))
    assert compare_student.share_weights.tolist() == [0.5, 0.5]


def test_with_defective_parts_the_weights_are_those_of_their_standardised_maps(student, compare_student):
    good, defective = make_images(1), make_images(2, number=5, shift=0.8)
    fit_comparison(compare_student, student, good, defective)
    maps = torch.stack(
        [
            compare_one(compare_student, student, images, row)
            for images in (good, defective)
            for row in range(len(images.valid))
        ]
    )
    again = copy.deepcopy(compare_student)
    fit_weights(
        again, compare_student.standardise(maps), torch.cat([good.valid, defective.valid]), num_good=len(good.valid)
    )
    assert not torch.equal(compare_student.map_weights, make_prior_weights(compare_student.spec))
    torch.testing.assert_close(compare_student.map_weights, again.map_weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(compare_student.share_weights, again.share_weights, rtol=1e-3, atol=1e-4)


def test_a_map_that_never_varies_is_not_divided_by_zero(student, compare_student):
    """A comparison of a channel that is constant, with a student that finds it exactly."""
    good = make_images(1, number=2)
    still = ComparedImages(tuple(torch.zeros_like(scale) for scale in good.features), good.valid)
    for parameter in (student.recall.values, *(module.extract.weight for module in (student.first, *student.later))):
        torch.nn.init.zeros_(parameter)
    for module in (student.first, *student.later):
        torch.nn.init.zeros_(module.extract.bias)
    fit_comparison(compare_student, student, still)
    assert compare_student.map_spreads[0].item() == pytest.approx(MIN_SPREAD)
    assert torch.isfinite(compare_student.standardise(torch.zeros(1, 4, 8, 8))).all()


def slow_separation(good, defective, slope, offset):
    """The logistic loss of both kinds, each a mean of its own, in a third of the spread of good parts."""
    mean, spread = np.mean(good), np.std(good, ddof=1)

    def p_defective(score):
        return 1 / (1 + math.exp(-(math.exp(slope) * (score - mean) / spread / 3 + offset)))

    return np.mean([-math.log(p_defective(score)) for score in defective]) + np.mean(
        [-math.log(1 - p_defective(score)) for score in good]
    )


def test_the_separation_loss_is_the_slow_logistic_loss():
    good, defective = [0.1, 0.5, 0.9, 0.3], [1.4, 0.8]
    affine = torch.tensor([0.4, -0.7])
    is_defective = torch.tensor([0.0] * 4 + [1.0] * 2)
    loss = separation_loss(torch.tensor(good + defective), is_defective, affine)
    assert loss.item() == pytest.approx(slow_separation(good, defective, 0.4, -0.7), rel=1e-5)


def test_the_units_of_the_scores_do_not_matter_for_their_separation():
    scores, is_defective = torch.tensor([0.1, 0.5, 0.9, 1.4]), torch.tensor([0.0, 0.0, 0.0, 1.0])
    one = separation_loss(scores, is_defective, torch.zeros(2))
    torch.testing.assert_close(separation_loss(1000 * scores - 5, is_defective, torch.zeros(2)), one)


def test_good_parts_that_all_score_alike_can_be_separated():
    loss = separation_loss(torch.tensor([0.5, 0.5, 0.9]), torch.tensor([0.0, 0.0, 1.0]), torch.zeros(2))
    assert torch.isfinite(loss)


def test_the_fewer_good_parts_the_less_the_weights_leave_the_prior(compare):
    """The same defects and the same noise, of 5 parts and of 30."""
    maps = make_maps(seen_by=2, extent=8)
    changes = []
    for num_good in (5, 30):
        some = torch.cat([maps[:num_good], maps[30:]])
        fit_weights(compare, some, torch.ones(len(some), SIZE, SIZE), num_good=num_good)
        changes.append((compare.map_weights - make_prior_weights(compare.spec)).abs().max().item())
    assert changes[0] < changes[1]


def slow_weights(compare, maps, num_good):
    """Gradient descent, by torch's Adam, of the separation loss and the squared change of the logits."""
    before = make_prior_weights(compare.spec).log()
    map_logits, share_logits, affine = before.clone(), torch.zeros(2), torch.zeros(2)
    parameters = [one.requires_grad_() for one in (map_logits, share_logits, affine)]
    optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    for _ in range(NUM_STEPS):
        joint = sum(weight * maps[:, number] for number, weight in enumerate(map_logits.softmax(0)))
        highest = joint.flatten(1).sort(descending=True).values
        means = [highest[:, : math.ceil(share * SIZE * SIZE)].mean(1) for share in compare.spec.top_shares]
        scores = sum(weight * mean for weight, mean in zip(share_logits.softmax(0), means, strict=True))
        loss = separation_loss(scores, (torch.arange(len(maps)) >= num_good).float(), affine)
        change = ((map_logits - before) ** 2).sum() + (share_logits**2).sum()
        loss = loss + PRIOR_WEIGHT * change / num_good
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return map_logits.softmax(0).detach(), share_logits.softmax(0).detach()


def test_the_weights_are_those_of_the_slow_descent(compare):
    maps = make_maps(seen_by=2, extent=8)[::3]
    fit_weights(compare, maps, torch.ones(30, SIZE, SIZE), num_good=10)
    map_weights, share_weights = slow_weights(compare, maps, 10)
    torch.testing.assert_close(compare.map_weights, map_weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(compare.share_weights, share_weights, rtol=1e-3, atol=1e-4)
