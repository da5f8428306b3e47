import math

import pytest
import torch

from model.adaptive import AdaptiveMemory


def test_reading_begins_at_a_temperature_of_a_tenth():
    """Two items whose cosines differ by 0.1 are read one to e."""
    memory = AdaptiveMemory(num_items=2, num_channels=2)
    position = torch.tensor([1.0, 0.0])[None, :, None, None]
    items = torch.tensor([[[0.9, math.sqrt(1 - 0.81)], [0.8, 0.6]]])
    weights = memory.weigh(position, items)[0, 0]
    assert (weights[0] / weights[1]).item() == pytest.approx(math.e, rel=1e-5)


def test_only_the_directions_of_positions_and_items_count_for_the_weights():
    torch.manual_seed(0)
    memory = AdaptiveMemory(num_items=3, num_channels=5)
    initial, items = torch.randn(1, 5, 2, 3), torch.randn(1, 3, 5)
    torch.testing.assert_close(memory.weigh(4 * initial, 0.5 * items), memory.weigh(initial, items))


def test_every_position_reads_by_weights_that_sum_to_1():
    torch.manual_seed(0)
    memory = AdaptiveMemory(num_items=3, num_channels=5)
    weights = memory.weigh(torch.randn(2, 5, 2, 3), torch.randn(2, 3, 5))
    assert weights.shape == (2, 6, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 6))


def test_an_image_that_is_alike_everywhere_is_read_as_it_is():
    """Items are weighted means of its positions, and what is read is a weighted mean of the items."""
    torch.manual_seed(0)
    memory = AdaptiveMemory(num_items=3, num_channels=5)
    same = torch.randn(1, 5, 1, 1).expand(1, 5, 3, 4)
    torch.testing.assert_close(memory(same), same)


def test_gradients_reach_the_stored_parameters():
    torch.manual_seed(0)
    memory = AdaptiveMemory(num_items=3, num_channels=5)
    memory(torch.randn(2, 5, 4, 3)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in (memory.adjust.weight, memory.sharpness))
