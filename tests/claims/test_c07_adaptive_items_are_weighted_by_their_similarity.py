import numpy as np
import torch

from model.adaptive import AdaptiveMemory


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_aggregation_is_the_slow_aggregation():
    torch.manual_seed(0)
    memory = AdaptiveMemory(num_items=3, num_channels=5)
    initial = torch.randn(2, 5, 4, 3)
    items = memory.aggregate(initial).detach().double().numpy()
    feature = initial.double().numpy()
    expected = np.zeros_like(feature)
    for batch, y, x in np.ndindex(2, 4, 3):
        similarity = np.array([cosine(item, feature[batch, :, y, x]) for item in items[batch]])
        weights = softmax(similarity * np.exp(memory.sharpness.item()))
        expected[batch, :, y, x] = sum(weight * item for weight, item in zip(weights, items[batch], strict=True))
    np.testing.assert_allclose(memory(initial).detach().numpy(), expected, atol=1e-5)


def test_a_position_reads_the_item_that_it_resembles():
    """Not the mean of all items, which every position of the image would share."""
    memory = AdaptiveMemory(num_items=3, num_channels=3)
    weights = memory.weigh(torch.eye(3)[None, :, :, None], torch.eye(3)[None])[0]
    assert (weights.diagonal() > 0.99).all()
