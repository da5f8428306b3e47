from types import SimpleNamespace

import pytest
import torch

from model.recall import Recalled
from model.student import Extraction
from training.fit.distillation import EarlyStopping, compute_loss
from training.settings import LearningSettings


@pytest.mark.parametrize(("losses", "settled"), [([5, 4, 4, 4], True), ([5, 4, 3, 2], False), ([-1, -1, -1], True),
                                                 ([-1, -0.9, -0.8], True), ([-1, -2, -3], False)])  # fmt: skip
def test_a_loss_has_settled_after_as_many_looks_without_a_gain_below_zero_too(losses, settled):
    settling = EarlyStopping(patience=2, min_delta=0.01)
    for loss in losses:
        settling.update(loss)
    assert settling.should_stop is settled


def test_a_patience_of_0_looks_for_ever():
    settling = EarlyStopping(patience=0, min_delta=0.01)
    for _ in range(100):
        settling.update(1.0)
    assert not settling.should_stop


def test_what_is_extracted_in_half_precision_is_measured_in_single():
    """The squares of these features would overflow half precision, and the distance would be 1 everywhere."""
    generator = torch.Generator().manual_seed(0)
    features = (30 * torch.randn(1, 128, 4, 4, generator=generator),)
    usual = torch.full((1, 4, 4), 0.5)

    def compute_loss_by(kind):
        extracted = (features[0] + 1).to(kind)
        extraction = Extraction((extracted,), (usual.to(kind),))
        student = SimpleNamespace(extract=lambda *_: extraction, spec=SimpleNamespace(regularisation=1.0))
        nothing = Recalled(*(torch.zeros(1) for _ in range(4)))
        loss, _ = compute_loss(student, nothing, features, (torch.ones(1, 4, 4),), settings=LearningSettings())
        return loss.item()

    assert compute_loss_by(torch.float16) == pytest.approx(compute_loss_by(torch.float32), abs=2e-3)
    assert compute_loss_by(torch.float32) < 0.5
