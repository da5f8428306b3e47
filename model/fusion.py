"""The query: all scales of the teacher brought to one size, for the first scale's memory (claim 5)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from model.standardise import Standardiser


def resize(
    features: Float[Tensor, "batch channels height width"], size: tuple[int, int]
) -> Float[Tensor, "batch channels new_height new_width"]:
    """Return feature maps at another size: averaged where they shrink, interpolated where they grow."""
    if tuple(features.shape[-2:]) == size:
        return features
    height, width = features.shape[-2:]
    if height % size[0] == 0 and width % size[1] == 0:
        return functional.avg_pool2d(features, (height // size[0], width // size[1]))
    return functional.interpolate(features, size=size, mode="bilinear", align_corners=False)


# Weight of the other scales in the query, where the first has 1. Measured on the development sets: with 1, the memory
# finds what is wrong as a whole better and small defects worse (decision 014).
OTHER_SCALES_WEIGHT = 0.5


def average_neighbours(
    features: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Return each feature as the mean of the 3 x 3 positions around it, fewer at the edges.

    The locally aware patch features of PatchCore (Roth et al., 2022).
    """
    return functional.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)


class MemoryView(nn.Module):
    """The features as the recall memory sees them: all scales at the first scale's size, the first one averaged.

    Averaging lowers the spread of the channels, so they are standardised once more.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.standardiser = Standardiser(num_channels)

    def forward(self, standard: tuple[Float[Tensor, "batch _ _ _"], ...]) -> tuple[Float[Tensor, "batch _ _ _"], ...]:
        """Return standardised features of the first scales as the memory sees them."""
        size = (standard[0].shape[-2], standard[0].shape[-1])
        first = self.standardiser(average_neighbours(standard[0]))
        return first, *(resize(scale, size) for scale in standard[1:])

    def fit(
        self, standard: Float[Tensor, "batch channels height width"], valid: Float[Tensor, "batch height width"]
    ) -> None:
        """Set the statistics from the first scale's standardised features at their valid positions."""
        fitted = Standardiser.fit(average_neighbours(standard), valid)
        self.standardiser.load_state_dict(fitted.state_dict())


class QueryFusion(nn.Module):
    """Concatenates all scales along the channels, at the size of the first, and projects the result.

    The projection starts as the principal components of good parts' features (``fit``), so the memory, whose keys are
    queries of good parts, works before any gradient step. The query's mean squared norm is its number of channels, as
    that of standardised features is.
    """

    def __init__(self, channels: tuple[int, ...], *, query_channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(sum(channels), query_channels, kernel_size=1, bias=False)
        nn.init.orthogonal_(self.projection.weight)

    def concatenate(
        self, *views: Float[Tensor, "batch _ height width"]
    ) -> Float[Tensor, "batch all_channels height width"]:
        """Return the scales as the memory sees them, joined; the first has most of the energy."""
        first, *others = (scale * scale.shape[1] ** -0.5 for scale in views)
        return torch.cat([first, *(OTHER_SCALES_WEIGHT * scale for scale in others)], dim=1)

    def forward(
        self, *views: Float[Tensor, "batch _ height width"]
    ) -> Float[Tensor, "batch query_channels height width"]:
        """Return the query at every position of scale 1, from all scales as the memory sees them."""
        query: Tensor = self.projection(self.concatenate(*views))
        return query

    @torch.no_grad()
    def fit(self, fused: Float[Tensor, "positions all_channels"]) -> None:
        """Set the projection to the principal components of concatenated features of good parts."""
        energies, components = torch.linalg.eigh(fused.mT @ fused / len(fused))  # ascending
        num_kept = self.projection.out_channels
        scale = (num_kept / energies[-num_kept:].sum().clamp_min(1e-12)).sqrt()
        self.projection.weight.copy_((components[:, -num_kept:].mT * scale)[:, :, None, None])
