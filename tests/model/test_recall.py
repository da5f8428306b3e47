"""Finding the items most alike, faster than by sorting all."""

import numpy as np
import pytest
import torch

from model.recall import FADE, MIN_FADE, RecallMemory, find_largest


@pytest.mark.parametrize("num_items", [1, 3, 5, 8, 40, 300, 1000, 4000, 4001, 4002])
def test_the_largest_are_those_of_a_whole_sort(num_items):
    values = torch.randn(2, 17, num_items, generator=torch.Generator().manual_seed(num_items))
    number = min(5, num_items)
    best, items = find_largest(values, number)
    expected = values.sort(dim=-1, descending=True)
    assert torch.equal(best, expected.values[..., :number])
    assert torch.equal(items, expected.indices[..., :number])


def test_gradients_reach_the_values_that_were_found_and_no_other():
    values = torch.randn(1, 3, 64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    best, items = find_largest(values, 4)
    best.sum().backward()
    expected = torch.zeros_like(values).scatter(-1, items, 1.0)
    assert torch.equal(values.grad, expected)


def make_memory(*, num_items=6, num_read=2, temperature=0.1):
    torch.manual_seed(0)
    return RecallMemory(
        num_items=num_items,
        query_channels=5,
        value_channels=(3, 2),
        num_read=num_read,
        temperature=temperature,
        regularisation=0.5,
    )


def test_what_is_written_is_copied_and_without_expectations_every_distance_is_1():
    memory = make_memory()
    keys, values, expected = torch.randn(4, 5), torch.randn(4, 5), torch.rand(4, 2)
    memory.write(keys=keys, values=values, expected_distances=expected)
    kept = [one.clone() for one in (keys, values, expected)]
    for one in (keys, values, expected):
        one.fill_(9)
    for one, other in zip((memory.keys, memory.values, memory.expected_distances), kept, strict=True):
        assert torch.equal(one, other)
    assert memory.num_items == 4
    memory.write(keys=keys[:3], values=values[:3])
    assert memory.expected_distances.tolist() == [[1, 1]] * 3


def test_an_item_fades_in_with_its_lead_over_the_first_that_is_not_read():
    """Of three logits two are read; weights are softmaxes times the lead in units of the fade, within its bounds."""
    memory = make_memory()
    for first, second in ((1.0, 0.5), (0.3, 0.0), (9.0, 1.9), (0.0, 0.0)):
        powers = [np.exp(first), np.exp(second)]
        faded = [
            power / sum(powers) * min(max(lead / FADE, MIN_FADE), 1.0)
            for power, lead in zip(powers, (first, second), strict=True)
        ]
        found = memory.weigh(torch.tensor([[[first, second, 0.0]]]))[0, 0]
        np.testing.assert_allclose(found.numpy(), np.array(faded) / sum(faded), rtol=1e-5)


def test_where_all_items_are_read_none_fades():
    memory = make_memory(num_items=2, num_read=2)
    best = torch.tensor([[[1.0, 0.5]]])
    torch.testing.assert_close(memory.weigh(best), best.softmax(-1))


def test_a_memory_of_few_items_reads_as_many_as_it_has():
    memory = make_memory(num_items=2, num_read=4)
    recalled = memory(torch.randn(1, 5, 2, 2))
    assert recalled.items.shape == (1, 4, 2)
    assert [scale.shape for scale in recalled.features] == [(1, 3, 2, 2), (1, 2, 2, 2)]


def test_hidden_items_have_no_weight_while_others_are_left():
    memory = make_memory()
    hidden = torch.tensor([[True, True, True, True, False, False], [False] * 6])
    found = memory.read(torch.randn(2, 5, 3, 3), hidden_items=hidden)
    assert set(found.items[0].flatten().tolist()) == {4, 5}
    assert set(found.items[1].flatten().tolist()) > {4, 5}
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(2, 9))


def test_where_one_item_is_left_it_alone_is_read():
    memory = make_memory()
    hidden = torch.arange(6)[None] != 3
    found = memory.read(torch.randn(1, 5, 2, 2), hidden_items=hidden)
    assert (found.items[..., 0] == 3).all()
    torch.testing.assert_close(found.weights[..., 0], torch.ones(1, 4))


def test_gradients_reach_keys_and_values_of_the_items_that_are_read():
    memory = make_memory()
    recalled = memory(torch.randn(1, 5, 1, 1))
    recalled.features[0].square().sum().backward()
    read = recalled.items.flatten().tolist()
    assert [bool(memory.values.grad[item].abs().sum() > 0) for item in range(6)] == [item in read for item in range(6)]
    assert memory.keys.grad[read[0]].abs().sum() > 0
