"""Finding the items most alike, faster than by sorting all."""

import pytest
import torch

from model.recall import top_items


@pytest.mark.parametrize("num_items", [1, 3, 5, 8, 40, 300, 1000, 4000, 4001, 4002])
def test_the_largest_are_those_of_a_whole_sort(num_items):
    values = torch.randn(2, 17, num_items, generator=torch.Generator().manual_seed(num_items))
    number = min(5, num_items)
    best, items = top_items(values, number)
    expected = values.sort(dim=-1, descending=True)
    assert torch.equal(best, expected.values[..., :number])
    assert torch.equal(items, expected.indices[..., :number])


def test_gradients_reach_the_values_that_were_found_and_no_other():
    values = torch.randn(1, 3, 64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    best, items = top_items(values, 4)
    best.sum().backward()
    expected = torch.zeros_like(values).scatter(-1, items, 1.0)
    assert torch.equal(values.grad, expected)
