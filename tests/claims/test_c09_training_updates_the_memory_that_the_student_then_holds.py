import pytest
import torch

from training.learn import Lesson, learn
from training.memory import fill_memory
from training.settings import LearningSettings

STEPS = {"num_steps": 3, "batch_size": 4, "num_orthogonal_keys": 5, "memory_learning_rate": 0.01}


@pytest.fixture
def good_parts():
    generator = torch.Generator().manual_seed(8)
    return (
        torch.randn(6, 6, 4, 4, generator=generator),
        torch.randn(6, 4, 8, 8, generator=generator),
    )


def lesson_of(student, good_parts, generator):
    valid = tuple(torch.ones(len(scale), *scale.shape[-2:]) for scale in good_parts)
    origins = fill_memory(student, good_parts[0], valid[0], num_candidates=50, generator=generator)
    return Lesson(good_parts, valid, origins)


def trained(student, good_parts, **settings):
    generator = torch.Generator().manual_seed(0)
    lesson = lesson_of(student, good_parts, generator)
    filled = {name: value.clone() for name, value in student.state_dict().items()}
    learn(
        student,
        lesson,
        settings=LearningSettings(**STEPS, **settings),
        generator=generator,
        on_step=lambda *_: None,
    )
    return filled, student.state_dict()


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


def test_a_training_step_changes_keys_and_values(make_student, good_parts):
    filled, learned = trained(make_student(0), good_parts)
    assert not torch.equal(filled["recall.keys"], learned["recall.keys"])
    assert not torch.equal(filled["recall.values"], learned["recall.values"])


def test_values_are_kept_where_the_setting_says_so(make_student, good_parts):
    filled, learned = trained(make_student(0), good_parts, learn_values=False)
    assert torch.equal(filled["recall.values"], learned["recall.values"])
    assert not torch.equal(filled["recall.keys"], learned["recall.keys"])


def test_a_training_step_changes_the_adaptive_memory(make_student, good_parts):
    filled, learned = trained(make_student(0), good_parts)
    name = "later.0.memory.redimension.weight"
    assert not torch.equal(filled[name], learned[name])


def test_learning_lowers_the_distance_to_the_teacher(make_student, good_parts):
    losses = []
    generator = torch.Generator().manual_seed(0)
    student = make_student(0)
    lesson = lesson_of(student, good_parts, generator)
    learn(
        student,
        lesson,
        settings=LearningSettings(num_steps=60, batch_size=6, learning_rate=0.01, num_orthogonal_keys=5),
        generator=generator,
        on_step=lambda _, parts: losses.append(parts.distillation),
    )
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_two_trainings_of_one_seed_end_alike(make_student, good_parts):
    _, first = trained(make_student(0), good_parts)
    _, second = trained(make_student(0), good_parts)
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
    generator = torch.Generator().manual_seed(0)
    student = make_student(0)
    done = []
    learn(
        student,
        lesson_of(student, good_parts, generator),
        settings=LearningSettings(num_steps=num_steps, batch_size=2, num_orthogonal_keys=5),
        generator=generator,
        on_step=lambda step, _: done.append(step),
    )
    assert done == list(range(1, num_steps + 1))
