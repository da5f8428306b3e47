"""What good parts alone say about the comparison: how far off each scale usually is, and how steady it is there."""

import torch
from torch import Tensor

from model.compare import Compare
from model.student import Student
from training.settings import Emphasis

BATCH_SIZE = 16
SMALLEST_SPREAD = 1e-6


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
    """Set the comparison's constants from teacher features of good parts.

    Each scale is standardised over positions. A scale weighs by its ``emphasis``, in the score in spreads of the
    images' own scores. ``hidden_items``: what each image must not
    recall, where the memory was filled from these very images.
    """
    for own, learned in zip(compare.standardisers, student.standardisers, strict=True):
        own.load_state_dict(learned.state_dict())
    maps = maps_of(compare, student, features, hidden_items)
    valid = valid.to(maps.device)
    means, spreads = position_statistics(maps, valid)
    compare.scale_means.copy_(means)
    compare.scale_spreads.copy_(spreads)
    score_weights = torch.tensor(emphasis.score, device=maps.device) / compare.judge(maps, valid).scale_scores.std(
        0
    ).clamp_min(SMALLEST_SPREAD)
    compare.score_weights.copy_(score_weights / score_weights.sum())
    map_weights = torch.tensor(emphasis.map, device=maps.device)
    compare.map_weights.copy_(map_weights / map_weights.sum())


def maps_of(
    compare: Compare, student: Student, features: tuple[Tensor, ...], hidden_items: Tensor | None = None
) -> Tensor:
    """Relative distances (images, scales, h, w), a few images at a time."""
    device = compare.scale_means.device
    pieces = []
    for first in range(0, len(features[0]), BATCH_SIZE):
        some = tuple(scale[first : first + BATCH_SIZE].to(device) for scale in features)
        hidden = None if hidden_items is None else hidden_items[first : first + BATCH_SIZE].to(device)
        rebuilt = student(*some, hidden_items=hidden)
        pieces.append(compare.relative_maps(some, rebuilt.features, rebuilt.usual_distances))
    return torch.cat(pieces)


def position_statistics(maps: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of each scale over the valid positions of all images, (scales) each."""
    by_scale = maps.movedim(1, 0)[:, valid > 0]  # (scales, positions)
    return by_scale.mean(1), by_scale.std(1).clamp_min(SMALLEST_SPREAD)
