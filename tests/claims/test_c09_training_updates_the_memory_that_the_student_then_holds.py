from dataclasses import replace

import pytest
import torch

from model.similarity import cosine_distance
from training.fit.distillation import TrainingSet, compute_num_steps, distil
from training.fit.memory import FeatureDataset, fill_memory, fit_expected_distances, recall_all, train_memory
from training.settings import LearningSettings, MemorySettings

MEMORY_STEPS = {"num_steps": 3, "batch_size": 4, "num_orthogonal_keys": 5, "learning_rate": 0.01}
STEPS = {"num_steps": 3, "batch_size": 4}


@pytest.fixture
def good_parts():
    """Six parts in standard space, scales at strides 16, 32 and 8."""
    generator = torch.Generator().manual_seed(8)
    return tuple(torch.randn(6, *size, generator=generator) for size in ((6, 4, 4), (5, 2, 2), (4, 8, 8)))


def make_dataset(student, good_parts, *, valid=None):
    """The dataset of a student whose memory it fills."""
    valid = valid or tuple(torch.ones(len(scale), *scale.shape[-2:]) for scale in good_parts)
    origins = fill_memory(student, good_parts, valid[0], num_candidates=96, generator=torch.Generator().manual_seed(0))
    return FeatureDataset(good_parts, valid, origins)


def run_memory_phase(student, good_parts, *, on_step=lambda *_: None, **settings):
    dataset = make_dataset(student, good_parts)
    filled = {name: value.clone() for name, value in student.state_dict().items()}
    train_memory(
        student,
        dataset,
        settings=MemorySettings(**{**MEMORY_STEPS, **settings}),
        generator=torch.Generator().manual_seed(0),
        on_step=on_step,
    )
    return filled, student.state_dict()


def run_distillation(student, good_parts, *, images=None, on_step=lambda *_: None, **settings):
    dataset = make_dataset(student, good_parts)
    fit_expected_distances(student, dataset)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    distil(
        student,
        TrainingSet(dataset, recall_all(student, dataset), torch.arange(6) if images is None else images),
        settings=LearningSettings(**{**STEPS, **settings}),
        generator=torch.Generator().manual_seed(0),
        on_step=on_step,
    )
    return before, {name: value.clone() for name, value in student.state_dict().items()}


def test_filling_writes_what_good_parts_have_at_one_position_as_key_and_value(make_student, good_parts):
    student = make_student(0)
    dataset = make_dataset(student, good_parts)
    queries = student.make_query(good_parts).flatten(2)
    values = student.make_values(good_parts).flatten(2)
    origins = dataset.origins
    for item, (image, position) in enumerate(zip(origins.images, origins.positions, strict=True)):
        torch.testing.assert_close(student.recall.keys[item], queries[image, :, position])
        torch.testing.assert_close(student.recall.values[item], values[image, :, position])


def test_filling_fits_the_query_to_good_parts(make_student, good_parts):
    student = make_student(0)
    make_dataset(student, good_parts)
    energy = student.make_query(good_parts).square().sum(1).mean().item()
    assert energy == pytest.approx(student.spec.query_channels, rel=1e-3)


def test_items_are_as_far_from_one_another_as_can_be(make_student, good_parts):
    """Not the first candidates: no position is farther from all keys than the keys are from one another."""
    from model.similarity import to_direction

    student = make_student(0)
    make_dataset(student, good_parts)
    keys = to_direction(student.recall.keys, regularisation=0.5)
    queries = to_direction(student.make_query(good_parts).flatten(2).mT.flatten(0, 1), regularisation=0.5)
    between = (keys @ keys.mT - 2 * torch.eye(len(keys))).amax()
    assert (queries @ keys.mT).amax(1).min() >= between - 1e-5


def test_memory_training_changes_keys_values_and_query(make_student, good_parts):
    filled, trained = run_memory_phase(make_student(0), good_parts)
    for name in ("recall.keys", "recall.values", "fusion.projection.weight"):
        assert not torch.equal(filled[name], trained[name]), name


def test_values_are_kept_where_the_setting_says_so(make_student, good_parts):
    filled, trained = run_memory_phase(make_student(0), good_parts, learn_values=False)
    assert torch.equal(filled["recall.values"], trained["recall.values"])
    assert not torch.equal(filled["recall.keys"], trained["recall.keys"])


def test_memory_training_lowers_how_far_good_parts_are_from_what_they_recall(make_student, good_parts):
    losses = []
    run_memory_phase(
        make_student(0),
        good_parts,
        num_steps=40,
        orthogonality_weight=0.0,
        on_step=lambda _, loss: losses.append(loss),
    )
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_an_items_expected_distance_is_the_mean_over_its_readings(make_student, good_parts):
    """Reading one item each, with a prior of five readings of the overall mean; a mean a recalled scale."""
    student = make_student(0)
    student.recall.num_read = 1
    dataset = make_dataset(student, good_parts)
    fit_expected_distances(student, dataset)
    readings = [[[] for _ in range(student.recall.num_items)] for _ in range(2)]
    for image in range(6):
        one = tuple(scale[image : image + 1] for scale in good_parts)
        recalled = student.recall(
            student.make_query(one), hidden_items=dataset.origins.find_own_items(torch.tensor([image]))
        )
        expected = student.make_values(one).split((6, 5), dim=1)
        for scale in range(2):
            distances = cosine_distance(expected[scale], recalled.features[scale], regularisation=0.5).flatten()
            for item, distance in zip(recalled.items[0, :, 0], distances, strict=True):
                readings[scale][item].append(distance.item())
    for scale in range(2):
        overall = sum(map(sum, readings[scale])) / sum(map(len, readings[scale]))
        means = [(sum(some) + 5 * overall) / (len(some) + 5) for some in readings[scale]]
        torch.testing.assert_close(student.recall.expected_distances[:, scale], torch.tensor(means))


