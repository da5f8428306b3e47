"""The recall memory: keys and values of good parts; a query recalls the values of similar keys (claims 3, 4).

Beside each value the memory keeps the expected distance of good parts to what that item recalls, so that a position is
compared with its own kind: on grain that no part shares with another, a large distance is ordinary.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from model.similarity import direction

# Over how much more similarity than that of the first item not read, in units of the temperature, an item fades in.
FADE = 2.0
# What is left of an item that has faded, so that weights can always be divided by their sum.
MIN_FADE = 1e-4
# Into how many rows items are laid to find the largest: what divides their number.
ROWS = (8, 4, 2)
# The similarity of what is not to be read, far below all others.
HIDDEN_LOGIT = -1e4


class Reading(NamedTuple):
    """The items that are read at each position, the most similar first, and their weights, which sum to 1."""

    items: Int[Tensor, "batch positions read"]
    weights: Float[Tensor, "batch positions read"]


class Recalled(NamedTuple):
    """Recalled features of good parts, their expected distance, and what was read."""

    features: Float[Tensor, "batch channels height width"]
    expected_distance: Float[Tensor, "batch height width"]
    items: Int[Tensor, "batch positions read"]
    weights: Float[Tensor, "batch positions read"]


class RecallMemory(nn.Module):
    """Items of the first scale, filled from good exemplars before training begins.

    Keys and values are parameters: saved, exported, and trained where their gradients are wanted. At each position the
    ``num_read`` items most like the query are read; at a low temperature more would change little (`docs/quality.md`).
    With one alone, recall jumps from item to item; with more it is continuous.
    """

    usual_distances: Tensor

    def __init__(
        self, *, num_items: int, num_channels: int, num_read: int, temperature: float, regularisation: float
    ) -> None:
        super().__init__()
        self.num_read = min(num_read, num_items)
        self.temperature = temperature
        self.regularisation = regularisation
        self.keys = nn.Parameter(torch.randn(num_items, num_channels))
        self.values = nn.Parameter(torch.randn(num_items, num_channels))
        self.register_buffer("usual_distances", torch.ones(num_items))

    @property
    def num_items(self) -> int:
        """The number of key-value pairs."""
        return self.keys.shape[0]

    @torch.no_grad()
    def write(self, *, keys: Float[Tensor, "items channels"], values: Float[Tensor, "items channels"]) -> None:
        """Replace all items; their number may change, and their expected distances are 1."""
        self.keys = nn.Parameter(keys.to(self.keys.device, copy=True))
        self.values = nn.Parameter(values.to(self.values.device, copy=True))
        self.usual_distances = torch.ones(len(keys), device=self.usual_distances.device)

    def read(
        self,
        query: Float[Tensor, "batch channels height width"],
        *,
        hidden_items: Bool[Tensor, "batch items"] | None = None,
    ) -> Reading:
        """Return the most similar items and their weights. ``hidden_items`` are not read while others are left."""
        asked = direction(query.flatten(2).mT, regularisation=self.regularisation)
        # Divided here, where an exported graph does it once, and not at every position.
        known = direction(self.keys, regularisation=self.regularisation).mT / self.temperature
        logits: Tensor = asked @ known  # (batch, positions, items)
        if hidden_items is not None:
            logits = logits.masked_fill(hidden_items[:, None, :], HIDDEN_LOGIT)
        best, items = top_items(logits, min(self.num_read + 1, self.num_items))
        return Reading(items[..., : self.num_read], self.weights(best))

    def weights(self, best: Float[Tensor, "batch positions best"]) -> Float[Tensor, "batch positions read"]:
        """Return softmax over the items read, faded to 0 where an item is as similar as the first one not read.

        Otherwise a difference in the last bit would choose between two items, and one image would get two results.
        """
        read, rest = best[..., : self.num_read], best[..., self.num_read :]
        weights = read.softmax(-1)
        if rest.shape[-1] > 0:
            weights = weights * ((read - rest) / FADE).clamp(MIN_FADE, 1.0)
        return weights / weights.sum(-1, keepdim=True)

    def forward(
        self,
        query: Float[Tensor, "batch channels height width"],
        *,
        hidden_items: Bool[Tensor, "batch items"] | None = None,
    ) -> Recalled:
        """Return the values, and their expected distances, summed by the weights."""
        items, weights = self.read(query, hidden_items=hidden_items)
        size = (query.shape[-2], query.shape[-1])
        # Not indexed: the gradient of that adds up in an order that differs from run to run.
        values = functional.embedding(items, self.values)  # (batch, positions, read, channels)
        features = (weights[..., None] * values).sum(-2)  # (batch, positions, channels)
        usual = (weights * self.usual_distances[items]).sum(-1)
        return Recalled(torch.unflatten(features.mT, 2, size), torch.unflatten(usual, 1, size), items, weights)


def top_items(
    values: Float[Tensor, "batch positions items"], number: int
) -> tuple[Float[Tensor, "batch positions best"], Int[Tensor, "batch positions best"]]:
    """Return ``topk`` over the last axis, in half its time: the largest lie in the columns with the largest maxima.

    A column is every n-th item, so that the maxima are taken along memory (`docs/performance.md`).
    """
    num_items = values.shape[-1]
    num_rows = next((rows for rows in ROWS if num_items % rows == 0 and num_items // rows >= number), 1)
    num_columns = num_items // num_rows
    best_columns = torch.unflatten(values.detach(), -1, (num_rows, num_columns)).amax(-2).topk(number, dim=-1).indices
    firsts = torch.arange(0, num_items, num_columns, device=values.device)
    candidates = (best_columns[..., None, :] + firsts[:, None]).flatten(-2)  # (batch, positions, rows * number)
    best, places = values.gather(-1, candidates).topk(number, dim=-1)
    return best, candidates.gather(-1, places)
