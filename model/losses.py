"""The losses of the student (MemKD, ICCV 2023; claims [0011]-[0017]).

The memory learns by ``L_NM + b L_orth``, the extraction modules by ``L_KD``.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from model.similarity import cosine_distance


def distillation_loss(
    distances: tuple[Float[Tensor, "batch _ _"], ...],
    valid: tuple[Float[Tensor, "batch _ _"], ...],
    *,
    hardness: float,
) -> Float[Tensor, ""]:
    """``L_KD``: the distance of each scale over its valid positions (1, else 0), summed over scales.

    A position weighs as its distance to the power of ``hardness``; 0 is the plain mean, 1 leans on what is rebuilt
    worst. Weights carry no gradient.
    """
    total = distances[0].new_zeros(())
    for d, inside in zip(distances, valid, strict=True):
        total = total + weighted_mean(d, inside * d.detach().clamp_min(0) ** hardness)
    return total


def normality_loss(
    recalled: Float[Tensor, "batch channels height width"],
    exemplars: Float[Tensor, "batch channels height width"],
    valid: Float[Tensor, "batch height width"],
    *,
    regularisation: float,
) -> Float[Tensor, ""]:
    """``L_NM``: what the memory recalls for an exemplar is pulled to the exemplar's own, unmoved, feature."""
    return weighted_mean(cosine_distance(exemplars.detach(), recalled, regularisation=regularisation), valid)


def expected_distance_loss(
    distances: Float[Tensor, "batch height width"],
    expected: Float[Tensor, "batch height width"],
    valid: Float[Tensor, "batch height width"],
) -> Float[Tensor, ""]:
    """Return the negative log-likelihood of distances under exponential distributions of the expected means.

    Distances carry no gradient. Small and large ones count alike, since the distribution has no scale of its own.
    """
    return weighted_mean(distances.detach() / expected + expected.log(), valid)


def weighted_mean(
    values: Float[Tensor, "batch height width"], weights: Float[Tensor, "batch height width"]
) -> Float[Tensor, ""]:
    """Return the mean of values by their weights; 0 where all weights are."""
    return (weights * values).sum() / weights.sum().clamp_min(1e-12)


def orthogonality_loss(keys: Float[Tensor, "items channels"]) -> Float[Tensor, ""]:
    """``L_orth``: the mean squared cosine between different keys, in 0 to 1, so that items stay distinct."""
    unit = functional.normalize(keys, dim=-1)
    cosines = unit @ unit.mT
    off_diagonal = cosines - torch.diag(torch.diagonal(cosines))
    num_pairs = len(keys) * (len(keys) - 1)
    return off_diagonal.square().sum() / num_pairs
