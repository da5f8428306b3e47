import numpy as np
import torch

from model.recall import RecallMemory


def slow_direction(feature, regularisation):
    with_constant = np.append(feature, np.sqrt(regularisation * len(feature)))
    return with_constant / np.sqrt((with_constant**2).sum())


def slow_recall(memory, query):
    """Position by position, item by item, as claim 4 tells it."""
    keys, values = memory.keys.detach().numpy(), memory.values.detach().numpy()
    recalled = np.zeros_like(query)
    for batch, y, x in np.ndindex(query.shape[0], *query.shape[2:]):
        asked = slow_direction(query[batch, :, y, x], memory.regularisation)
        similarity = [asked @ slow_direction(key, memory.regularisation) for key in keys]
        weights = np.exp(np.array(similarity) / memory.temperature)
        weights /= weights.sum()
        for weight, value in zip(weights, values, strict=True):
            recalled[batch, :, y, x] += weight * value
    return recalled


def test_recall_is_the_slow_recall():
    torch.manual_seed(2)
    memory = RecallMemory(num_items=9, num_channels=5, temperature=0.05, regularisation=0.7)
    query = torch.randn(2, 5, 3, 4)
    expected = slow_recall(memory, query.double().numpy())
    # float32 against float64; the temperature divides cosines, so rounding grows twentyfold.
    np.testing.assert_allclose(memory(query).detach().numpy(), expected, atol=2e-5)


def test_weights_sum_to_one_at_every_position():
    torch.manual_seed(3)
    memory = RecallMemory(num_items=9, num_channels=5, temperature=0.003, regularisation=1.0)
    weights = memory.weights(torch.randn(2, 5, 3, 4))
    assert weights.shape == (2, 12, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 12))


def test_a_written_item_is_recalled_by_its_own_key():
    torch.manual_seed(4)
    memory = RecallMemory(num_items=9, num_channels=5, temperature=0.003, regularisation=1.0)
    items = torch.randn(9, 5)
    memory.write(keys=items, values=items)
    query = items[4][None, :, None, None]
    torch.testing.assert_close(memory(query), query, atol=1e-3, rtol=0)


def test_keys_and_values_are_saved():
    memory = RecallMemory(num_items=9, num_channels=5, temperature=0.003, regularisation=1.0)
    assert {"keys", "values"} <= set(memory.state_dict())
