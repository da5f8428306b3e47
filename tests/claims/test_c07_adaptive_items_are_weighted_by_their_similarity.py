import numpy as np
import torch

from model.adaptive import AdaptiveMemory


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def test_aggregation_is_the_slow_aggregation():
    torch.manual_seed(0)
    memory = AdaptiveMemory(num_items=3, num_channels=5)
    initial = torch.randn(2, 5, 4, 3)
    items = memory.items(initial).detach().double().numpy()
    feature = initial.double().numpy()
    expected = np.zeros_like(feature)
    for batch, y, x in np.ndindex(2, 4, 3):
        similarity = np.array([item @ feature[batch, :, y, x] for item in items[batch]])
        weights = softmax(similarity / np.sqrt(5))
        expected[batch, :, y, x] = sum(weight * item for weight, item in zip(weights, items[batch], strict=True))
    np.testing.assert_allclose(memory(initial).detach().numpy(), expected, atol=1e-5)
