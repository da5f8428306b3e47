import numpy as np
import pytest
import torch

from model.fusion import QueryFusion, resize


@pytest.fixture
def fusion():
    torch.manual_seed(0)
    return QueryFusion((6, 4), hidden_channels=8)


def slow_query(fusion, first, second):
    """Average each 2 x 2 of the second scale, concatenate along the channels, two linear layers a position."""
    mix, add = fusion.mix.weight.detach().numpy()[:, :, 0, 0], fusion.add.weight.detach().numpy()[:, :, 0, 0]
    query = np.zeros_like(first)
    for batch, y, x in np.ndindex(first.shape[0], *first.shape[2:]):
        shrunk = second[batch, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((1, 2))
        fused = np.concatenate([first[batch, :, y, x], shrunk])
        hidden = np.maximum(mix @ fused + fusion.mix.bias.detach().numpy(), 0)
        query[batch, :, y, x] = first[batch, :, y, x] + add @ hidden + fusion.add.bias.detach().numpy()
    return query


def test_the_query_is_the_slow_query(fusion, features):
    torch.nn.init.normal_(fusion.add.weight)
    torch.nn.init.normal_(fusion.add.bias)
    expected = slow_query(fusion, *(scale.double().numpy() for scale in features))
    np.testing.assert_allclose(fusion(*features).detach().numpy(), expected, atol=1e-5)


def test_the_query_starts_as_the_first_scale(fusion, features):
    assert torch.equal(fusion(*features), features[0])


def test_every_scale_reaches_the_query_once_it_has_learned(fusion, features):
    torch.nn.init.normal_(fusion.add.weight)
    scales = [scale.clone().requires_grad_() for scale in features]
    fusion(*scales).sum().backward()
    assert all(scale.grad.abs().sum() > 0 for scale in scales)


def test_a_smaller_scale_is_interpolated_to_the_querys_size():
    assert resize(torch.randn(1, 3, 2, 2), (4, 6)).shape == (1, 3, 4, 6)
