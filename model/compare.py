"""The comparison: teacher against student, scale by scale, to one anomaly map and one score (claim 1).

All scales are compared with what the memory recalls, relative to the distance expected there, and with what the
student's modules extract. Each distance map is standardised on good parts and damped, so that
no single map decides. The anomaly map is their weighted mean, and the score is a weighted mean of the highest positions
of that map: where the score exceeds the threshold, so does the map, and these positions are the regions.

The comparison is exported as a graph of its own, so training, command line and service run the same arithmetic.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from model.fusion import MemoryView, resize
from model.similarity import cosine_distance
from model.standardise import Standardiser
from model.student import Reconstruction, Student

# Value of positions outside the region of interest when the highest ones are searched.
HIDDEN_VALUE = -1e9
MIN_SHARE = 1e-6


@dataclass(frozen=True, kw_only=True)
class CompareSpec:
    """The shape of the comparison. Sizes and sigma are in positions of the anomaly map.

    ``top_shares``: shares of the highest positions whose means make the score, in ascending order. ``num_stored``: how
    many scales the memory stores. ``num_recalled``, ``num_extracted``: how many scales the student reconstructs from
    the memory alone, and from the image as well.
    """

    map_size: tuple[int, int]
    smoothing_sigma: float
    top_shares: tuple[float, ...]
    num_stored: int
    num_recalled: int
    num_extracted: int
    regularisation: float


class CompareOutput(NamedTuple):
    """The output for a batch. ``scale_maps``: of the recalled scales, then of the extracted ones, standardised.

    ``scale_scores``: the mean of each map over the positions that make the score. ``scale_shares``: the share of the
    score that each map contributes; negative contributions count as 0.
    """

    scale_maps: Float[Tensor, "batch maps height width"]
    map: Float[Tensor, "batch height width"]
    score: Float[Tensor, " batch"]
    scale_scores: Float[Tensor, "batch maps"]
    scale_shares: Float[Tensor, "batch maps"]


class Compare(nn.Module):
    """Compares teacher features with the student's reconstruction.

    ``map_means`` and ``map_spreads``: of each distance map over positions of good parts. ``map_weights``: of each map
    in the anomaly map, summing to 1. ``share_weights``: of each top share in the score, summing to 1.
    """

    map_means: Tensor
    map_spreads: Tensor
    map_weights: Tensor
    share_weights: Tensor
    kernel: Tensor

    def __init__(self, spec: CompareSpec, *, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.spec = spec
        self.standardisers = nn.ModuleList(Standardiser(number) for number in channels)
        self.view = MemoryView(channels[0])
        num_maps = spec.num_recalled + spec.num_extracted
        self.register_buffer("map_means", torch.zeros(num_maps))
        self.register_buffer("map_spreads", torch.ones(num_maps))
        self.register_buffer("map_weights", make_prior_weights(spec))
        num_shares = len(spec.top_shares)
        self.register_buffer("share_weights", torch.full((num_shares,), 1 / num_shares))
        self.register_buffer("kernel", make_gaussian(spec.smoothing_sigma))

    def copy_statistics(self, student: Student) -> None:
        """Take the student's per-channel statistics."""
        self.standardisers.load_state_dict(student.standardisers.state_dict())
        self.view.load_state_dict(student.view.state_dict())

    def compute_distances(
        self, teacher: tuple[Float[Tensor, "batch _ _ _"], ...], student: Reconstruction
    ) -> tuple[Float[Tensor, "batch _ _"], ...]:
        """Return the distance maps at their own sizes: of the recalled scales, relative, then of the extracted ones."""
        standard = [standardise(scale) for standardise, scale in zip(self.standardisers, teacher, strict=True)]
        num_stored = self.spec.num_stored
        viewed = (*self.view(tuple(standard[:num_stored])), *standard[num_stored : self.spec.num_recalled])
        recalled = [
            cosine_distance(scale, found, regularisation=self.spec.regularisation) / expected
            for scale, found, expected in zip(viewed, student.recalled, student.expected_distances, strict=True)
        ]
        extracted = [
            cosine_distance(scale, standardise(found), regularisation=self.spec.regularisation)
            for standardise, scale, found in zip(self.standardisers, standard, student.extracted, strict=False)
        ]
        return (*recalled, *extracted)

    def enlarge(
        self, distances: tuple[Float[Tensor, "batch _ _"], ...], valid: Float[Tensor, "batch height width"]
    ) -> Float[Tensor, "batch maps height width"]:
        """Return distance maps at the anomaly map's size, smoothed; invalid positions do not enter valid ones."""
        enlarged = torch.stack([self._enlarge_one(distance, valid) for distance in distances], dim=1)
        weight = valid[:, None]
        return self._smooth(enlarged * weight) / self._smooth(weight).clamp_min(MIN_SHARE)

    def _enlarge_one(self, distance: Tensor, valid: Tensor) -> Tensor:
        weight = resize(valid[:, None], (distance.shape[-2], distance.shape[-1]))
        both = torch.cat([distance[:, None] * weight, weight], dim=1)
        total, weights = functional.interpolate(
            both, size=self.spec.map_size, mode="bilinear", align_corners=False
        ).unbind(1)
        return total / weights.clamp_min(MIN_SHARE)

    def _smooth(self, maps: Float[Tensor, "batch maps height width"]) -> Float[Tensor, "batch maps height width"]:
        """Convolve each map with a Gaussian, first down, then across; edges are repeated."""
        num_maps, margin = maps.shape[1], len(self.kernel) // 2
        padded = functional.pad(maps, (margin, margin, margin, margin), mode="replicate")
        down = self.kernel[None, None, :, None].expand(num_maps, 1, -1, 1)
        across = self.kernel[None, None, None, :].expand(num_maps, 1, 1, -1)
        half = functional.conv2d(padded, down, groups=num_maps)
        return functional.conv2d(half, across, groups=num_maps)

    def standardise(
        self, enlarged: Float[Tensor, "batch maps height width"]
    ) -> Float[Tensor, "batch maps height width"]:
        """Return maps in spreads of good positions, damped: ``sign(z) log(1 + |z|)``."""
        z = (enlarged - self.map_means[:, None, None]) / self.map_spreads[:, None, None]
        return z.sign() * z.abs().log1p()

    def join(
        self, scale_maps: Float[Tensor, "batch maps height width"], valid: Float[Tensor, "batch height width"]
    ) -> CompareOutput:
        """Join standardised maps to the anomaly map and the score. Where ``valid`` is 0, every map is 0."""
        scale_maps = scale_maps * valid[:, None]
        joint = (scale_maps * self.map_weights[:, None, None]).sum(1)
        _, positions = self.find_top(joint, valid)
        weights = (self.share_weights[:, None] * self.compute_rank_weights(valid)).sum(1)
        index = positions[:, None].expand(-1, scale_maps.shape[1], -1)
        scale_scores = (scale_maps.flatten(2).gather(2, index) * weights[:, None]).sum(-1)
        contributions = scale_scores * self.map_weights
        return CompareOutput(
            scale_maps=scale_maps,
            map=joint,
            score=contributions.sum(1),
            scale_scores=scale_scores,
            scale_shares=to_shares(contributions),
        )

    @property
    def num_ranks(self) -> int:
        """The number of positions that the largest top share covers."""
        height, width = self.spec.map_size
        return max(1, math.ceil(self.spec.top_shares[-1] * height * width))

    def find_top(
        self, joint: Float[Tensor, "batch height width"], valid: Float[Tensor, "batch height width"]
    ) -> tuple[Float[Tensor, "batch ranks"], Int[Tensor, "batch ranks"]]:
        """Return the highest values of each map's valid positions, and their flat indices, in descending order."""
        hidden = joint.flatten(1).masked_fill(valid.flatten(1) == 0, HIDDEN_VALUE)
        values, positions = hidden.topk(self.num_ranks, dim=-1)
        return values, positions

    def compute_rank_weights(self, valid: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch shares ranks"]:
        """Return the weight of each rank in the mean of each top share.

        At least one position counts at each share. The weights sum to 1, or to 0 where no position is valid.
        """
        num_valid = valid.flatten(1).sum(-1)[:, None, None]
        shares = torch.tensor(self.spec.top_shares, device=valid.device)[:, None]
        num_counted = (shares * num_valid).ceil().clamp_min(1)  # (batch, shares, 1)
        ranks = torch.arange(self.num_ranks, device=valid.device)
        return (ranks < num_counted) * (ranks < num_valid) / num_counted

    def forward(
        self,
        teacher: tuple[Float[Tensor, "batch _ _ _"], ...],
        student: Reconstruction,
        valid: Float[Tensor, "batch height width"],
    ) -> CompareOutput:
        """Compare features of scales 1..K; ``valid`` is 1 where the part is, else 0."""
        enlarged = self.enlarge(self.compute_distances(teacher, student), valid)
        return self.join(self.standardise(enlarged), valid)


def make_gaussian(sigma: float) -> Float[Tensor, " taps"]:
    """Return a Gaussian kernel out to three sigma, summing to 1."""
    margin = max(1, round(3 * sigma))
    offsets = torch.arange(-margin, margin + 1, dtype=torch.float32)
    bell = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return bell / bell.sum()


def make_prior_weights(spec: CompareSpec) -> Float[Tensor, " maps"]:
    """Return the weights of the maps before anything is known of the product, summing to 1.

    The memory's first scale and the scales decoded from it count most: they are never far from the best map. The first
    extracted scale counts half as much. The other maps are best on some products and worst on others (decision 014).
    """
    num_stored, num_decoded = spec.num_stored, spec.num_recalled - spec.num_stored
    recalled = [4.0, *[2.0] * (num_stored - 1), *[4.0] * num_decoded]
    extracted = [2.0, *[1.0] * (spec.num_extracted - 1)] if spec.num_extracted else []
    weights = [*recalled, *extracted]
    return torch.tensor(weights) / sum(weights)


def to_shares(contributions: Float[Tensor, "batch maps"]) -> Float[Tensor, "batch maps"]:
    """Return contributions as shares of 1, negative ones as 0; all 0 where none is positive."""
    positive = contributions.clamp_min(0)
    return positive / positive.sum(-1, keepdim=True).clamp_min(1e-12)
