import numpy as np
import torch

from model.adaptive import AdaptiveMemory


def slow_items(memory, feature):
    """Re-dimension every position, softmax each new channel over the positions, sum the feature by that."""
    weight = memory.adjust.weight.detach().numpy()[:, :, 0, 0]
    bias = memory.adjust.bias.detach().numpy()
    items = np.zeros((feature.shape[0], len(weight), feature.shape[1]))
    for batch in range(feature.shape[0]):
        positions = [feature[batch, :, y, x] for y, x in np.ndindex(feature.shape[2:])]
        for item in range(len(weight)):
            adjusted = np.array([weight[item] @ position + bias[item] for position in positions])
            share = np.exp(adjusted) / np.exp(adjusted).sum()
            items[batch, item] = sum(s * position for s, position in zip(share, positions, strict=True))
    return items


def test_items_are_the_slow_items():
    torch.manual_seed(0)
    memory = AdaptiveMemory(num_items=3, num_channels=5)
    initial = torch.randn(2, 5, 4, 3)
    expected = slow_items(memory, initial.double().numpy())
    np.testing.assert_allclose(memory.aggregate(initial).detach().numpy(), expected, atol=1e-5)


def test_what_is_stored_are_the_parameters_that_adjust_the_channels():
    stored = AdaptiveMemory(num_items=3, num_channels=5).state_dict()
    assert {name: tuple(value.shape) for name, value in stored.items()} == {
        "adjust.weight": (3, 5, 1, 1),
        "adjust.bias": (3,),
        "sharpness": (),
    }
