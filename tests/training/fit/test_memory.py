import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_networks import THREE_SCALES

from model.losses import orthogonality_loss
from model.similarity import to_direction
from model.student import Student
from training.fit.memory import (
    EXPLAINED_COSINE,
    MIN_EXPECTED_DISTANCE,
    ExpectedDistances,
    FeatureDataset,
    ItemOrigins,
    MemoryTraining,
    extend_memory,
    fill_memory,
    fit_expected_distances,
    gather_positions,
    k_center_greedy,
    recall_all,
    select_unexplained,
)
from training.settings import MemorySettings


def origins(*images):
    return ItemOrigins(torch.tensor(images), torch.zeros(len(images), dtype=torch.long))


def slow_farthest(points, first, count):
    chosen = [first]
    while len(chosen) < count:
        gaps = [max(point @ points[other] for other in chosen) for point in points]
        chosen.append(int(np.argmin(gaps)))
    return chosen


def test_each_point_is_the_farthest_from_those_before_it():
    torch.manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(40, 5), dim=-1)
    chosen = k_center_greedy(points, 10, generator=torch.Generator().manual_seed(3)).tolist()
    assert chosen == slow_farthest(points.numpy(), chosen[0], 10)
    assert len(set(chosen)) == 10


def test_all_points_are_chosen_where_there_are_few():
    points = torch.eye(4)
    for num_chosen in (9, 4):
        assert k_center_greedy(points, num_chosen, generator=torch.Generator()).tolist() == [0, 1, 2, 3]


def test_an_image_that_all_items_came_from_recalls_them():
    assert not origins(3, 3).find_own_items(torch.tensor([3])).any()


def test_an_image_does_not_recall_its_own_items():
    taken = origins(0, 1, 1, 2)
    assert taken.find_own_items(torch.tensor([1, 2])).tolist() == [
        [False, True, True, False],
        [False, False, False, True],
    ]


def test_points_are_added_until_a_key_explains_each():
    points = torch.nn.functional.normalize(torch.randn(30, 4, generator=torch.Generator().manual_seed(1)), dim=-1)
    inside = torch.arange(30) != 7
    keys = points[:2]
    (first, *rest) = (chosen := select_unexplained(points, keys, inside, max_chosen=99).tolist())
    gaps = (points @ keys.mT).amax(1).where(inside, torch.tensor(1.0))
    assert first == int(gaps.argmin())
    assert 7 not in chosen
    known = torch.cat([keys, points[chosen]])
    assert ((points[inside] @ known.mT).amax(1) >= EXPLAINED_COSINE).all()
    assert len(set(chosen)) == len(chosen)
    assert select_unexplained(points, keys, inside, max_chosen=3).tolist() == [first, *rest[:2]]


SPEC = replace(THREE_SCALES, num_read_items=3)
NUM_PARTS = 10  # more than a batch, and no multiple of it


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Student(SPEC).eval()


@pytest.fixture
def parts():
    """Parts in standard space, scales at strides 16, 32 and 8."""
    generator = torch.Generator().manual_seed(8)
    sizes = ((6, 4, 4), (5, 2, 2), (4, 8, 8))
    return tuple(torch.randn(NUM_PARTS, *size, generator=generator) for size in sizes)


@pytest.fixture
def dataset(student, parts):
    """The parts, with the items that they gave to the student's memory."""
    valid = (torch.ones(NUM_PARTS, 4, 4), torch.ones(NUM_PARTS, 2, 2), torch.ones(NUM_PARTS, 8, 8))
    valid[0][:, 0] = 0
    taken = fill_memory(student, parts, valid[0], num_candidates=99, generator=torch.Generator().manual_seed(0))
    return FeatureDataset(parts, valid, taken)


def pick(parts, image):
    return tuple(scale[image : image + 1] for scale in parts)


def recall_alone(student, dataset, image):
    """What one part recalls from the items of the others, by the fused query."""
    query = student.fusion(*student.view(pick(dataset.features, image)))
    hidden = dataset.origins.images == image
    return student.recall(query, hidden_items=hidden[None])


