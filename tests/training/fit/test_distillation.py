import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small_networks import THREE_SCALES
from torch import nn

from model.recall import Recalled
from model.student import Student
from training.fit.distillation import (
    Distillation,
    EarlyStopping,
    TrainingSet,
    compute_held_out_loss,
    compute_losses,
)
from training.fit.memory import BATCH_SIZE, FeatureDataset, fill_memory, recall_all, recall_batch
from training.settings import LearningSettings

NOTHING = Recalled((), (), torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize(
    ("losses", "is_over"),
    [
        ([5, 4, 4, 4], True),
        ([5, 4, 4], False),
        ([5, 4, 3, 2], False),
        ([-1, -1, -1], True),
        ([-1, -0.9, -0.8], True),
        ([-1, -2, -3], False),
    ],
)
def test_training_stops_after_as_many_evaluations_without_a_gain_below_zero_too(losses, is_over):
    stopping = EarlyStopping(patience=2, min_delta=0.01)
    for loss in losses:
        stopping.update(loss, nn.Linear(1, 1))
    assert stopping.is_over is is_over


def test_a_patience_of_0_never_stops():
    stopping = EarlyStopping(patience=0, min_delta=0.01)
    for _ in range(100):
        stopping.update(1.0, nn.Linear(1, 1))
    assert not stopping.is_over


def test_the_weights_of_the_lowest_loss_are_kept():
    layer = nn.Linear(1, 1)
    stopping = EarlyStopping(patience=2, min_delta=0.0)
    for loss in (3.0, 1.0, 2.0, 2.0):
        nn.init.constant_(layer.weight, loss)
        stopping.update(loss, layer)
    assert stopping.best_state["weight"].item() == 1.0


def test_what_is_extracted_in_half_precision_is_measured_in_single():
    """The squares of these features would overflow half precision, and the distance would be 1 everywhere."""
    generator = torch.Generator().manual_seed(0)
    features = (30 * torch.randn(1, 128, 4, 4, generator=generator),)

    def measure(kind):
        extracted = ((features[0] + 1).to(kind),)
        student = SimpleNamespace(
            extract=lambda *_: extracted,
            decode=lambda *_: ((), ()),
            spec=SimpleNamespace(regularisation=1.0, num_stored=1),
        )
        valid = (torch.ones(1, 4, 4),)
        return compute_losses(student, NOTHING, features, valid, settings=LearningSettings())[0].item()

    assert measure(torch.float16) == pytest.approx(measure(torch.float32), abs=2e-3)
    assert measure(torch.float32) < 0.5


SPEC = replace(THREE_SCALES, num_read_items=3)
NUM_PARTS = 10


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Student(SPEC).eval()


@pytest.fixture
def dataset(student):
    generator = torch.Generator().manual_seed(8)
    sizes = ((6, 4, 4), (5, 2, 2), (4, 8, 8))
    parts = tuple(torch.randn(NUM_PARTS, *size, generator=generator) for size in sizes)
    valid = tuple((torch.rand(NUM_PARTS, *size[1:], generator=generator) < 0.7).float() for size in sizes)
    return FeatureDataset(
        parts, valid, fill_memory(student, parts, valid[0], num_candidates=99, generator=torch.Generator())
    )


def slow_losses(student, dataset, images):
    """Position by position: the sum of all scales' mean distances, and the loss of the expected ones."""
    features, valid, _ = dataset.load(images, torch.device("cpu"))
    recalled = recall_batch(student, dataset, images)
    decoded, expected = student.decode(recalled, features)
    total = 0.0
    for scale, found in [(2, decoded[0]), *enumerate(student.extract(recalled, features))]:
        values = []
        for image, y, x in valid[scale].nonzero().tolist():
            one, other = features[scale][image, :, y, x], found[image, :, y, x]
            constant = SPEC.regularisation * len(one)
            squares = (one @ one + constant) * (other @ other + constant)
            values.append((1 - (one @ other + constant) / squares.sqrt()).item())
        total += sum(values) / len(values)
        if found is decoded[0]:
            means = [expected[0][tuple(place)].item() for place in valid[scale].nonzero().tolist()]
            likelihood = sum(value / mean + math.log(mean) for value, mean in zip(values, means, strict=True))
            expected_loss = likelihood / len(values)
    return total, expected_loss


def make_phase(student, dataset, *, held_out=None, **settings):
    given = {"num_steps": 4, "batch_size": 3, "learning_rate": 1e-2, **settings}
    recalled = recall_all(student, dataset)
    return Distillation(
        student,
        TrainingSet(dataset, recalled, torch.arange(6)),
        settings=LearningSettings(**given),
        generator=torch.Generator().manual_seed(4),
        held_out=held_out and TrainingSet(dataset, recalled, torch.arange(6, NUM_PARTS)),
    )


def test_the_loss_is_the_slow_sum_over_every_decoded_and_extracted_scale(student, dataset):
    images = torch.tensor([1, 4, 8])
    training_set = TrainingSet(dataset, recall_all(student, dataset), torch.arange(NUM_PARTS))
    with torch.no_grad():
        found = compute_losses(student, *training_set.load(student, images), settings=LearningSettings())
        expected = slow_losses(student, dataset, images)
    assert [one.item() for one in found] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("is_kept", [True, False])
def test_what_an_image_recalls_is_the_same_kept_or_computed_at_each_step(student, dataset, is_kept):
    recalled = recall_all(student, dataset) if is_kept else None
    images = torch.tensor([7, 2])
    found, features, valid = TrainingSet(dataset, recalled, images).load(student, images)
    expected = recall_batch(student, dataset, images)
    for one, other in zip((*found.features, *found.expected_distances), (*expected[0], *expected[1]), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(found.items, expected.items)
    torch.testing.assert_close(found.weights, expected.weights)
    assert torch.equal(features[2], dataset.features[2][images])
    assert torch.equal(valid[1], dataset.valid[1][images])


def test_the_held_out_loss_is_the_mean_over_all_held_out_images(student, dataset):
    held_out = TrainingSet(dataset, recall_all(student, dataset), torch.arange(1, NUM_PARTS))
    found = compute_held_out_loss(student, held_out, settings=LearningSettings())
    with torch.no_grad():
        batches = [
            (len(images), slow_losses(student, dataset, images)[0]) for images in held_out.images.split(BATCH_SIZE)
        ]
    assert len(batches) == 2
    assert found == pytest.approx(sum(number * loss for number, loss in batches) / 9, rel=1e-4)


def test_a_step_trains_in_training_mode_and_leaves_the_student_in_evaluation_mode(student, dataset):
    phase = make_phase(student, dataset)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    losses = phase.step()
    assert list(losses) == ["loss"]
    assert not any(module.training for module in student.modules())
    for name in ("first.join.0.1.running_mean", "first.extract.weight", "decoder.log_distances.bias"):
        assert not torch.equal(before[name], student.state_dict()[name]), name
    assert phase.num_done == 1


def test_a_step_follows_the_gradient_of_the_distances_and_a_tenth_of_that_of_the_expected_ones(student, dataset):
    """The former alone reaches the extracted features, the latter alone the expected distances."""
    twin, phase = copy.deepcopy(student).train(), make_phase(student, dataset)
    images = torch.arange(6)[torch.randint(6, (3,), generator=torch.Generator().manual_seed(4))]
    loss, expected_loss = compute_losses(
        twin, *phase.training_set.load(twin, images), settings=phase.settings, is_mixed=False
    )
    phase.step()
    for value, weight, name in (
        (loss, 1.0, "first.extract.weight"),
        (expected_loss, 0.1, "decoder.log_distances.bias"),
    ):
        (gradient,) = torch.autograd.grad(value, twin.get_parameter(name), retain_graph=True)
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(student.get_parameter(name).grad, weight * gradient)


def test_the_learning_rate_rises_for_three_tenths_of_the_steps_and_falls_to_almost_nothing(student, dataset):
    phase = make_phase(student, dataset, num_steps=11, learning_rate=0.01)
    rates = []
    while not phase.is_over:
        rates.append(phase.optimiser.param_groups[0]["lr"])
        phase.step()
    assert rates.index(max(rates)) in (2, 3)
    assert max(rates) == pytest.approx(0.01, rel=0.1)
    assert rates[0] < 0.05 * max(rates) + 1e-3
    assert rates[-1] < 1e-3 * max(rates)


def test_the_held_out_loss_is_evaluated_at_its_interval_and_the_best_weights_win(student, dataset):
    """The held-out loss of the weights that are left is the smallest that was seen."""
    phase = make_phase(student, dataset, held_out=True, num_steps=40, eval_interval=2, patience=2, min_delta=0.0)
    seen = {}
    while not phase.is_over:
        losses = phase.step()
        if "held_out" in losses:
            seen[phase.num_done] = losses["held_out"]
    assert list(seen) == list(range(2, phase.num_done + 1, 2))
    left = compute_held_out_loss(student, phase.held_out, settings=phase.settings)
    assert left == pytest.approx(min(seen.values()), rel=1e-5)


def test_without_patience_nothing_is_held_out(student, dataset):
    phase = make_phase(student, dataset, held_out=True, eval_interval=1)
    assert list(phase.step()) == ["loss"]


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 10, 100])
def test_a_phase_of_few_steps_ends_with_its_last(student, dataset, num_steps):
    """The schedule of the learning rate divides by the length of the warm-up."""
    phase = make_phase(student, dataset, num_steps=num_steps)
    while not phase.is_over:
        phase.step()
    assert phase.num_done == num_steps


def test_distillation_continues_from_its_state(student, dataset):
    phase = make_phase(student, dataset, held_out=True, eval_interval=1, patience=9)
    phase.step()
    phase.step()
    twin = copy.deepcopy(student)
    again = make_phase(twin, dataset, held_out=True, eval_interval=1, patience=9)
    again.restore(copy.deepcopy(phase.state()))
    again.generator.set_state(phase.generator.get_state())
    assert (again.num_done, again.stopping.num_evaluations) == (2, 2)
    while not phase.is_over:
        assert phase.step() == again.step()
    assert again.is_over
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in student.state_dict().items())
