"""The comparison: teacher against student, scale by scale, to one anomaly map and one score (claim 1).

It is exported as a graph of its own, so that training, command line and service run the same arithmetic.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from model.measure import distance
from model.standardise import Standardiser


@dataclass(frozen=True, kw_only=True)
class CompareSpec:
    """What fixes the comparison. Sizes and sigma are in positions of the anomaly map."""

    map_size: tuple[int, int]
    smoothing_sigma: float
    top_share: float
    regularisation: float


class Comparison(NamedTuple):
    """The answer for a batch. ``scale_shares`` sum to 1: how much each scale put into the score."""

    scale_maps: Float[Tensor, "batch scales height width"]
    map: Float[Tensor, "batch height width"]
    score: Float[Tensor, " batch"]
    scale_scores: Float[Tensor, "batch scales"]
    scale_shares: Float[Tensor, "batch scales"]


class Compare(nn.Module):
    """Teacher and student features to standardised, weighted, smoothed maps and the score.

    Each scale's distance is standardised by ``scale_means`` and ``scale_spreads`` of good positions and counts by
    ``scale_weights``, which sum to 1. All three are learned from good parts alone.
    """

    scale_means: Tensor
    scale_spreads: Tensor
    scale_weights: Tensor
    kernel: Tensor

    def __init__(self, spec: CompareSpec, *, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.spec = spec
        self.standardisers = nn.ModuleList(Standardiser(number) for number in channels)
        num_scales = len(channels)
        self.register_buffer("scale_means", torch.zeros(num_scales))
        self.register_buffer("scale_spreads", torch.ones(num_scales))
        self.register_buffer("scale_weights", torch.full((num_scales,), 1 / num_scales))
        self.register_buffer("kernel", gaussian(spec.smoothing_sigma))

    def distances(
        self,
        teacher: tuple[Float[Tensor, "batch _ _ _"], ...],
        student: tuple[Float[Tensor, "batch _ _ _"], ...],
    ) -> Float[Tensor, "batch scales height width"]:
        """The raw distance of every scale at the size of the map."""
        maps = [
            distance(standardise(t), standardise(s), regularisation=self.spec.regularisation)
            for standardise, t, s in zip(self.standardisers, teacher, student, strict=True)
        ]
        size = self.spec.map_size
        grown = [functional.interpolate(one[:, None], size=size, mode="bilinear", align_corners=False) for one in maps]
        return self.smoothed(torch.cat(grown, dim=1))

    def smoothed(self, maps: Float[Tensor, "batch scales height width"]) -> Float[Tensor, "batch scales height width"]:
        """Each map convolved with a Gaussian, first down, then across; edges are repeated."""
        num_scales, margin = maps.shape[1], len(self.kernel) // 2
        padded = functional.pad(maps, (margin, margin, margin, margin), mode="replicate")
        down = self.kernel[None, None, :, None].expand(num_scales, 1, -1, 1)
        across = self.kernel[None, None, None, :].expand(num_scales, 1, 1, -1)
        half = functional.conv2d(padded, down, groups=num_scales)
        return functional.conv2d(half, across, groups=num_scales)

    def judge(
        self,
        distances: Float[Tensor, "batch scales height width"],
        valid: Float[Tensor, "batch height width"],
    ) -> Comparison:
        """Distances to maps and score. Positions where ``valid`` is 0 are 0 in every map and count nowhere."""
        standard = (distances - self.scale_means[:, None, None]) / self.scale_spreads[:, None, None]
        scale_maps = standard * valid[:, None]
        weighted = scale_maps * self.scale_weights[:, None, None]
        joint = weighted.sum(1)
        share = self.spec.top_share
        score, positions = top_mean(joint[:, None], valid, share=share)
        scale_scores, _ = top_mean(scale_maps, valid, share=share)
        return Comparison(scale_maps, joint, score[:, 0], scale_scores, contributions(weighted, positions[:, 0]))

    def forward(
        self,
        teacher: tuple[Float[Tensor, "batch _ _ _"], ...],
        student: tuple[Float[Tensor, "batch _ _ _"], ...],
        valid: Float[Tensor, "batch height width"],
    ) -> Comparison:
        """Features of scales 1..K to the answer; ``valid`` is 1 where a position is part of the part, else 0."""
        return self.judge(self.distances(teacher, student), valid)


def gaussian(sigma: float) -> Float[Tensor, " taps"]:
    """A Gaussian kernel out to three sigma, summing to 1."""
    margin = max(1, round(3 * sigma))
    offsets = torch.arange(-margin, margin + 1, dtype=torch.float32)
    bell = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return bell / bell.sum()


def top_mean(
    maps: Float[Tensor, "batch maps height width"],
    valid: Float[Tensor, "batch height width"],
    *,
    share: float,
) -> tuple[Float[Tensor, "batch maps"], Float[Tensor, "batch maps positions"]]:
    """The mean of the highest ``share`` of valid positions, and each position's part in that mean.

    At least one position counts. An image without a valid position scores 0.
    """
    num_valid = valid.flatten(1).sum(-1)
    num_counted = (share * num_valid).ceil().clamp_min(1)[:, None, None]
    most = max(1, -int(-share * valid.shape[-2] * valid.shape[-1] // 1))
    hidden = maps.flatten(2).masked_fill(valid.flatten(1)[:, None] == 0, -1e9)
    values, indices = hidden.topk(most, dim=-1)
    ranks = torch.arange(most, device=maps.device)
    counts = ((ranks < num_counted) & (values > -1e8)).to(maps.dtype) / num_counted
    parts = torch.zeros_like(hidden).scatter(-1, indices, counts)
    return (values * counts).sum(-1), parts


def contributions(
    weighted: Float[Tensor, "batch scales height width"],
    parts: Float[Tensor, "batch positions"],
) -> Float[Tensor, "batch scales"]:
    """What each scale put into the positions that made the score, negatives cut off, as shares of 1."""
    put = (weighted.flatten(2) * parts[:, None]).sum(-1).clamp_min(0)
    return put / put.sum(-1, keepdim=True).clamp_min(1e-12)