def test_distillation_keeps_the_memory_and_trains_all_else(make_student, good_parts):
    before, trained = run_distillation(make_student(0), good_parts)
    changed = {name for name in before if not torch.equal(before[name], trained[name])}
    assert not [name for name in changed if name.startswith(("recall.", "fusion.", "view.", "standardisers."))]
    expected = {"first.extract.weight", "later.0.memory.adjust.weight", "later.1.extract.weight"}
    assert expected <= changed
    assert any(name.startswith("bottleneck.") for name in changed)


def test_distillation_lowers_the_distance_to_the_teacher(make_student, good_parts):
    losses = []
    run_distillation(
        make_student(0),
        good_parts,
        num_steps=60,
        batch_size=6,
        learning_rate=0.01,
        on_step=lambda _, loss: losses.append(loss),
    )
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_images_that_are_held_out_are_never_distilled(make_student, good_parts):
    """What is held out may be anything: the trained student is the same."""
    changed = tuple(scale.clone() for scale in good_parts)
    for scale in changed:
        scale[5] = 1e3
    students = []
    for parts in (good_parts, changed):
        student = make_student(0)
        dataset = make_dataset(student, good_parts)
        dataset = FeatureDataset(parts, dataset.valid, dataset.origins)
        training_set = TrainingSet(dataset, recall_all(student, dataset), torch.arange(5))
        settings = LearningSettings(**STEPS)
        distil(
            student,
            training_set,
            settings=settings,
            generator=torch.Generator().manual_seed(0),
            on_step=lambda *_: None,
        )
        students.append(student.state_dict())
    assert all(torch.equal(students[0][name], students[1][name]) for name in students[0])


@pytest.mark.parametrize(("num_images", "expected"), [(20, 1000), (1600, 1200), (10_000, 2000)])
def test_the_number_of_steps_follows_the_number_of_images(num_images, expected):
    assert compute_num_steps(num_images, LearningSettings()) == expected
    assert compute_num_steps(num_images, LearningSettings(num_steps=7)) == 7


@pytest.mark.parametrize("num_scales", [1, 2])
def test_a_student_whose_memory_stores_every_scale_is_trained_as_well(make_student, spec, good_parts, num_scales):
    stored = replace(
        spec,
        channels=spec.channels[:num_scales],
        strides=spec.strides[:num_scales],
        hidden_channels=spec.hidden_channels[:num_scales],
        query_channels=5,
        num_stored=num_scales,
    )
    student = make_student(0, stored)
    parts = good_parts[:num_scales]
    before, after = run_distillation(student, parts)
    assert any(name.startswith("first.") and not torch.equal(before[name], after[name]) for name in before)
    reconstruction = student(*parts)
    assert len(reconstruction.recalled) == len(reconstruction.expected_distances) == num_scales
    assert [scale.shape for scale in reconstruction.extracted] == [scale.shape for scale in parts]


def test_two_trainings_of_one_seed_end_alike(make_student, good_parts):
    _, first = run_distillation(make_student(0), good_parts)
    _, second = run_distillation(make_student(0), good_parts)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_positions_outside_the_region_of_interest_are_not_remembered(make_student, good_parts):
    first = torch.zeros(6, 4, 4)
    first[:, 1, 2:] = 1
    valid = (first, torch.ones(6, 2, 2), torch.ones(6, 8, 8))
    origins = make_dataset(make_student(0), good_parts, valid=valid).origins
    assert set(origins.positions.tolist()) <= {6, 7}


@pytest.mark.parametrize("num_steps", [1, 2, 3, 9, 10, 11, 20, 25])
def test_any_number_of_steps_can_be_distilled(make_student, good_parts, num_steps):
    done = []
    run_distillation(
        make_student(0), good_parts, num_steps=num_steps, batch_size=2, on_step=lambda step, _: done.append(step)
    )
    assert done == list(range(1, num_steps + 1))


def test_where_there_are_fewer_positions_than_items_the_memory_holds_fewer_and_no_duplicates(make_student):
    student = make_student(0)
    few = (torch.randn(1, 6, 2, 1), torch.randn(1, 5, 1, 1), torch.randn(1, 4, 4, 2))
    origins = fill_memory(
        student, few, torch.ones(1, 2, 1), num_candidates=50, generator=torch.Generator().manual_seed(0)
    )
    memory = student.recall
    assert (memory.num_items, len(memory.expected_distances), len(origins.images)) == (2, 2, 2)
    assert len(memory.keys.unique(dim=0)) == 2
    weights = memory(student.make_query(few)).weights
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2))
