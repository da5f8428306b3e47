"""Remembering new good parts at once: items written into a taught memory, without a gradient step.

The same operation as filling (claim 9), on a memory that is full: what it already explains needs no item.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.measure import direction, distance
from model.recall import RecallMemory
from model.student import Student
from training.memory import PRIOR_READINGS, SMALLEST_USUAL

# A position whose nearest key has at least this cosine is explained already. Measured: at 0.95 and 0.97 fewer items are
# added and fewer defects found afterwards (docs/log.md).
EXPLAINED_COSINE = 0.99


@dataclass(frozen=True)
class Added:
    """Where each new item was taken from: which of the images, at which of its positions."""

    images: Int[Tensor, " items"]
    positions: Int[Tensor, " items"]


@torch.no_grad()
def remember(
    student: Student,
    features: tuple[Float[Tensor, "images _ _ _"], ...],
    valid: Float[Tensor, "images height width"],
    *,
    most: int,
) -> Added:
    """Write what these good parts have and the memory does not explain, ``most`` items at most.

    ``features``: of scales 1..K in standard space.

    Items are chosen farthest first from the keys that are there (Gonzalez, 1985). Each gets the usual distance with
    which the other images read it.
    """
    memory, regularisation = student.recall, student.spec.regularisation
    query = student.fusion(*features)
    asked = direction(query.flatten(2).mT.flatten(0, 1), regularisation=regularisation)  # (positions, channels)
    known = direction(memory.keys, regularisation=regularisation)
    inside = valid.flatten() > 0
    chosen = farthest_from(asked, known, inside, most=most)
    keys = query.movedim(1, -1).flatten(0, 2)[chosen]
    values = features[0].movedim(1, -1).flatten(0, 2)[chosen]
    positions_per_image = features[0].shape[-2] * features[0].shape[-1]
    added = Added(chosen // positions_per_image, chosen % positions_per_image)
    usual = memory.usual_distances
    memory.write(keys=torch.cat([memory.keys, keys]), values=torch.cat([memory.values, values]))
    memory.usual_distances = torch.cat([usual, usual.mean().expand(len(chosen))])
    tell_added(memory, query, features[0], valid, added)
    return added


def farthest_from(
    points: Float[Tensor, "points channels"],
    known: Float[Tensor, "known channels"],
    inside: Bool[Tensor, " points"],
    *,
    most: int,
) -> Int[Tensor, " chosen"]:
    """Indices of unit vectors, each the one farthest from the known and those chosen before; none that is explained."""
    nearest = torch.cat([(piece @ known.mT).amax(1) for piece in torch.split(points, 1024)])
    nearest[~inside] = 1.0
    chosen: list[int] = []
    while len(chosen) < most:
        index = int(nearest.argmin())
        if nearest[index] >= EXPLAINED_COSINE:
            break
        chosen.append(index)
        torch.maximum(nearest, points @ points[index], out=nearest)
        nearest[index] = 1.0
    return torch.tensor(chosen, dtype=torch.long)


def tell_added(memory: RecallMemory, query: Tensor, features: Tensor, valid: Tensor, added: Added) -> None:
    """The usual distances of the added items, from the images that did not give them."""
    num_before = memory.num_items - len(added.images)
    readings, sums = torch.zeros(memory.num_items), torch.zeros(memory.num_items)
    for image in range(len(query)):
        own = torch.zeros(1, memory.num_items, dtype=torch.bool)
        own[0, num_before:] = added.images == image
        one = query[image : image + 1]
        recalled = memory(one, hidden_items=own)
        off = distance(features[image : image + 1], recalled.features, regularisation=memory.regularisation).flatten(1)
        counted = recalled.weights * valid[image].flatten()[None, :, None]
        readings.index_add_(0, recalled.items.flatten(), counted.flatten())
        sums.index_add_(0, recalled.items.flatten(), (counted * off[..., None]).flatten())
    overall = memory.usual_distances[:num_before].mean()
    usual = (sums + PRIOR_READINGS * overall) / (readings + PRIOR_READINGS)
    memory.usual_distances[num_before:] = usual[num_before:].clamp_min(SMALLEST_USUAL)
