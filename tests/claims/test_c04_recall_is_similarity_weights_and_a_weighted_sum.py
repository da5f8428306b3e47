import numpy as np
import pytest
import torch

from model.recall import FADE, MIN_FADE, RecallMemory


def make_memory(*, num_read=4, temperature=0.003, regularisation=1.0):
    return RecallMemory(
        num_items=9,
        query_channels=5,
        value_channels=(3, 2),
        num_read=num_read,
        temperature=temperature,
        regularisation=regularisation,
    )


def slow_direction(feature, regularisation):
    with_constant = np.append(feature, np.sqrt(regularisation * len(feature)))
    return with_constant / np.sqrt((with_constant**2).sum())


def slow_recall(memory, query):
    """Position by position, item by item, as in claim 4; the most similar items are read, with weights from 0 on."""
    keys, values = memory.keys.detach().numpy(), memory.values.detach().numpy()
    recalled = np.zeros_like(query)
    expected = np.zeros((query.shape[0], 2, *query.shape[2:]))
    for batch, y, x in np.ndindex(query.shape[0], *query.shape[2:]):
        direction = slow_direction(query[batch, :, y, x], memory.regularisation)
        similarity = [direction @ slow_direction(key, memory.regularisation) for key in keys]
        logits = np.array(similarity) / memory.temperature
        *_, first_not_read = [-np.inf, *np.sort(logits)[: -memory.num_read]]
        fade = np.clip((logits - first_not_read) / FADE, MIN_FADE, 1)
        weights = np.exp(logits) * fade
        read = np.argsort(similarity)[-memory.num_read :]
        for item in read:
            weight = weights[item] / weights[read].sum()
            recalled[batch, :, y, x] += weight * values[item]
            expected[batch, :, y, x] += weight * memory.expected_distances[item].numpy()
    return recalled, expected


@pytest.mark.parametrize("num_read", [1, 4, 9])
def test_recall_is_the_slow_recall(num_read):
    torch.manual_seed(2)
    memory = make_memory(num_read=num_read, temperature=0.05, regularisation=0.7)
    memory.expected_distances.uniform_()
    query = torch.randn(2, 5, 3, 4)
    features, expected = slow_recall(memory, query.double().numpy())
    # float32 against float64; the temperature divides cosines, so rounding grows twentyfold.
    recalled = memory(query)
    np.testing.assert_allclose(torch.cat(recalled.features, dim=1).detach().numpy(), features, atol=2e-5)
    np.testing.assert_allclose(torch.stack(recalled.expected_distances, dim=1).detach().numpy(), expected, atol=2e-5)


def test_weights_sum_to_one_at_every_position():
    torch.manual_seed(3)
    items, weights = make_memory().read(torch.randn(2, 5, 3, 4))
    assert items.shape == weights.shape == (2, 12, 4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 12))


def test_where_two_items_are_as_like_the_last_bit_decides_nothing():
    """A query on the line between two keys, a hair to either side: another item is the last one read."""
    torch.manual_seed(5)
    memory = make_memory(num_read=2, regularisation=0.0)
    keys = torch.randn(9, 5)
    keys[:3] = torch.tensor([[1.0, 0, 0, 0, 0], [0.9, 0.05, 0, 0, 0], [0.9, -0.05, 0, 0, 0]])
    keys[3:, 0] = -1
    memory.write(keys=keys, values=torch.randn(9, 5))
    sides = [torch.tensor([1.0, side, 0, 0, 0])[None, :, None, None] for side in (1e-6, -1e-6)]
    first, second = (memory.read(side).items[0, 0].tolist() for side in sides)
    assert (first, second) == ([0, 1], [0, 2])
    for one, other in zip(memory(sides[0]).features, memory(sides[1]).features, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)


def test_a_written_item_is_recalled_by_its_own_key():
    torch.manual_seed(4)
    memory = make_memory()
    items = torch.randn(9, 5)
    memory.write(keys=items, values=items)
    query = items[4][None, :, None, None]
    torch.testing.assert_close(torch.cat(memory(query).features, dim=1), query, atol=1e-3, rtol=0)


def test_what_is_remembered_is_saved():
    memory = make_memory()
    assert {"keys", "values", "expected_distances"} == set(memory.state_dict())