def slow_distance(one, other, regularisation=SPEC.regularisation):
    constant = regularisation * len(one)
    squares = (one @ one + constant) * (other @ other + constant)
    return (1 - (one @ other + constant) / squares.sqrt()).item()


def slow_expected_distances(student, readings, *, prior=None):
    """Each item's mean over all readings (image, own values, valid, what was recalled), with a prior of five."""
    memory = student.recall
    sums, counts = np.zeros((memory.num_items, 2)), np.zeros(memory.num_items)
    for values, valid, recalled in readings:
        for position, inside in enumerate(valid.flatten().tolist()):
            own = values.flatten(2)[0, :, position].split((6, 5))
            found = [scale.flatten(2)[0, :, position] for scale in recalled.features]
            distances = np.array([slow_distance(a, b) for a, b in zip(own, found, strict=True)])
            for item, weight in zip(recalled.items[0, position], recalled.weights[0, position], strict=True):
                sums[item] += inside * weight.item() * distances
                counts[item] += inside * weight.item()
    prior = sums.sum(0) / counts.sum() if prior is None else prior
    return (sums + 5 * prior) / (counts[:, None] + 5)


def test_positions_are_gathered_from_their_images_and_places(student, parts):
    positions = torch.tensor([0, 5, 17, 127, 128, 159])  # of images 0, 1, 7, 8 and 9
    fused, values = gather_positions(student, parts, positions)
    seen = student.view(parts)
    for row, (image, place) in enumerate(divmod(position, 16) for position in positions.tolist()):
        expected = student.fusion.concatenate(*seen).flatten(2)[image, :, place]
        torch.testing.assert_close(fused[row], expected)
        torch.testing.assert_close(values[row], student.make_values(parts).flatten(2)[image, :, place])


def test_the_memory_is_filled_with_different_valid_positions_each_with_its_origin(student, dataset):
    """Which are a k-center coreset of the candidates: the same as that of the slow algorithm."""
    origins = dataset.origins
    places = list(zip(origins.images.tolist(), origins.positions.tolist(), strict=True))
    assert len(set(places)) == SPEC.num_recall_items
    assert min(place for _, place in places) >= 4  # the first row is outside
    queries = student.make_query(dataset.features).flatten(2)
    for item, (image, place) in enumerate(places):
        torch.testing.assert_close(student.recall.keys[item], queries[image, :, place])
    generator = torch.Generator().manual_seed(0)
    inside = dataset.valid[0].flatten().nonzero()[:, 0]
    candidates = inside[torch.randperm(len(inside), generator=generator)[:99]].sort().values
    directions = to_direction(queries.mT.flatten(0, 1)[candidates], regularisation=SPEC.regularisation)
    first = int(torch.randint(99, (1,), generator=generator))
    chosen = candidates[slow_farthest(directions.detach().numpy(), first, 7)].tolist()
    assert places == [divmod(position, 16) for position in chosen]


def test_what_every_part_recalls_is_asked_by_the_fused_query_and_not_from_its_own_items(student, dataset):
    recalled = recall_all(student, dataset)
    for image in range(NUM_PARTS):
        expected = recall_alone(student, dataset, image)
        assert not set(recalled.items[image].flatten().tolist()) & set(
            (dataset.origins.images == image).nonzero().flatten().tolist()
        )
        for found, one in zip((*recalled[0], *recalled[1]), (*expected[0], *expected[1]), strict=True):
            torch.testing.assert_close(found[image : image + 1], one)
        assert torch.equal(recalled.items[image : image + 1], expected.items)
        torch.testing.assert_close(recalled.weights[image : image + 1], expected.weights)


def test_expected_distances_are_the_slow_means_over_valid_readings(student, dataset):
    readings = [
        (
            student.make_values(pick(dataset.features, image)),
            dataset.valid[0][image],
            recall_alone(student, dataset, image),
        )
        for image in range(NUM_PARTS)
    ]
    fit_expected_distances(student, dataset)
    expected = slow_expected_distances(student, readings)
    np.testing.assert_allclose(student.recall.expected_distances.numpy(), expected, rtol=1e-4)


