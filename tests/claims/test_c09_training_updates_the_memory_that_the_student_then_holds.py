import pytest
import torch

from model.similarity import distance
from training.fit.distillation import TrainingSet, choose_num_steps, distill
from training.fit.memory import FeatureDataset, fill_memory, fit_expected_distances, recall_all, train_memory
from training.settings import LearningSettings, MemorySettings

TEACHING = {"num_steps": 3, "batch_size": 4, "num_orthogonal_keys": 5, "learning_rate": 0.01}
STEPS = {"num_steps": 3, "batch_size": 4}


@pytest.fixture
def good_parts():
    generator = torch.Generator().manual_seed(8)
    return (
        torch.randn(6, 6, 4, 4, generator=generator),
        torch.randn(6, 4, 8, 8, generator=generator),
    )


def make_dataset(student, good_parts, generator):
    valid = tuple(torch.ones(len(scale), *scale.shape[-2:]) for scale in good_parts)
    return FeatureDataset(
        good_parts, valid, fill_memory(student, good_parts[0], valid[0], num_candidates=50, generator=generator)
    )


def train_memory_of_student(student, good_parts, **settings):
    generator = torch.Generator().manual_seed(0)
    exemplars = make_dataset(student, good_parts, generator)
    filled = {name: value.clone() for name, value in student.state_dict().items()}
    train_memory(
        student,
        exemplars,
        settings=MemorySettings(**{**TEACHING, **settings}),
        generator=generator,
        on_step=lambda *_: None,
    )
    return filled, {name: value.clone() for name, value in student.state_dict().items()}


def train_student(student, good_parts, *, on_step=lambda *_: None, **settings):
    generator = torch.Generator().manual_seed(0)
    exemplars = make_dataset(student, good_parts, generator)
    fit_expected_distances(student, exemplars)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    distill(
        student,
        TrainingSet(exemplars, recall_all(student, exemplars)),
        settings=LearningSettings(**{**STEPS, **settings}),
        generator=generator,
        on_step=on_step,
    )
    return before, student.state_dict()


def test_filling_writes_features_of_good_parts_into_the_memory(make_student, good_parts):
    student = make_student(0)
    before = student.recall.keys.clone()
    origins = fill_memory(
        student,
        good_parts[0],
        torch.ones(6, 4, 4),
        num_candidates=96,
        generator=torch.Generator().manual_seed(0),
    )
    positions = good_parts[0].movedim(1, -1).flatten(1, 2)  # (images, positions, channels)
    assert not torch.equal(before, student.recall.keys)
    for value, image in zip(student.recall.values, origins.images, strict=True):
        assert (positions[image] == value).all(-1).any()


def test_teaching_changes_keys_values_and_query(make_student, good_parts):
    filled, learned = train_memory_of_student(make_student(0), good_parts)
    for name in ("recall.keys", "recall.values", "fusion.add.weight"):
        assert not torch.equal(filled[name], learned[name]), name


def test_values_are_kept_where_the_setting_says_so(make_student, good_parts):
    filled, learned = train_memory_of_student(make_student(0), good_parts, learn_values=False)
    assert torch.equal(filled["recall.values"], learned["recall.values"])
    assert not torch.equal(filled["recall.keys"], learned["recall.keys"])


def test_teaching_lowers_how_far_good_parts_are_from_what_they_recall(make_student, good_parts):
    student = make_student(0)
    exemplars = make_dataset(student, good_parts, torch.Generator().manual_seed(0))
    losses = []
    train_memory(
        student,
        exemplars,
        settings=MemorySettings(**{**TEACHING, "num_steps": 40, "orthogonality_weight": 0.0}),
        generator=torch.Generator().manual_seed(0),
        on_step=lambda _, loss: losses.append(loss),
    )
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_an_items_usual_distance_is_the_mean_over_its_readings(make_student, good_parts):
    """Reading one item each, with a prior of five readings of the overall mean."""
    student = make_student(0)
    student.recall.num_read = 1
    exemplars = make_dataset(student, good_parts, torch.Generator().manual_seed(0))
    fit_expected_distances(student, exemplars)
    gathered = [[] for _ in range(student.recall.num_items)]
    for image in range(6):
        hidden = exemplars.origins.find_own_items(torch.tensor([image]))
        one = good_parts[0][image : image + 1]
        (items,) = student.recall.read(one, hidden_items=hidden).items[:, :, 0]
        off = distance(one, student.recall(one, hidden_items=hidden).features, regularisation=0.5).flatten()
        for item, d in zip(items, off, strict=True):
            gathered[item].append(d.item())
    overall = sum(map(sum, gathered)) / sum(map(len, gathered))
    expected = [(sum(some) + 5 * overall) / (len(some) + 5) for some in gathered]
    torch.testing.assert_close(student.recall.usual_distances, torch.tensor(expected))


def test_learning_keeps_the_memory_and_changes_what_extracts_from_it(make_student, good_parts):
    before, learned = train_student(make_student(0), good_parts)
    changed = {name for name in before if not torch.equal(before[name], learned[name])}
    assert not [name for name in changed if name.startswith(("recall.", "fusion.", "standardisers."))]
    assert {"first.correction.weight", "first.usual.weight", "later.0.memory.redimension.weight"} <= changed


def test_learning_lowers_the_distance_to_the_teacher(make_student, good_parts):
    losses = []
    train_student(
        make_student(0),
        good_parts,
        num_steps=60,
        batch_size=6,
        learning_rate=0.01,
        on_step=lambda _, parts: losses.append(parts.distillation),
    )
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize(("num_images", "expected"), [(20, 400), (800, 600), (10_000, 2000)])
def test_the_number_of_steps_follows_the_number_of_images(num_images, expected):
    assert choose_num_steps(num_images, LearningSettings()) == expected
    assert choose_num_steps(num_images, LearningSettings(num_steps=7)) == 7


def test_two_trainings_of_one_seed_end_alike(make_student, good_parts):
    _, first = train_student(make_student(0), good_parts)
    _, second = train_student(make_student(0), good_parts)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_positions_outside_the_region_of_interest_are_not_remembered(make_student, good_parts):
    valid = torch.zeros(6, 4, 4)
    valid[:, 1, 2:] = 1
    student = make_student(0)
    fill_memory(student, good_parts[0], valid, num_candidates=96, generator=torch.Generator().manual_seed(0))
    inside = good_parts[0].movedim(1, -1)[valid > 0]  # (positions, channels)
    for value in student.recall.values:
        assert (inside == value).all(-1).any()


@pytest.mark.parametrize("num_steps", [1, 2, 3, 9, 10, 11, 20, 25])
def test_any_number_of_steps_can_be_learned(make_student, good_parts, num_steps):
    done = []
    train_student(
        make_student(0), good_parts, num_steps=num_steps, batch_size=2, on_step=lambda step, _: done.append(step)
    )
    assert done == list(range(1, num_steps + 1))


def test_where_there_are_fewer_positions_than_items_the_memory_holds_fewer_and_no_twins(make_student, good_parts):
    student = make_student(0)
    few = good_parts[0][:1, :, :2, :1]  # two positions
    origins = fill_memory(
        student, few, torch.ones(1, 2, 1), num_candidates=50, generator=torch.Generator().manual_seed(0)
    )
    memory = student.recall
    assert (memory.num_items, len(memory.usual_distances), len(origins.images)) == (2, 2, 2)
    assert len(memory.keys.unique(dim=0)) == 2
    assert memory(few).weights.shape == (1, 2, 2)
    torch.testing.assert_close(memory(few).weights.sum(-1), torch.ones(1, 2))
