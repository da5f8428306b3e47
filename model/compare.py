"""The comparison: teacher against student, scale by scale, to one anomaly map and one score (claim 1).

A position is as anomalous as its distance is large relative to the expected one. The deep first scale detects best, the
later ones localise: so the score leans on the first, and the map is the mean of all.

It is exported as a graph of its own, so that training, command line and service run the same arithmetic.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from model.similarity import distance
from model.standardise import Standardiser


@dataclass(frozen=True, kw_only=True)
class CompareSpec:
    """The shape of the comparison. Sizes and sigma are in positions of the anomaly map."""

    map_size: tuple[int, int]
    smoothing_sigma: float
    top_share: float
    regularisation: float


class CompareOutput(NamedTuple):
    """The output for a batch. ``scale_shares``: each scale's share of the score."""

    scale_maps: Float[Tensor, "batch scales height width"]
    map: Float[Tensor, "batch height width"]
    score: Float[Tensor, " batch"]
    scale_scores: Float[Tensor, "batch scales"]
    scale_shares: Float[Tensor, "batch scales"]


class Compare(nn.Module):
    """Teacher and student features to standardised, weighted, smoothed maps and the score.

    Each scale's relative distance is standardised by ``scale_means`` and ``scale_spreads`` of good positions. It counts
    in the map by ``map_weights`` and in the score by ``score_weights``, each of which sum to 1.
    """

    scale_means: Tensor
    scale_spreads: Tensor
    map_weights: Tensor
    score_weights: Tensor
    kernel: Tensor

    def __init__(self, spec: CompareSpec, *, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.spec = spec
        self.standardisers = nn.ModuleList(Standardiser(number) for number in channels)
        num_scales = len(channels)
        self.register_buffer("scale_means", torch.zeros(num_scales))
        self.register_buffer("scale_spreads", torch.ones(num_scales))
        self.register_buffer("map_weights", torch.full((num_scales,), 1 / num_scales))
        self.register_buffer("score_weights", torch.full((num_scales,), 1 / num_scales))
        self.register_buffer("kernel", gaussian(spec.smoothing_sigma))

    def distances(
        self, teacher: tuple[Float[Tensor, "batch _ _ _"], ...], student: tuple[Float[Tensor, "batch _ _ _"], ...]
    ) -> tuple[Float[Tensor, "batch _ _"], ...]:
        """Return the distance of every scale at each of its own positions."""
        return tuple(
            distance(standardise(t), standardise(s), regularisation=self.spec.regularisation)
            for standardise, t, s in zip(self.standardisers, teacher, student, strict=True)
        )

    def relative_maps(
        self,
        teacher: tuple[Float[Tensor, "batch _ _ _"], ...],
        student: tuple[Float[Tensor, "batch _ _ _"], ...],
        usual: tuple[Float[Tensor, "batch _ _"], ...],
    ) -> Float[Tensor, "batch scales height width"]:
        """Return every scale's distance as a multiple of the expected one, at the size of the map, smoothed."""
        relative = [d / u for d, u in zip(self.distances(teacher, student), usual, strict=True)]
        size = self.spec.map_size
        grown = [
            functional.interpolate(one[:, None], size=size, mode="bilinear", align_corners=False) for one in relative
        ]
        return self.smooth(torch.cat(grown, dim=1))

    def smooth(self, maps: Float[Tensor, "batch scales height width"]) -> Float[Tensor, "batch scales height width"]:
        """Convolve each map with a Gaussian, first down, then across; edges are repeated."""
        num_scales, margin = maps.shape[1], len(self.kernel) // 2
        padded = functional.pad(maps, (margin, margin, margin, margin), mode="replicate")
        down = self.kernel[None, None, :, None].expand(num_scales, 1, -1, 1)
        across = self.kernel[None, None, None, :].expand(num_scales, 1, 1, -1)
        half = functional.conv2d(padded, down, groups=num_scales)
        return functional.conv2d(half, across, groups=num_scales)

    def score(
        self,
        relative: Float[Tensor, "batch scales height width"],
        valid: Float[Tensor, "batch height width"],
    ) -> CompareOutput:
        """Convert relative distances to maps and score. Where ``valid`` is 0 every map is 0 and nothing counts."""
        standard = (relative - self.scale_means[:, None, None]) / self.scale_spreads[:, None, None]
        scale_maps = standard * valid[:, None]
        scale_scores = top_mean(scale_maps, valid, share=self.spec.top_share)
        put = scale_scores * self.score_weights
        return CompareOutput(
            scale_maps=scale_maps,
            map=(scale_maps * self.map_weights[:, None, None]).sum(1),
            score=put.sum(1),
            scale_scores=scale_scores,
            scale_shares=compute_shares(put),
        )

    def forward(
        self,
        teacher: tuple[Float[Tensor, "batch _ _ _"], ...],
        student: tuple[Float[Tensor, "batch _ _ _"], ...],
        usual: tuple[Float[Tensor, "batch _ _"], ...],
        valid: Float[Tensor, "batch height width"],
    ) -> CompareOutput:
        """Compare features of scales 1..K; ``valid`` is 1 where the part is, else 0."""
        return self.score(self.relative_maps(teacher, student, usual), valid)


def gaussian(sigma: float) -> Float[Tensor, " taps"]:
    """Return a Gaussian kernel out to three sigma, summing to 1."""
    margin = max(1, round(3 * sigma))
    offsets = torch.arange(-margin, margin + 1, dtype=torch.float32)
    bell = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return bell / bell.sum()


def top_mean(
    maps: Float[Tensor, "batch maps height width"],
    valid: Float[Tensor, "batch height width"],
    *,
    share: float,
) -> Float[Tensor, "batch maps"]:
    """Return the mean of the highest ``share`` of valid positions.

    At least one position counts. An image without a valid position scores 0.
    """
    num_counted = (share * valid.flatten(1).sum(-1)).ceil().clamp_min(1)[:, None, None]
    most = max(1, -int(-share * valid.shape[-2] * valid.shape[-1] // 1))
    hidden = maps.flatten(2).masked_fill(valid.flatten(1)[:, None] == 0, -1e9)
    values = hidden.topk(most, dim=-1).values
    ranks = torch.arange(most, device=maps.device)
    counts = ((ranks < num_counted) & (values > -1e8)).to(maps.dtype) / num_counted
    return (values * counts).sum(-1)


def compute_shares(put: Float[Tensor, "batch scales"]) -> Float[Tensor, "batch scales"]:
    """Return each scale's share of the score, negatives cut off; all 0 where none is positive."""
    positive = put.clamp_min(0)
    return positive / positive.sum(-1, keepdim=True).clamp_min(1e-12)
