from types import SimpleNamespace

import pytest
import torch
from torch import nn

from model.recall import Recalled
from training.fit.distillation import EarlyStopping, compute_losses
from training.settings import LearningSettings

NOTHING = Recalled((), (), torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize(("losses", "is_over"), [([5, 4, 4, 4], True), ([5, 4, 3, 2], False), ([-1, -1, -1], True),
                                                 ([-1, -0.9, -0.8], True), ([-1, -2, -3], False)])  # fmt: skip
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
