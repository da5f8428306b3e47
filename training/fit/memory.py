"""The recall memory: filling it, training it, and fitting its expected distances (claim 9's update)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.losses import normality_loss, orthogonality_loss
from model.recall import Recalled, RecallMemory
from model.similarity import direction, distance
from model.student import Student
from training.fit.feature_store import FeatureRows
from training.settings import MemorySettings

# Images at once where nothing is learned; more fall out of a CPU's caches.
BATCH_SIZE = 8
# An item that few positions read has no figure of its own: this many readings count as the mean of all items.
PRIOR_READINGS = 5.0
MIN_EXPECTED_DISTANCE = 1e-4
# A position whose nearest key has at least this cosine is explained already. Measured: at 0.95 and 0.97 fewer items are
# added and fewer defects found afterwards (docs/log.md).
EXPLAINED_COSINE = 0.99


class MemoryOwner(Protocol):
    """What queries a recall memory: a student, or a memory that is queried by the features themselves."""

    @property
    def recall(self) -> RecallMemory:
        """The memory."""

    @property
    def fusion(self) -> Callable[..., Tensor]:
        """Standardised features of all scales to a query."""


@dataclass(frozen=True)
class ItemOrigins:
    """The training image, and its position in row-major order, that each item was taken from.

    They hide an image's own items from it while training, and give explanations their pictures.
    """

    images: Int[Tensor, " items"]
    positions: Int[Tensor, " items"]

    def find_own_items(self, images: Int[Tensor, " batch"]) -> Bool[Tensor, "batch items"]:
        """Return True where an item came from that image; all False for an image that all items came from."""
        own = images[:, None] == self.images[None, :]
        return own & ~own.all(1, keepdim=True)


def k_center_greedy(
    points: Float[Tensor, "points channels"], num_chosen: int, *, generator: torch.Generator
) -> Int[Tensor, " chosen"]:
    """Return indices of unit vectors, each the one farthest from those chosen before it; the first is random.

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
    student: MemoryOwner,
    standard: FeatureRows,
    valid: Float[Tensor, "images height width"],
    *,
    num_candidates: int,
    generator: torch.Generator,
) -> ItemOrigins:
    """Fill the student's memory with a coreset of the first scale's valid, standardised features.

    Keys are queries of the same exemplars; before training the query is that feature itself (``QueryFusion``). Where
    there are fewer positions than items, the memory holds fewer: duplicates would be read by rounding alone.
    """
    inside = valid.flatten().nonzero()[:, 0]
    candidates = inside[torch.randperm(len(inside), generator=generator)[:num_candidates]]
    features = gather_features(standard, candidates)
    unit = direction(features, regularisation=student.recall.regularisation)
    chosen = k_center_greedy(unit, student.recall.num_items, generator=generator)
    student.recall.write(keys=features[chosen], values=features[chosen])
    positions_per_image = standard.shape[-2] * standard.shape[-1]
    return ItemOrigins(candidates[chosen] // positions_per_image, candidates[chosen] % positions_per_image)


def gather_features(rows: FeatureRows, positions: Int[Tensor, " positions"]) -> Float[Tensor, "positions channels"]:
    """Return the features at these positions, counted over images and row-major positions, a few images at a time."""
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
class FeatureDataset:
    """Standardised teacher features of good parts, scales 1..K, their valid positions, and the items' origins.

    ``features``: (images, channels, height, width) a scale; ``valid``: (images, height, width) a scale, 1 or 0.
    """

    features: tuple[FeatureRows, ...]
    valid: tuple[Tensor, ...]
    origins: ItemOrigins

    @property
    def num_images(self) -> int:
        """The number of good parts."""
        return self.features[0].shape[0]

    def select(self, images: Tensor, device: torch.device) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Return features, valid positions and hidden items of these images, on a device."""
        return (
            tuple(scale[images].to(device) for scale in self.features),
            tuple(scale[images].to(device) for scale in self.valid),
            self.origins.find_own_items(images).to(device),
        )


class MemoryTraining:
    """Normality embedding: keys, values and query learn to recall each exemplar from other parts (``L_NM``).

    Keys are kept apart by ``L_orth``. A training phase: call ``step`` until ``is_over``; ``state`` can be saved and
    restored.
    """

    def __init__(
        self, student: Student, dataset: FeatureDataset, *, settings: MemorySettings, generator: torch.Generator
    ) -> None:
        self.student = student
        self.dataset = dataset
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
        """Whether all steps are done."""
        return self.num_done >= self.num_steps

    def step(self) -> dict[str, float]:
        """Train on one batch; return its losses by name."""
        settings, memory = self.settings, self.student.recall
        images = torch.randint(self.dataset.num_images, (settings.batch_size,), generator=self.generator)
        features, valid, hidden = self.dataset.select(images, memory.keys.device)
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
        """Return the state of the phase, without the student and the generator."""
        return {"num_done": self.num_done, "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self.num_done = state["num_done"]
        self.optimiser.load_state_dict(state["optimiser"])


def train_memory(
    student: Student,
    dataset: FeatureDataset,
    *,
    settings: MemorySettings,
    generator: torch.Generator,
    on_step: Callable[[int, float], None],
) -> None:
    """Run the whole phase. ``on_step`` gets the number of finished steps and the loss."""
    phase = MemoryTraining(student, dataset, settings=settings, generator=generator)
    while not phase.is_over:
        losses = phase.step()
        on_step(phase.num_done, losses["loss"])


@torch.no_grad()
def fit_expected_distances(student: MemoryOwner, dataset: FeatureDataset) -> None:
    """Set each item's expected distance: the mean distance of the exemplars that read it.

    An exemplar reads none of its own items, as a new part can't.
    """
    memory = student.recall
    readings, sums = torch.zeros_like(memory.usual_distances), torch.zeros_like(memory.usual_distances)
    for first in range(0, dataset.num_images, BATCH_SIZE):
        images = torch.arange(first, min(first + BATCH_SIZE, dataset.num_images))
        features, valid, hidden = dataset.select(images, memory.keys.device)
        query = student.fusion(*features)
        items, weights = memory.read(query, hidden_items=hidden)
        recalled = memory(query, hidden_items=hidden).features
        off = distance(features[0], recalled, regularisation=memory.regularisation).flatten(1)
        counted = weights * valid[0].flatten(1)[..., None]
        readings.index_add_(0, items.flatten(), counted.flatten())
        sums.index_add_(0, items.flatten(), (counted * off[..., None]).flatten())
    overall = sums.sum() / readings.sum().clamp_min(1e-12)
    usual = (sums + PRIOR_READINGS * overall) / (readings + PRIOR_READINGS)
    memory.usual_distances.copy_(usual.clamp_min(MIN_EXPECTED_DISTANCE))


def recall_all(student: Student, dataset: FeatureDataset) -> Recalled:
    """Return what every exemplar recalls from the items of other parts, on the CPU."""
    pieces = []
    for first in range(0, dataset.num_images, BATCH_SIZE):
        images = torch.arange(first, min(first + BATCH_SIZE, dataset.num_images))
        pieces.append(Recalled(*(one.cpu() for one in recall_batch(student, dataset, images))))
    return Recalled(*(torch.cat(one) for one in zip(*pieces, strict=True)))


@torch.no_grad()
def recall_batch(student: Student, dataset: FeatureDataset, images: Tensor) -> Recalled:
    """Return what these exemplars recall from the items of other parts."""
    features, _, hidden = dataset.select(images, student.recall.keys.device)
    recalled: Recalled = student.recall(student.fusion(*features), hidden_items=hidden)
    return recalled


@dataclass(frozen=True)
class AddedItems:
    """The image and position that each new item was taken from."""

    images: Int[Tensor, " items"]
    positions: Int[Tensor, " items"]


@torch.no_grad()
def extend_memory(
    student: Student,
    features: tuple[Float[Tensor, "images _ _ _"], ...],
    valid: Float[Tensor, "images height width"],
    *,
    max_items: int,
) -> AddedItems:
    """Add features that the memory does not explain, at most ``max_items``.

    ``features``: of scales 1..K in standard space.

    Items are chosen farthest first from the existing keys (Gonzalez, 1985). Each gets the expected distance with which
    the other images read it.
    """
    memory, regularisation = student.recall, student.spec.regularisation
    query = student.fusion(*features)
    asked = direction(query.flatten(2).mT.flatten(0, 1), regularisation=regularisation)  # (positions, channels)
    known = direction(memory.keys, regularisation=regularisation)
    inside = valid.flatten() > 0
    chosen = choose_farthest(asked, known, inside, max_items=max_items)
    keys = query.movedim(1, -1).flatten(0, 2)[chosen]
    values = features[0].movedim(1, -1).flatten(0, 2)[chosen]
    positions_per_image = features[0].shape[-2] * features[0].shape[-1]
    added = AddedItems(chosen // positions_per_image, chosen % positions_per_image)
    usual = memory.usual_distances
    memory.write(keys=torch.cat([memory.keys, keys]), values=torch.cat([memory.values, values]))
    memory.usual_distances = torch.cat([usual, usual.mean().expand(len(chosen))])
    fit_added_distances(memory, query, features[0], valid, added)
    return added


def choose_farthest(
    points: Float[Tensor, "points channels"],
    known: Float[Tensor, "known channels"],
    inside: Bool[Tensor, " points"],
    *,
    max_items: int,
) -> Int[Tensor, " chosen"]:
    """Return indices of unit vectors, each the one farthest from the known and the chosen ones.

    None that is explained.
    """
    nearest = torch.cat([(piece @ known.mT).amax(1) for piece in torch.split(points, 1024)])
    nearest[~inside] = 1.0
    chosen: list[int] = []
    while len(chosen) < max_items:
        index = int(nearest.argmin())
        if nearest[index] >= EXPLAINED_COSINE:
            break
        chosen.append(index)
        torch.maximum(nearest, points @ points[index], out=nearest)
        nearest[index] = 1.0
    return torch.tensor(chosen, dtype=torch.long)


def fit_added_distances(
    memory: RecallMemory, query: Tensor, features: Tensor, valid: Tensor, added: AddedItems
) -> None:
    """Set the expected distances of the added items, from the images that they were not taken from."""
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
    memory.usual_distances[num_before:] = usual[num_before:].clamp_min(MIN_EXPECTED_DISTANCE)
