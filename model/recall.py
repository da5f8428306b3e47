"""The recall memory: keys and values of good parts; a query recalls the values of similar keys (claims 3, 4).

Beside each value the memory keeps the expected distance of good parts to what that item recalls, so that a position is
compared with its own kind: on grain that no part shares with another, a large distance is ordinary.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from model.similarity import to_direction

# An item fades in over this much more similarity, in units of the temperature, than that of the first item not read.
FADE = 2.0
# The weight that a faded item keeps, so that weights can always be divided by their sum.
MIN_FADE = 1e-4
# Numbers of rows to arrange the items in when the largest are searched: the first that divides their number.
ROWS = (8, 4, 2)
# Logit of items that must not be read: below every cosine divided by any temperature.
HIDDEN_LOGIT = -1e30


class ReadItems(NamedTuple):
    """The items read at each position, the most similar first, and their weights, which sum to 1."""

    items: Int[Tensor, "batch positions read"]
    weights: Float[Tensor, "batch positions read"]


class Recalled(NamedTuple):
    """The result of a query: the features of each recalled scale, their expected distances, and what was read.

    ``features``: (batch, channels, height, width) a scale; ``expected_distances``: (batch, height, width) a scale; all
    at the size of the query.
    """

    features: tuple[Tensor, ...]
    expected_distances: tuple[Tensor, ...]
    items: Int[Tensor, "batch positions read"]
    weights: Float[Tensor, "batch positions read"]


class RecallMemory(nn.Module):
    """Key-value memory of the first scale, filled from good parts before training begins.

    A value holds the features of one position at every recalled scale, one after the other along the channels. Keys and
    values are parameters: saved, exported, and trained where their gradients are wanted. At each position the
    ``num_read`` most similar items are read. With one item, recall would jump from item to item; with more it is
    continuous.
    """

    expected_distances: Tensor

    def __init__(
        self,
        *,
        num_items: int,
        query_channels: int,
        value_channels: tuple[int, ...],
        num_read: int,
        temperature: float,
        regularisation: float,
    ) -> None:
        super().__init__()
        self.value_channels = value_channels
        self.num_read = min(num_read, num_items)
        self.temperature = temperature
        self.regularisation = regularisation
        self.keys = nn.Parameter(torch.randn(num_items, query_channels))
        self.values = nn.Parameter(torch.randn(num_items, sum(value_channels)))
        self.register_buffer("expected_distances", torch.ones(num_items, len(value_channels)))

    @property
    def num_items(self) -> int:
        """The number of key-value pairs."""
        return self.keys.shape[0]

    @torch.no_grad()
    def write(
        self,
        *,
        keys: Float[Tensor, "items query_channels"],
        values: Float[Tensor, "items all_channels"],
        expected_distances: Float[Tensor, "items scales"] | None = None,
    ) -> None:
        """Replace all items; their number may change. Without ``expected_distances`` each is 1."""
        device = self.keys.device
        self.keys = nn.Parameter(keys.to(device, copy=True))
        self.values = nn.Parameter(values.to(device, copy=True))
        if expected_distances is None:
            expected_distances = torch.ones(len(keys), len(self.value_channels))
        self.expected_distances = expected_distances.to(device, copy=True)

    def read(
        self,
        query: Float[Tensor, "batch query_channels height width"],
        *,
        hidden_items: Bool[Tensor, "batch items"] | None = None,
    ) -> ReadItems:
        """Return the most similar items and their weights. ``hidden_items`` are not read while others are left."""
        positions = to_direction(query.flatten(2).mT, regularisation=self.regularisation)
        # Divided here, where an exported graph does it once, and not at every position.
        keys = to_direction(self.keys, regularisation=self.regularisation).mT / self.temperature
        logits: Tensor = positions @ keys  # (batch, positions, items)
        if hidden_items is not None:
            logits = logits.masked_fill(hidden_items[:, None, :], HIDDEN_LOGIT)
        best, items = find_largest(logits, min(self.num_read + 1, self.num_items))
        return ReadItems(items[..., : self.num_read], self.weigh(best))

    def weigh(self, best: Float[Tensor, "batch positions best"]) -> Float[Tensor, "batch positions read"]:
        """Return the softmax over the items read, faded to zero as an item approaches the first one not read.

        Without fading, the last bit decides between two nearly equal items, and torch and ONNX Runtime would give one
        image two scores (decision 007).
        """
        read, rest = best[..., : self.num_read], best[..., self.num_read :]
        weights = read.softmax(-1)
        if rest.shape[-1] > 0:
            weights = weights * ((read - rest) / FADE).clamp(MIN_FADE, 1.0)
        return weights / weights.sum(-1, keepdim=True)

    def forward(
        self,
        query: Float[Tensor, "batch query_channels height width"],
        *,
        hidden_items: Bool[Tensor, "batch items"] | None = None,
    ) -> Recalled:
        """Return the values, and their expected distances, summed by the weights."""
        items, weights = self.read(query, hidden_items=hidden_items)
        size = (query.shape[-2], query.shape[-1])
        # embedding, not indexing: the gradient of indexing adds up in an order that differs from run to run.
        values = functional.embedding(items, self.values)  # (batch, positions, read, channels)
        features = torch.unflatten((weights[..., None] * values).sum(-2).mT, 2, size)
        expected = torch.unflatten((weights[..., None] * self.expected_distances[items]).sum(-2).mT, 2, size)
        return Recalled(
            tuple(torch.split(features, list(self.value_channels), dim=1)), tuple(expected.unbind(1)), items, weights
        )


def find_largest(
    values: Float[Tensor, "batch positions items"], number: int
) -> tuple[Float[Tensor, "batch positions best"], Int[Tensor, "batch positions best"]]:
    """Return the largest values of the last axis and their indices, as ``topk``, in half its time.

    The largest values lie in the columns with the largest maxima. A column is every so many-th item, so the maxima are
    taken along contiguous memory (`docs/performance.md`).
    """
    num_items = values.shape[-1]
    num_rows = next((rows for rows in ROWS if num_items % rows == 0 and num_items // rows >= number), 1)
    num_columns = num_items // num_rows
    best_columns = torch.unflatten(values.detach(), -1, (num_rows, num_columns)).amax(-2).topk(number, dim=-1).indices
    firsts = torch.arange(0, num_items, num_columns, device=values.device)
    candidates = (best_columns[..., None, :] + firsts[:, None]).flatten(-2)  # (batch, positions, rows * number)
    best, places = values.gather(-1, candidates).topk(number, dim=-1)
    return best, candidates.gather(-1, places)
