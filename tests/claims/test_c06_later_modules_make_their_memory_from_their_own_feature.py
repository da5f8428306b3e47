import torch

from model.adaptive import AdaptiveMemory
from model.student import LaterModule


def test_the_adaptive_memory_differs_between_images():
    torch.manual_seed(0)
    memory = AdaptiveMemory(num_items=3, num_channels=5)
    items = memory.aggregate(torch.randn(2, 5, 4, 4))
    assert items.shape == (2, 3, 5)
    assert not torch.allclose(items[0], items[1])


def test_the_second_feature_comes_of_the_aggregated_memory():
    torch.manual_seed(0)
    module = LaterModule(num_in=6, num_channels=4, hidden_channels=5, num_items=3).eval()
    hidden = torch.randn(1, 6, 4, 4)
    before = module(hidden, (8, 8))
    module.memory.forward = torch.zeros_like
    assert not torch.allclose(before, module(hidden, (8, 8)))
