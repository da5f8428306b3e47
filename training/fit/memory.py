"""The recall memory's own lesson: filled, taught, and told how far good parts usually are (claim 9's update)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.losses import normality_loss, orthogonality_loss
from model.measure import direction, distance
from model.recall import Recalled, RecallMemory
from model.student import Student
from training.fit.feature_store import Rows
from training.settings import MemorySettings

# Images at once where nothing is learned; more fall out of a CPU's caches.
BATCH_SIZE = 8
# An item that few positions read has no figure of its own: this many readings count as the mean of all items.
PRIOR_READINGS = 5.0
SMALLEST_USUAL = 1e-4
# A position whose nearest key has at least this cosine is explained already. Measured: at 0.95 and 0.97 fewer items are
# added and fewer defects found afterwards (docs/log.md).
EXPLAINED_COSINE = 0.99


class Rememberer(Protocol):
    """What asks a recall memory: a student, or a memory that is asked the features themselves."""

    @property
    def recall(self) -> RecallMemory:
        """The memory."""

    @property
    def fusion(self) -> Callable[..., Tensor]:
        """Standardised features of all scales to a query."""


@dataclass(frozen=True)
class Origins:
    """Which training image each item was taken from, and at which of its positions, row by row.

    So that an image need not recall itself while training, and that what was recalled can be shown.
    """

    images: Int[Tensor, " items"]
    positions: Int[Tensor, " items"]

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
    student: Rememberer,
    standard: Rows,
    valid: Float[Tensor, "images height width"],
    *,
    num_candidates: int,
    generator: torch.Generator,
) -> Origins:
    """Write a farthest-point coreset of the first scale's valid, standardised features into the student's memory.

    Keys are queries of the same exemplars; before training the query is that feature itself (``QueryFusion``). Where
    there are fewer positions than items, the memory holds fewer: of twins, rounding would choose which is read.
    """
    inside = valid.flatten().nonzero()[:, 0]
    candidates = inside[torch.randperm(len(inside), generator=generator)[:num_candidates]]
    features = features_at(standard, candidates)
    unit = direction(features, regularisation=student.recall.regularisation)
    chosen = farthest_points(unit, student.recall.num_items, generator=generator)
    student.recall.write(keys=features[chosen], values=features[chosen])
    positions_per_image = standard.shape[-2] * standard.shape[-1]
    return Origins(candidates[chosen] // positions_per_image, candidates[chosen] % positions_per_image)


def features_at(rows: Rows, positions: Int[Tensor, " positions"]) -> Float[Tensor, "positions channels"]:
    """The features at these positions, counted image after image and row after row, a few images at a time."""
    num_images, num_channels, height, width = rows.shape
    found = torch.empty(len(positions), num_channels)
    images, places = positions // (height * width), positions % (height * width)
    for first in range(0, num_images, BATCH_SIZE):
        some = torch.arange(first, min(first + BATCH_SIZE, num_images))
        inside = ((images >= first) & (images < first + BATCH_SIZE)).nonzero()[:, 0]
        if len(inside):
            here = rows[some].flatten(2)  # (images, channels, positions)
            found[inside] = here[images[inside] - first, :, places[inside]]
    return found


@dataclass(frozen=True)
class Exemplars:
    """Standardised teacher features of good parts, scales 1..K, where they count, and whose items are whose.

    ``features``: (images, channels, height, width) a scale; ``valid``: (images, height, width) a scale, 1 or 0.
    """

    features: tuple[Rows, ...]
    valid: tuple[Tensor, ...]
    origins: Origins

    @property
    def num_images(self) -> int:
        """How many good parts there are."""
        return self.features[0].shape[0]

    def of(self, images: Tensor, device: torch.device) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Features and valid positions of these images, and the items that are hidden from each, on a device."""
        return (
            tuple(scale[images].to(device) for scale in self.features),
            tuple(scale[images].to(device) for scale in self.valid),
            self.origins.hidden_from(images).to(device),
        )


