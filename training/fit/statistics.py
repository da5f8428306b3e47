"""Constants of the comparison, fitted on good parts: mean and spread of each scale, and the scales' weights."""

import torch
from torch import Tensor

from model.compare import Compare
from model.student import Student
from training.settings import Emphasis

BATCH_SIZE = 16
MIN_SPREAD = 1e-6


@torch.no_grad()
def fit_comparison(
    compare: Compare,
    student: Student,
    features: tuple[Tensor, ...],
    valid: Tensor,
    *,
    emphasis: Emphasis,
    hidden_items: Tensor | None = None,
) -> None:
    """Fit the comparison's constants on teacher features of good parts.

    Each scale is standardised over positions. A scale weighs by its ``emphasis``, in the score in spreads of the
    images' own scores. ``hidden_items``: what each image must not recall, where the memory was filled from these
    images.
    """
    for own, learned in zip(compare.standardisers, student.standardisers, strict=True):
        own.load_state_dict(learned.state_dict())
    maps = compute_maps(compare, student, features, hidden_items)
    valid = valid.to(maps.device)
    means, spreads = compute_statistics(maps, valid)
    compare.scale_means.copy_(means)
    compare.scale_spreads.copy_(spreads)
    score_weights = torch.tensor(emphasis.score, device=maps.device) / compare.score(maps, valid).scale_scores.std(
        0
    ).clamp_min(MIN_SPREAD)
    compare.score_weights.copy_(score_weights / score_weights.sum())
    map_weights = torch.tensor(emphasis.map, device=maps.device)
    compare.map_weights.copy_(map_weights / map_weights.sum())


def compute_maps(
    compare: Compare, student: Student, features: tuple[Tensor, ...], hidden_items: Tensor | None = None
) -> Tensor:
    """Return relative distances (images, scales, h, w), computed a few images at a time."""
    device = compare.scale_means.device
    pieces = []
    for first in range(0, len(features[0]), BATCH_SIZE):
        some = tuple(scale[first : first + BATCH_SIZE].to(device) for scale in features)
        hidden = None if hidden_items is None else hidden_items[first : first + BATCH_SIZE].to(device)
        reconstruction = student(*some, hidden_items=hidden)
        pieces.append(compare.relative_maps(some, reconstruction.features, reconstruction.expected_distances))
    return torch.cat(pieces)


def compute_statistics(maps: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and spread of each scale over the valid positions of all images, (scales) each."""
    by_scale = maps.movedim(1, 0)[:, valid > 0]  # (scales, positions)
    return by_scale.mean(1), by_scale.std(1).clamp_min(MIN_SPREAD)
