import itertools

import numpy as np
import torch

from model.losses import orthogonality_loss


def test_the_loss_is_the_mean_squared_cosine_of_different_keys():
    torch.manual_seed(0)
    keys = torch.randn(6, 4)
    rows = keys.double().numpy()
    squares = [(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) ** 2 for a, b in itertools.permutations(rows, 2)]
    assert abs(orthogonality_loss(keys).item() - np.mean(squares)) < 1e-6


def test_orthogonal_keys_cost_nothing_and_twins_cost_one():
    assert orthogonality_loss(3 * torch.eye(4)).item() == 0
    assert abs(orthogonality_loss(torch.ones(4, 3)).item() - 1) < 1e-6


def test_a_step_along_the_gradient_parts_the_keys():
    torch.manual_seed(0)
    keys = torch.randn(6, 4, requires_grad=True)
    before = orthogonality_loss(keys)
    before.backward()
    assert orthogonality_loss((keys - 0.1 * keys.grad).detach()) < before
