"""PatchCore (Roth et al., CVPR 2022): distance to the nearest remembered patch feature."""

import torch
from torch import Tensor

from baselines.method import Features, Judged, enlarge, smooth
from model.fusion import resize
from model.teacher import average_neighbours

PROJECTED_CHANNELS = 64
NUM_NEIGHBOURS = 9
BATCH_SIZE = 2048


def greedy_coreset(points: Tensor, num_chosen: int, *, generator: torch.Generator) -> Tensor:
    """Indices of the paper's greedy k-centre coreset by Euclidean distance, after a random projection."""
    projection = torch.randn(points.shape[1], PROJECTED_CHANNELS, generator=generator) / PROJECTED_CHANNELS**0.5
    small = points @ projection if points.shape[1] > PROJECTED_CHANNELS else points
    squares = small.square().sum(1)
    chosen = torch.empty(num_chosen, dtype=torch.long)
    chosen[0] = torch.randint(len(points), (1,), generator=generator)
    nearest = torch.full((len(points),), torch.inf)
    for index in range(num_chosen):
        if index:
            chosen[index] = nearest.argmax()
        centre = chosen[index]
        torch.minimum(nearest, squares - 2 * (small @ small[centre]) + squares[centre], out=nearest)
    return chosen


class PatchCore:
    """Patch features of ``strides``, concatenated at the first of them, 10 % kept."""

    def __init__(self, *, strides: tuple[int, ...] = (16,), share: float = 0.1) -> None:
        self.strides = strides
        self.share = share
        self.items = torch.empty(0)

    def patches(self, features: Features) -> Tensor:
        """Locally aware patch features (images, channels, h, w)."""
        first = average_neighbours(features[self.strides[0]])
        size = (first.shape[-2], first.shape[-1])
        return torch.cat([first, *(resize(average_neighbours(features[s]), size) for s in self.strides[1:])], dim=1)

    def fit(self, train: Features, *, seed: int) -> None:
        """Remember a coreset of all patches."""
        rows = self.patches(train).movedim(1, -1).flatten(0, 2)
        generator = torch.Generator().manual_seed(seed)
        self.items = rows[greedy_coreset(rows, round(self.share * len(rows)), generator=generator)]

    def judge(self, features: Features) -> Judged:
        """Nearest distances; the image's score is the largest, re-weighted by how dense its neighbourhood is."""
        patches = self.patches(features)
        rows = patches.movedim(1, -1).flatten(0, 2)
        nearest = [torch.cdist(some, self.items).min(1) for some in rows.split(BATCH_SIZE)]
        shape = (len(patches), *patches.shape[-2:])
        distances = torch.cat([one.values for one in nearest]).view(shape)
        indices = torch.cat([one.indices for one in nearest]).view(shape)
        return Judged(self.reweight(patches, distances, indices), smooth(enlarge(distances)))

    def reweight(self, patches: Tensor, distances: Tensor, indices: Tensor) -> Tensor:
        """Apply equation 7 of the paper: the largest distance, less where its item's own neighbours are as far."""
        worst = distances.flatten(1).argmax(1)
        rows = torch.arange(len(patches))
        largest = distances.flatten(1)[rows, worst]
        item = self.items[indices.flatten(1)[rows, worst]]
        query = patches.flatten(2)[rows, :, worst]
        neighbours = torch.cdist(item, self.items).topk(NUM_NEIGHBOURS, largest=False).indices
        around = torch.linalg.vector_norm(query[:, None] - self.items[neighbours], dim=2)
        return (1 - (largest - torch.logsumexp(around, 1)).exp()) * largest

    def size_bytes(self) -> int:
        """The remembered patches."""
        return self.items.numel() * 4
