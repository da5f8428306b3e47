"""What good parts alone say about the comparison: how far off each scale usually is, and how steady it is there."""

import torch
from torch import Tensor

from model.compare import Compare
from model.student import Student

BATCH_SIZE = 16
SMALLEST_SPREAD = 1e-6


@torch.no_grad()
def fit_comparison(
    compare: Compare,
    student: Student,
    features: tuple[Tensor, ...],
    valid: Tensor,
    *,
    untrained_scales: bool,
) -> None:
    """Set the comparison's constants from teacher features of held-out good parts.

    Each scale is standardised over positions, then weighs by the inverse spread of the images' scores at that scale.
    ``untrained_scales``: the student took no gradient step, so all but the first scale weigh 0.
    """
    for own, learned in zip(compare.standardisers, student.standardisers, strict=True):
        own.load_state_dict(learned.state_dict())
    distances = distances_of(compare, student, features)
    valid = valid.to(distances.device)
    means, spreads = position_statistics(distances, valid)
    compare.scale_means.copy_(means)
    compare.scale_spreads.copy_(spreads)
    steadiness = 1 / compare.judge(distances, valid).scale_scores.std(0).clamp_min(SMALLEST_SPREAD)
    if untrained_scales:
        steadiness[1:] = 0
    compare.scale_weights.copy_(steadiness / steadiness.sum())


def distances_of(compare: Compare, student: Student, features: tuple[Tensor, ...]) -> Tensor:
    """Raw distances (images, scales, h, w), a few images at a time."""
    device = compare.scale_means.device
    pieces = []
    for first in range(0, len(features[0]), BATCH_SIZE):
        some = tuple(scale[first : first + BATCH_SIZE].to(device) for scale in features)
        pieces.append(compare.distances(some, student(*some)))
    return torch.cat(pieces)


def position_statistics(distances: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of each scale over the valid positions of all images, (scales) each."""
    by_scale = distances.movedim(1, 0)[:, valid > 0]  # (scales, positions)
    return by_scale.mean(1), by_scale.std(1).clamp_min(SMALLEST_SPREAD)
