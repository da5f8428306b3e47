"""The comparison's constants from good parts that nothing was learned from, and the weights of its maps.

Which maps count, and whether small or large areas do, differs from product to product. Synthetic defects on held-out
good parts tell: the weights are those of a logistic regression that tells them from the same parts without a defect,
with weights that lean on the memory as the prior.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model.compare import Compare, make_prior_weights
from model.student import Student

BATCH_SIZE = 16
MIN_SPREAD = 1e-6
# Weight of the squared change of the logits, times the number of good parts: the fewer these are, the less is learned.
PRIOR_WEIGHT = 10.0
NUM_STEPS, LEARNING_RATE = 150, 0.05


@dataclass(frozen=True)
class ComparedImages:
    """Teacher features of scales 1..K (images, channels, height, width) and valid map positions (images, h, w).

    ``hidden_items``: the items (images, items) that an image must not recall, because it gave them.
    """

    features: tuple[Tensor, ...]
    valid: Tensor
    hidden_items: Tensor | None = None


@torch.no_grad()
def fit_comparison(
    compare: Compare, student: Student, good: ComparedImages, defective: ComparedImages | None = None
) -> None:
    """Set the constants of every map from good parts; with ``defective`` ones, set the weights, too."""
    compare.copy_statistics(student)
    maps = compute_maps(compare, student, good)
    by_map = maps.movedim(1, 0)[:, good.valid.to(maps.device) > 0]  # (maps, positions)
    compare.map_means.copy_(by_map.mean(1))
    compare.map_spreads.copy_(by_map.std(1).clamp_min(MIN_SPREAD))
    if defective is not None:
        joined = torch.cat([compare.standardise(maps), compare.standardise(compute_maps(compare, student, defective))])
        fit_weights(compare, joined, torch.cat([good.valid, defective.valid]).to(joined.device), num_good=len(maps))


def compute_maps(compare: Compare, student: Student, images: ComparedImages) -> Tensor:
    """Return distance maps (images, maps, h, w), a few images at a time."""
    device = compare.map_means.device
    maps = []
    for rows in torch.split(torch.arange(len(images.valid)), BATCH_SIZE):
        features = tuple(scale[rows].to(device) for scale in images.features)
        hidden = None if images.hidden_items is None else images.hidden_items[rows].to(device)
        distances = compare.compute_distances(features, student(*features, hidden_items=hidden))
        maps.append(compare.enlarge(distances, images.valid[rows].to(device)))
    return torch.cat(maps)


@torch.enable_grad()
def fit_weights(compare: Compare, maps: Tensor, valid: Tensor, *, num_good: int) -> None:
    """Set the weights of maps and top shares.

    ``maps``: standardised, (images, maps, h, w), of ``num_good`` good parts, then of defective ones; ``valid``:
    (images, h, w).
    """
    is_defective = (torch.arange(len(maps), device=maps.device) >= num_good).float()
    rank_weights = compare.compute_rank_weights(valid)
    before = make_prior_weights(compare.spec).to(maps.device).log()
    map_logits = before.clone().requires_grad_()
    share_logits = torch.zeros_like(compare.share_weights, requires_grad=True)
    affine = torch.zeros(2, device=maps.device, requires_grad=True)
    optimiser = torch.optim.Adam([map_logits, share_logits, affine], lr=LEARNING_RATE)
    for _ in range(NUM_STEPS):
        joint = (maps * map_logits.softmax(0)[:, None, None]).sum(1)
        means = (rank_weights * compare.find_top(joint, valid)[0][:, None]).sum(-1)  # (images, shares)
        prior = (map_logits - before).square().sum() + share_logits.square().sum()
        loss = separation_loss((means * share_logits.softmax(0)).sum(1), is_defective, affine)
        optimiser.zero_grad()
        torch.autograd.backward(loss + PRIOR_WEIGHT / num_good * prior)
        optimiser.step()
    compare.map_weights.copy_(map_logits.detach().softmax(0))
    compare.share_weights.copy_(share_logits.detach().softmax(0))


def separation_loss(scores: Tensor, is_defective: Tensor, affine: Tensor) -> Tensor:
    """Return the logistic loss of scores (images); good and defective images weigh alike in all.

    Scores enter in units of their spread over good images, so only how well they separate counts. ``affine``: the
    logarithm of the slope and the offset of the logistic function, trained beside.
    """
    ordinary = scores[is_defective == 0].detach()
    z = (scores - ordinary.mean()) / ordinary.std().clamp_min(MIN_SPREAD)
    losses = functional.binary_cross_entropy_with_logits(
        affine[0].exp() * z / 3 + affine[1], is_defective, reduction="none"
    )
    return losses[is_defective == 0].mean() + losses[is_defective == 1].mean()