def test_an_item_that_good_parts_find_exactly_keeps_a_smallest_expected_distance(student):
    sums = ExpectedDistances(student.recall)
    assert sums.compute(torch.zeros(2)).tolist() == torch.full((7, 2), MIN_EXPECTED_DISTANCE).tolist()


def make_step(student, dataset, **settings):
    """One step of training the memory; the student before it, and its losses."""
    before = copy.deepcopy(student)
    given = {"batch_size": 4, "num_steps": 2, "num_orthogonal_keys": 5, **settings}
    phase = MemoryTraining(
        student, dataset, settings=MemorySettings(**given), generator=torch.Generator().manual_seed(3)
    )
    return before, phase.step(), phase


def test_the_memorys_loss_is_that_of_what_is_recalled_and_of_its_keys(student, dataset):
    """By the fused query, from the items of other parts, over valid positions, a mean over the stored scales."""
    before, losses, _ = make_step(student, dataset, normality_weight=2.0, orthogonality_weight=3.0)
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(NUM_PARTS, (4,), generator=generator)
    keys = before.recall.keys[torch.randperm(7, generator=generator)[:5]].detach()
    distances = [[], []]
    for image in images.tolist():
        recalled = recall_alone(before, dataset, image)
        values = before.make_values(pick(dataset.features, image)).split((6, 5), dim=1)
        for scale in range(2):
            for place in dataset.valid[0][image].flatten().nonzero()[:, 0].tolist():
                pair = (one.flatten(2)[0, :, place].detach() for one in (values[scale], recalled.features[scale]))
                distances[scale].append(slow_distance(*pair))
    normality = (np.mean(distances[0]) + np.mean(distances[1])) / 2
    pairs = itertools.permutations(keys, 2)
    apart = np.mean([(a @ b / a.norm() / b.norm()).item() ** 2 for a, b in pairs])
    assert losses["normality"] == pytest.approx(normality, rel=1e-4)
    assert losses["orthogonality"] == pytest.approx(apart, rel=1e-4)
    assert losses["loss"] == pytest.approx(2 * normality + 3 * apart, rel=1e-4)


def test_a_memory_that_is_trained_by_orthogonality_alone_parts_its_keys(student, dataset):
    settings = MemorySettings(
        num_steps=20, batch_size=2, num_orthogonal_keys=7, learning_rate=0.02, normality_weight=0.0
    )
    before = orthogonality_loss(student.recall.keys).item()
    phase = MemoryTraining(student, dataset, settings=settings, generator=torch.Generator().manual_seed(0))
    while not phase.is_over:
        phase.step()
    assert orthogonality_loss(student.recall.keys).item() < 0.7 * before


def test_the_query_and_the_items_are_trained_by_their_own_rates(student, dataset):
    before, _, _ = make_step(student, dataset, learning_rate=1e-2, query_learning_rate=1e-4)
    for name, rate in (("recall.keys", 1e-2), ("recall.values", 1e-2), ("fusion.projection.weight", 1e-4)):
        change = (student.get_parameter(name) - before.get_parameter(name)).abs().max().item()
        assert change == pytest.approx(rate, rel=0.1), name  # as the first step of Adam is


def test_memory_training_ends_after_its_steps_and_continues_from_its_state(student, dataset):
    twin = copy.deepcopy(student)
    _, _, phase = make_step(student, dataset)
    assert (phase.num_done, phase.is_over) == (1, False)
    twin.load_state_dict(student.state_dict())
    again = MemoryTraining(twin, dataset, settings=phase.settings, generator=torch.Generator())
    again.restore(copy.deepcopy(phase.state()))
    again.generator.set_state(phase.generator.get_state())
    assert phase.step() == again.step()
    assert phase.is_over
    assert again.is_over
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in student.state_dict().items())


def slow_extension(student, new, valid, max_items):
    """Position after position: the one whose largest cosine with all keys is smallest, while that is below 0.99."""
    query = student.fusion(*student.view(new)).flatten(2).mT.flatten(0, 1).detach()
    directions = to_direction(query, regularisation=SPEC.regularisation)
    keys = list(to_direction(student.recall.keys.detach(), regularisation=SPEC.regularisation))
    inside = valid.flatten().nonzero()[:, 0].tolist()
    chosen = []
    while len(chosen) < max_items:
        nearest = {place: max((directions[place] @ key).item() for key in keys) for place in inside}
        farthest = min(nearest, key=nearest.get)
        if nearest[farthest] >= 0.99:
            break
        chosen.append(farthest)
        keys.append(directions[farthest])
    return chosen, query


