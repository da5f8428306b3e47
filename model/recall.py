"""The recall memory: keys and values of good parts; a query recalls the values whose keys are like it (claims 3, 4)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from model.measure import direction


class RecallMemory(nn.Module):
    """Items of the first scale, filled from good exemplars before training begins.

    Keys and values are parameters: saved, exported, and trained where their gradients are wanted.
    """

    def __init__(self, *, num_items: int, num_channels: int, temperature: float, regularisation: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.regularisation = regularisation
        self.keys = nn.Parameter(torch.randn(num_items, num_channels))
        self.values = nn.Parameter(torch.randn(num_items, num_channels))

    @property
    def num_items(self) -> int:
        """How many key-value pairs the memory holds."""
        return self.keys.shape[0]

    @torch.no_grad()
    def write(self, *, keys: Float[Tensor, "items channels"], values: Float[Tensor, "items channels"]) -> None:
        """Replace every item; raises RuntimeError where the number of items or channels differs."""
        self.keys.copy_(keys)
        self.values.copy_(values)

    def weights(
        self,
        query: Float[Tensor, "batch channels height width"],
        *,
        hidden_items: Bool[Tensor, "batch items"] | None = None,
    ) -> Float[Tensor, "batch positions items"]:
        """Attention over the items at each position, summing to 1. ``hidden_items`` get none of it."""
        asked = direction(query.flatten(2).mT, regularisation=self.regularisation)
        known = direction(self.keys, regularisation=self.regularisation)
        logits: Tensor = asked @ known.mT / self.temperature  # (batch, positions, items)
        if hidden_items is not None:
            logits = logits.masked_fill(hidden_items[:, None, :], -torch.inf)
        return logits.softmax(-1)

    def forward(
        self,
        query: Float[Tensor, "batch channels height width"],
        *,
        hidden_items: Bool[Tensor, "batch items"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """What good parts had where they looked like the query."""
        recalled = self.weights(query, hidden_items=hidden_items) @ self.values
        return torch.unflatten(recalled.mT, 2, (query.shape[-2], query.shape[-1]))