class Teaching:
    """Normality embedding: keys, values and query learn to recall each exemplar from other parts (``L_NM``).

    Keys are held apart by ``L_orth``. A course: ``step`` after ``step``, its ``state`` can be kept and taken up again.
    """

    def __init__(
        self, student: Student, exemplars: Exemplars, *, settings: MemorySettings, generator: torch.Generator
    ) -> None:
        self.student = student
        self.exemplars = exemplars
        self.settings = settings
        self.generator = generator
        self.num_steps = settings.num_steps
        self.num_done = 0
        student.recall.values.requires_grad_(settings.learn_values)
        groups = [
            {"params": list(student.fusion.parameters()), "lr": settings.query_learning_rate},
            {"params": list(student.recall.parameters()), "lr": settings.learning_rate, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups)

    @property
    def is_over(self) -> bool:
        """Whether every step is done."""
        return self.num_done >= self.num_steps

    def step(self) -> dict[str, float]:
        """One batch; its losses by name."""
        settings, memory = self.settings, self.student.recall
        images = torch.randint(self.exemplars.num_images, (settings.batch_size,), generator=self.generator)
        features, valid, hidden = self.exemplars.of(images, memory.keys.device)
        recalled = memory(self.student.fusion(*features), hidden_items=hidden).features
        regularisation = self.student.spec.regularisation
        normality = normality_loss(recalled, features[0], valid[0], regularisation=regularisation)
        some_keys = torch.randperm(memory.num_items, generator=self.generator)[: settings.num_orthogonal_keys]
        apart = orthogonality_loss(memory.keys[some_keys.to(memory.keys.device)])
        loss = settings.normality_weight * normality + settings.orthogonality_weight * apart
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimiser.step()
        self.num_done += 1
        return {"loss": loss.item(), "normality": normality.item(), "orthogonality": apart.item()}

    def state(self) -> dict[str, Any]:
        """Where the course stands, beside the student and the generator."""
        return {"num_done": self.num_done, "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.num_done = state["num_done"]
        self.optimiser.load_state_dict(state["optimiser"])


def teach_memory(
    student: Student,
    exemplars: Exemplars,
    *,
    settings: MemorySettings,
    generator: torch.Generator,
    on_step: Callable[[int, float], None],
) -> None:
    """The whole course at once. ``on_step`` gets the number of steps done and the loss."""
    course = Teaching(student, exemplars, settings=settings, generator=generator)
    while not course.is_over:
        losses = course.step()
        on_step(course.num_done, losses["loss"])


@torch.no_grad()
def tell_usual_distances(student: Rememberer, exemplars: Exemplars) -> None:
    """Write beside each item how far exemplars that read it are from what they recall, on the average.

    An exemplar reads no items of its own, as a new part can't.
    """
    memory = student.recall
    readings, sums = torch.zeros_like(memory.usual_distances), torch.zeros_like(memory.usual_distances)
    for first in range(0, exemplars.num_images, BATCH_SIZE):
        images = torch.arange(first, min(first + BATCH_SIZE, exemplars.num_images))
        features, valid, hidden = exemplars.of(images, memory.keys.device)
        query = student.fusion(*features)
        items, weights = memory.read(query, hidden_items=hidden)
        recalled = memory(query, hidden_items=hidden).features
        off = distance(features[0], recalled, regularisation=memory.regularisation).flatten(1)
        counted = weights * valid[0].flatten(1)[..., None]
        readings.index_add_(0, items.flatten(), counted.flatten())
        sums.index_add_(0, items.flatten(), (counted * off[..., None]).flatten())
    overall = sums.sum() / readings.sum().clamp_min(1e-12)
    usual = (sums + PRIOR_READINGS * overall) / (readings + PRIOR_READINGS)
    memory.usual_distances.copy_(usual.clamp_min(SMALLEST_USUAL))


def recalled_by(student: Student, exemplars: Exemplars) -> Recalled:
    """What every exemplar recalls from the items of other parts, on the CPU."""
    pieces = []
    for first in range(0, exemplars.num_images, BATCH_SIZE):
        images = torch.arange(first, min(first + BATCH_SIZE, exemplars.num_images))
        pieces.append(Recalled(*(one.cpu() for one in recalled_now(student, exemplars, images))))
    return Recalled(*(torch.cat(one) for one in zip(*pieces, strict=True)))


@torch.no_grad()
def recalled_now(student: Student, exemplars: Exemplars, images: Tensor) -> Recalled:
    """What these exemplars recall from the items of other parts."""
    features, _, hidden = exemplars.of(images, student.recall.keys.device)
    recalled: Recalled = student.recall(student.fusion(*features), hidden_items=hidden)
    return recalled


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