@pytest.fixture
def new_parts():
    generator = torch.Generator().manual_seed(21)
    return tuple(torch.randn(3, *size, generator=generator) for size in ((6, 4, 4), (5, 2, 2), (4, 8, 8)))


@pytest.mark.parametrize("max_items", [0, 1, 9, 400])
def test_a_memory_is_extended_by_what_no_key_is_similar_to(student, dataset, new_parts, max_items):
    fit_expected_distances(student, dataset)
    before = copy.deepcopy(student)
    valid = torch.ones(3, 4, 4)
    valid[1, :2] = 0
    chosen, query = slow_extension(before, new_parts, valid, max_items)
    origins = extend_memory(student, new_parts, valid, max_items=max_items)
    memory = student.recall
    assert list(zip(origins.images.tolist(), origins.positions.tolist(), strict=True)) == [
        divmod(position, 16) for position in chosen
    ]
    assert memory.num_items == 7 + len(chosen)
    assert torch.equal(memory.keys[:7], before.recall.keys)
    assert torch.equal(memory.values[:7], before.recall.values)
    assert torch.equal(memory.expected_distances[:7], before.recall.expected_distances)
    torch.testing.assert_close(memory.keys[7:], query[chosen])
    values = student.make_values(new_parts).flatten(2)
    for item, position in enumerate(chosen, start=7):
        image, place = divmod(position, 16)
        torch.testing.assert_close(memory.values[item], values[image, :, place])


def test_the_expected_distances_of_new_items_come_from_the_parts_that_did_not_give_them(student, dataset, new_parts):
    """With the mean of the items before as the prior."""
    fit_expected_distances(student, dataset)
    prior = student.recall.expected_distances.mean(0).numpy().copy()
    valid = torch.ones(3, 4, 4)
    valid[1, :2] = 0
    origins = extend_memory(student, new_parts, valid, max_items=6)
    memory, readings = student.recall, []
    for image in range(3):
        hidden = torch.cat([torch.zeros(7, dtype=torch.bool), origins.images == image])
        recalled = memory(student.make_query(pick(new_parts, image)), hidden_items=hidden[None])
        readings.append((student.make_values(pick(new_parts, image)), valid[image], recalled))
    expected = slow_expected_distances(student, readings, prior=prior)
    np.testing.assert_allclose(memory.expected_distances[7:].numpy(), expected[7:], rtol=1e-4)


def test_what_a_memory_holds_already_extends_it_by_nothing(student, dataset):
    origin = int(dataset.origins.images[0]), int(dataset.origins.positions[0])
    valid = torch.zeros(NUM_PARTS, 4, 4)
    valid.flatten(1)[origin] = 1
    assert len(extend_memory(student, dataset.features, valid, max_items=9).images) == 0
    assert student.recall.num_items == 7


def test_items_are_hidden_from_the_images_that_gave_them_and_loaded_with_the_features(dataset):
    images = torch.tensor([2, 9])
    features, valid, hidden = dataset.load(images, torch.device("cpu"))
    assert dataset.num_images == NUM_PARTS
    assert all(
        torch.equal(scale, all_images[images]) for scale, all_images in zip(features, dataset.features, strict=True)
    )
    assert all(torch.equal(scale, all_images[images]) for scale, all_images in zip(valid, dataset.valid, strict=True))
    assert torch.equal(hidden, images[:, None] == dataset.origins.images[None])


def test_the_first_point_of_a_coreset_is_drawn_by_the_generator():
    points = torch.nn.functional.normalize(torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    firsts = {int(k_center_greedy(points, 2, generator=torch.Generator().manual_seed(seed))[0]) for seed in range(20)}
    assert len(firsts) > 5
    assert len(k_center_greedy(points, 40, generator=torch.Generator())) == 40
