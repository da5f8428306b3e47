"""The adaptive memory of a later scale: made for each image from its own initial feature (claims 6, 7; [0036]-[0037]).

The stored parameters adjust the channels of the initial feature, one output channel an item. A softmax over the
positions of that channel gives the positions that the item is aggregated from. Every position then reads the items by
their similarity, so a rare position is reconstructed from what is common in the same image.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

# Reading starts at a temperature of 0.1 in units of cosine: at 1, every position reads the mean of all items.
INITIAL_SHARPNESS = math.log(10.0)


class AdaptiveMemory(nn.Module):
    """Aggregates items from an initial feature and reads them at every position."""

    def __init__(self, *, num_items: int, num_channels: int) -> None:
        super().__init__()
        self.adjust = nn.Conv2d(num_channels, num_items, kernel_size=1)
        self.sharpness = nn.Parameter(torch.tensor(INITIAL_SHARPNESS))

    def aggregate(self, initial: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch items channels"]:
        """Return the items of each image: weighted means of its positions."""
        weights = self.adjust(initial).flatten(2).softmax(-1)  # (batch, items, positions)
        items: Tensor = weights @ initial.flatten(2).mT
        return items

    def weigh(
        self,
        initial: Float[Tensor, "batch channels height width"],
        items: Float[Tensor, "batch items channels"],
    ) -> Float[Tensor, "batch positions items"]:
        """Return the weights by which each position reads the items; they sum to 1."""
        positions = functional.normalize(initial.flatten(2).mT, dim=-1)
        similarity: Tensor = positions @ functional.normalize(items, dim=-1).mT  # (batch, positions, items)
        return (similarity * self.sharpness.exp()).softmax(-1)

    def forward(
        self, initial: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the items that each position reads, summed by its weights."""
        items = self.aggregate(initial)
        read = self.weigh(initial, items) @ items  # (batch, positions, channels)
        return torch.unflatten(read.mT, 2, (initial.shape[-2], initial.shape[-1]))
