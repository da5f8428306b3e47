"""The student's parts, with small scales: the memory's, a coarser one that it holds as well, and a finer one."""

from dataclasses import replace

import pytest
import torch
from small_networks import THREE_SCALES, make_student
from torch import nn

from model.fusion import average_neighbours, resize
from model.standardise import Standardiser
from model.student import LOG_DISTANCES, LaterModule, MemoryDecoder, Student


@pytest.fixture
def student():
    student = make_student()
    student.recall.expected_distances.uniform_(0.5, 2)
    return student


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(5)
    sizes = ((6, 4, 6), (5, 2, 3), (4, 8, 12))
    return tuple(torch.randn(2, *size, generator=generator) for size in sizes)


def test_a_later_modules_feature_is_its_initial_feature_refined_by_its_memory():
    torch.manual_seed(0)
    module = LaterModule(num_in=6, num_channels=4, hidden_channels=5, num_items=3).eval()
    hidden = torch.randn(2, 6, 4, 4)
    initial = module.initial(resize(module.narrow(hidden), (8, 8)))
    refined = initial + module.merge(torch.cat([initial, module.memory(initial)], dim=1))
    assert torch.equal(module(hidden, (8, 8)), module.extract(refined))


def test_a_decoded_expected_distance_is_an_exponential_within_its_bounds():
    torch.manual_seed(0)
    later = [LaterModule(num_in=8, num_channels=4, hidden_channels=5, num_items=3) for _ in range(2)]
    decoder = MemoryDecoder(num_in=11, hidden_channels=8, later=later).eval()
    assert decoder.log_distances.weight.abs().max() == 0  # it begins with the mean of all positions
    recalled = (torch.randn(1, 6, 3, 4), torch.randn(1, 5, 3, 4))
    for bias, expected in ((0.5, 0.5), (9.0, LOG_DISTANCES[1]), (-9.0, LOG_DISTANCES[0])):
        nn.init.constant_(decoder.log_distances.bias, bias)
        decoded, distances = decoder(recalled, [(6, 8), (2, 3)])
        assert [scale.shape for scale in decoded] == [(1, 4, 6, 8), (1, 4, 2, 3)]
        assert [scale.shape for scale in distances] == [(1, 6, 8), (1, 2, 3)]
        for one in distances:
            torch.testing.assert_close(one.log(), torch.full_like(one, expected))


def test_reconstructing_is_query_recall_decoding_and_extraction_one_after_the_other(student, features):
    """Written out, with the statistics applied by hand: in by the teacher's mean and spread, and out again."""
    standard = tuple(
        (scale - one.mean[:, None, None]) / one.spread[:, None, None]
        for scale, one in zip(features, student.standardisers, strict=True)
    )
    recalled = student.recall(student.fusion(*student.view(standard)))
    decoded, expected = student.decode(recalled, standard)
    hidden, first = student.first(recalled.features, student.bottleneck(*standard))
    sizes = [tuple(scale.shape[-2:]) for scale in standard]
    later = [module(hidden, size) for module, size in zip(student.later, sizes[1:], strict=True)]
    extracted = [
        scale * one.spread[:, None, None] + one.mean[:, None, None]
        for scale, one in zip((first, *later), student.standardisers, strict=True)
    ]
    found = student(*features)
    for name, value in (
        ("recalled", (*recalled.features, *decoded)),
        ("expected_distances", (*recalled.expected_distances, *expected)),
        ("extracted", extracted),
        ("items", (recalled.items,)),
        ("weights", (recalled.weights,)),
    ):
        own = getattr(found, name)
        for one, other in zip(own if isinstance(own, tuple) else (own,), value, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_the_memory_is_asked_with_all_scales(student, features, scale):
    changed = tuple(feature + (k == scale) for k, feature in enumerate(features))
    before, after = student.make_query(features), student.make_query(changed)
    assert not torch.allclose(before, after)
    assert not torch.allclose(student(*features).weights, student(*changed).weights)


def test_a_value_of_the_memory_is_what_it_sees_of_the_stored_scales(student, features):
    values = student.make_values(features)
    assert values.shape == (2, 6 + 5, 4, 6)
    assert torch.equal(values[:, :6], student.view.standardiser(average_neighbours(features[0])))
    assert torch.equal(values[:, 6:], resize(features[1], (4, 6)))


def test_items_that_are_hidden_from_an_image_change_what_it_reconstructs(student, features):
    hidden = torch.zeros(2, 7, dtype=torch.bool)
    hidden[0, :3] = True
    found = student(*features, hidden_items=hidden)
    assert not set(found.items[0].flatten().tolist()) & {0, 1, 2}
    assert torch.equal(found.extracted[0][1:], student(*features).extracted[0][1:])


def test_statistics_are_those_of_valid_positions(student, features):
    valid = tuple((torch.rand(2, *scale.shape[-2:]) < 0.6).float() for scale in features)
    student.fit_statistics(features, valid)
    for scale, inside, one in zip(features, valid, student.standardisers, strict=True):
        positions = scale.movedim(1, -1)[inside > 0]
        torch.testing.assert_close(one.mean, positions.mean(0))
        torch.testing.assert_close(one.spread, positions.std(0))
    seen = average_neighbours(student.standardisers[0](features[0])).movedim(1, -1)[valid[0] > 0]
    torch.testing.assert_close(student.view.standardiser.mean, seen.mean(0))
    torch.testing.assert_close(student.view.standardiser.spread, seen.std(0))


def test_a_student_that_stores_every_scale_has_no_decoder(features):
    student = Student(replace(THREE_SCALES, num_stored=3)).eval()
    assert student.decoder is None
    assert len(student(*features).recalled) == 3


def test_a_channel_that_never_varies_is_not_divided_by_zero():
    features = torch.randn(4, 2, 3, 3)
    features[:, 1] = 7
    standardiser = Standardiser.fit(features, torch.ones(4, 3, 3))
    standard = standardiser(features)
    assert torch.isfinite(standard).all()
    assert standard[:, 1].abs().max() == 0
    torch.testing.assert_close(standardiser.inverse(standard), features)
