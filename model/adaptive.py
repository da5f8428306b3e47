"""The adaptive memory of a later scale: made for each image from its own initial feature (claims 6, 7; [0036]-[0037]).

What is stored are parameters that re-dimension the initial feature, one output channel an item. Softmax over the
positions of that channel says where the item is gathered from. The items then answer for every position, so a rare
position is rebuilt from what is common in the same image.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class AdaptiveMemory(nn.Module):
    """Gathers items from an initial feature and answers every position from those items."""

    def __init__(self, *, num_items: int, num_channels: int) -> None:
        super().__init__()
        self.redimension = nn.Conv2d(num_channels, num_items, kernel_size=1)
        self.scale = num_channels**-0.5

    def items(self, initial: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch items channels"]:
        """Return the memory of this one image: weighted means of its positions."""
        weights = self.redimension(initial).flatten(2).softmax(-1)  # (batch, items, positions)
        gathered: Tensor = weights @ initial.flatten(2).mT
        return gathered

    def weights(
        self,
        initial: Float[Tensor, "batch channels height width"],
        items: Float[Tensor, "batch items channels"],
    ) -> Float[Tensor, "batch positions items"]:
        """Return the weight of each item at each position, summing to 1."""
        similarity: Tensor = initial.flatten(2).mT @ items.mT * self.scale  # (batch, positions, items)
        return similarity.softmax(-1)

    def forward(
        self, initial: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The adaptive memory aggregated by the initial feature, at every position."""
        items = self.items(initial)
        aggregated = self.weights(initial, items) @ items  # (batch, positions, channels)
        return torch.unflatten(aggregated.mT, 2, (initial.shape[-2], initial.shape[-1]))
