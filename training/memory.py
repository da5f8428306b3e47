"""Filling the recall memory: which positions of good parts are worth remembering (claim 9's update)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.measure import direction
from model.student import Student


@dataclass(frozen=True)
class Origins:
    """Which training image each item was taken from, so that an image need not recall itself while training."""

    images: Int[Tensor, " items"]

    def hidden_from(self, images: Int[Tensor, " batch"]) -> Bool[Tensor, "batch items"]:
        """True where an item came from that very image; nowhere for an image that all items came from."""
        own = images[:, None] == self.images[None, :]
        return own & ~own.all(1, keepdim=True)


def farthest_points(
    points: Float[Tensor, "points channels"], num_chosen: int, *, generator: torch.Generator
) -> Int[Tensor, " chosen"]:
    """Indices of unit vectors, each the one farthest from those chosen before it; the first is drawn.

    The greedy k-centre of Gonzalez (1985), 2-approximate: no point is left far from every chosen one. All are chosen
    where there are no more than ``num_chosen``.
    """
    if len(points) <= num_chosen:
        return torch.arange(len(points))
    chosen = torch.empty(num_chosen, dtype=torch.long)
    chosen[0] = torch.randint(len(points), (1,), generator=generator)
    nearest = points @ points[chosen[0]]
    for index in range(1, num_chosen):
        chosen[index] = nearest.argmin()
        torch.maximum(nearest, points @ points[chosen[index]], out=nearest)
    return chosen


@torch.no_grad()
def fill_memory(
    student: Student,
    standard: Float[Tensor, "images channels height width"],
    valid: Float[Tensor, "images height width"],
    *,
    num_candidates: int,
    generator: torch.Generator,
) -> Origins:
    """Write a farthest-point coreset of the first scale's valid, standardised features into the student's memory.

    Keys are queries of the same exemplars; before training the query is that feature itself (``QueryFusion``). Where
    there are fewer positions than items, items repeat: softmax over twins recalls the same value.
    """
    positions = standard.movedim(1, -1).flatten(0, 2)
    positions_per_image = standard.shape[-2] * standard.shape[-1]
    inside = valid.flatten().nonzero()[:, 0]
    candidates = inside[torch.randperm(len(inside), generator=generator)[:num_candidates]]
    unit = direction(positions[candidates], regularisation=student.spec.regularisation)
    chosen = candidates[farthest_points(unit, student.recall.num_items, generator=generator)]
    wanted = torch.arange(student.recall.num_items) % len(chosen)
    items = chosen[wanted]
    student.recall.write(keys=positions[items], values=positions[items])
    return Origins(items // positions_per_image)
