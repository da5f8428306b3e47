"""The recall memory: filling it, training it, and fitting its expected distances (claim 9's update)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.fusion import QueryFusion
from model.losses import normality_loss, orthogonality_loss
from model.recall import Recalled, RecallMemory
from model.similarity import cosine_distance, to_direction
from model.student import Student
from training.fit.feature_store import FeatureRows
from training.settings import MemorySettings

# Images at once where nothing is trained; more fall out of a CPU's caches.
BATCH_SIZE = 8
# An item that few positions read has no mean of its own: the mean of all items counts as this many readings.
PRIOR_READINGS = 5.0
MIN_EXPECTED_DISTANCE = 1e-4
# An item is not added where the nearest key has at least this cosine. At 0.95 and 0.97 fewer items are added and fewer
# defects are found afterwards (docs/history/log-2026-11-25.md).
EXPLAINED_COSINE = 0.99
# The owner of items that come from none of the images.
NO_IMAGE = -1


class MemoryOwner(Protocol):
    """What owns a recall memory: a student, or a memory without one."""

    @property
    def fusion(self) -> QueryFusion:
        """Makes the query."""

    @property
    def recall(self) -> RecallMemory:
        """The memory."""

    @property
    def view(self) -> Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]:
        """Makes of standardised features what the memory sees."""

    def make_query(self, standard: tuple[Tensor, ...], /) -> Tensor:
        """Return the query of standardised features."""

    def make_values(self, standard: tuple[Tensor, ...], /) -> Tensor:
        """Return what the memory stores of standardised features."""


@dataclass(frozen=True)
class ItemOrigins:
    """The training image that each item was taken from, and the position in it, row by row.

    An image does not recall its own items while training: it would find itself there and learn to copy (decision 002).
    """

    images: Int[Tensor, " items"]
    positions: Int[Tensor, " items"]

    def find_own_items(self, images: Int[Tensor, " batch"]) -> Bool[Tensor, "batch items"]:
        """Return True where an item came from that image; nowhere for an image that gave all items."""
        own = images[:, None] == self.images[None, :]
        return own & ~own.all(1, keepdim=True)


@dataclass(frozen=True)
class FeatureDataset:
    """Standardised teacher features of good parts, scales 1..K, their valid positions, and the items they gave.

    ``features``: (images, channels, height, width) a scale; ``valid``: (images, height, width) a scale, 1 or 0.
    """

    features: tuple[FeatureRows, ...]
    valid: tuple[Tensor, ...]
    origins: ItemOrigins

    @property
    def num_images(self) -> int:
        """The number of good parts."""
        return self.features[0].shape[0]

    def load(self, images: Tensor, device: torch.device) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Return features, valid positions and hidden items of these images on a device."""
        return (
            tuple(scale[images].to(device) for scale in self.features),
            tuple(scale[images].to(device) for scale in self.valid),
            self.origins.find_own_items(images).to(device),
        )


def k_center_greedy(
    points: Float[Tensor, "points channels"], num_chosen: int, *, generator: torch.Generator
) -> Int[Tensor, " chosen"]:
    """Return indices of unit vectors, each the farthest from those chosen before; the first is random.

    The greedy k-center algorithm of Gonzalez (1985). All points are chosen where there are no more than ``num_chosen``.
    """
    if len(points) <= num_chosen:
        return torch.arange(len(points))
    first = torch.randint(len(points), (1,), generator=generator)
    return torch.cat([first, choose_farthest(points, points @ points[first[0]], max_chosen=num_chosen - 1)])


def choose_farthest(
    points: Float[Tensor, "points channels"],
    nearest: Float[Tensor, " points"],
    *,
    max_chosen: int,
    explained_cosine: float = math.inf,
) -> Int[Tensor, " chosen"]:
    """Return indices of unit vectors, each the farthest from those before it, until all points are explained.

    ``nearest``: each point's largest cosine with what was chosen before; it is updated in place.
    """
    chosen: list[int] = []
    while len(chosen) < max_chosen:
        index = int(nearest.argmin())
        if nearest[index] >= explained_cosine:
            break
        chosen.append(index)
        torch.maximum(nearest, points @ points[index], out=nearest)
    return torch.tensor(chosen, dtype=torch.long)


@torch.no_grad()
def fill_memory(
    student: MemoryOwner,
    standard: tuple[FeatureRows, ...],
    valid: Float[Tensor, "images height width"],
    *,
    num_candidates: int,
    generator: torch.Generator,
) -> ItemOrigins:
    """Fit the query's projection, and fill the memory with a k-center coreset of good parts' positions.

    ``valid``: at the first scale. Where there are fewer positions than items, the memory holds fewer: duplicates would
    be read by rounding alone.
    """
    inside = valid.flatten().nonzero()[:, 0]
    candidates = inside[torch.randperm(len(inside), generator=generator)[:num_candidates]].sort().values
    fused, values = gather_positions(student, standard, candidates)
    student.fusion.fit(fused)
    queries = fused @ student.fusion.projection.weight[:, :, 0, 0].mT
    directions = to_direction(queries, regularisation=student.recall.regularisation)
    chosen = k_center_greedy(directions, student.recall.num_items, generator=generator)
    student.recall.write(keys=queries[chosen], values=values[chosen])
    positions_per_image = standard[0].shape[-2] * standard[0].shape[-1]
    return ItemOrigins(candidates[chosen] // positions_per_image, candidates[chosen] % positions_per_image)


def gather_positions(
    student: MemoryOwner, standard: tuple[FeatureRows, ...], positions: Int[Tensor, " positions"]
) -> tuple[Float[Tensor, "positions fused_channels"], Float[Tensor, "positions value_channels"]]:
    """Return concatenated features and memory values at these ascending positions of the first scale."""
    height, width = standard[0].shape[-2:]
    images, places = positions // (height * width), positions % (height * width)
    fused, values = [], []
    for first in range(0, standard[0].shape[0], BATCH_SIZE):
        batch = torch.arange(first, min(first + BATCH_SIZE, standard[0].shape[0]))
        inside = (images >= first) & (images < first + BATCH_SIZE)
        features = tuple(scale[batch] for scale in standard)
        at = (images[inside] - first, slice(None), places[inside])
        fused.append(student.fusion.concatenate(*student.view(features)).flatten(2)[at])
        values.append(student.make_values(features).flatten(2)[at])
    return torch.cat(fused), torch.cat(values)


class MemoryTraining:
    """Normality embedding: keys, values and query learn to recall each good part from other parts (``L_NM``).

    Keys are held apart by ``L_orth``. A training phase: ``step`` after ``step``; its ``state`` can be saved and
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
        """Whether every step is done."""
        return self.num_done >= self.num_steps

    def step(self) -> dict[str, float]:
        """Train on one batch; return its losses by name."""
        settings, student = self.settings, self.student
        memory = student.recall
        images = torch.randint(self.dataset.num_images, (settings.batch_size,), generator=self.generator)
        features, valid, hidden = self.dataset.load(images, memory.keys.device)
        recalled = memory(student.make_query(features), hidden_items=hidden).features
        expected = torch.split(student.make_values(features), list(memory.value_channels), dim=1)
        normality = torch.stack(
            [
                normality_loss(found, scale, valid[0], regularisation=memory.regularisation)
                for found, scale in zip(recalled, expected, strict=True)
            ]
        ).mean()
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
        """Continue from a state."""
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
    """Run the whole phase. ``on_step`` gets the number of steps done and the loss."""
    phase = MemoryTraining(student, dataset, settings=settings, generator=generator)
    while not phase.is_over:
        losses = phase.step()
        on_step(phase.num_done, losses["loss"])


@torch.no_grad()
def fit_expected_distances(student: MemoryOwner, dataset: FeatureDataset) -> None:
    """Set each item's expected distances: the mean over the good parts that read it, none of which gave it."""
    memory = student.recall
    sums = ExpectedDistances(memory)
    for images in torch.split(torch.arange(dataset.num_images), BATCH_SIZE):
        features, valid, hidden = dataset.load(images, memory.keys.device)
        recalled = memory(student.make_query(features), hidden_items=hidden)
        sums.add(recalled, student.make_values(features), valid[0])
    memory.expected_distances.copy_(sums.compute())


class ExpectedDistances:
    """Sums of distances by the items that were read, a column a recalled scale."""

    def __init__(self, memory: RecallMemory) -> None:
        self.memory = memory
        self.sums = torch.zeros_like(memory.expected_distances)
        self.readings = torch.zeros_like(memory.expected_distances[:, :1])

    def add(
        self,
        recalled: Recalled,
        values: Float[Tensor, "batch all_channels height width"],
        valid: Float[Tensor, "batch height width"],
    ) -> None:
        """Add the distances of images with these memory values of their own."""
        expected = torch.split(values, list(self.memory.value_channels), dim=1)
        distances = torch.stack(
            [
                cosine_distance(own, found, regularisation=self.memory.regularisation).flatten(1)
                for own, found in zip(expected, recalled.features, strict=True)
            ],
            dim=-1,
        )  # (batch, positions, scales)
        weights = recalled.weights * valid.flatten(1)[..., None]  # (batch, positions, read)
        items = recalled.items.flatten()
        self.readings.index_add_(0, items, weights.flatten()[:, None])
        self.sums.index_add_(0, items, (weights[..., None] * distances[:, :, None]).flatten(0, 2))

    def compute(self, prior: Tensor | None = None) -> Float[Tensor, "items scales"]:
        """Return the mean of each item; ``prior``: the mean of all items, by default the one found."""
        if prior is None:
            prior = self.sums.sum(0) / self.readings.sum().clamp_min(1e-12)
        means = (self.sums + PRIOR_READINGS * prior) / (self.readings + PRIOR_READINGS)
        return means.clamp_min(MIN_EXPECTED_DISTANCE)


def recall_all(student: Student, dataset: FeatureDataset) -> Recalled:
    """Return what every good part recalls from the items of other parts, on the CPU."""
    batches = [
        recall_batch(student, dataset, images) for images in torch.split(torch.arange(dataset.num_images), BATCH_SIZE)
    ]
    return Recalled(
        features=join_scales([batch.features for batch in batches]),
        expected_distances=join_scales([batch.expected_distances for batch in batches]),
        items=torch.cat([batch.items.cpu() for batch in batches]),
        weights=torch.cat([batch.weights.cpu() for batch in batches]),
    )


def join_scales(batches: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Concatenate batches scale by scale, on the CPU."""
    return tuple(torch.cat([one.cpu() for one in scale]) for scale in zip(*batches, strict=True))


@torch.no_grad()
def recall_batch(student: Student, dataset: FeatureDataset, images: Tensor) -> Recalled:
    """Return what these good parts recall from the items of other parts."""
    features, _, hidden = dataset.load(images, student.recall.keys.device)
    recalled: Recalled = student.recall(student.make_query(features), hidden_items=hidden)
    return recalled


@torch.no_grad()
def extend_memory(
    student: Student,
    features: tuple[Float[Tensor, "images _ _ _"], ...],
    valid: Float[Tensor, "images height width"],
    *,
    max_items: int,
) -> ItemOrigins:
    """Add items for what these good parts have and no key is similar to, at most ``max_items``; return their origins.

    ``features``: of scales 1..K in standard space. Each item is the position farthest from all keys so far (Gonzalez,
    1985). Its expected distances come from the images that did not give it.
    """
    memory = student.recall
    query, values = student.make_query(features), student.make_values(features)
    points = to_direction(query.flatten(2).mT.flatten(0, 1), regularisation=memory.regularisation)
    keys = to_direction(memory.keys, regularisation=memory.regularisation)
    chosen = select_unexplained(points, keys, valid.flatten() > 0, max_chosen=max_items)
    positions_per_image = query.shape[-2] * query.shape[-1]
    origins = ItemOrigins(chosen // positions_per_image, chosen % positions_per_image)
    num_before, prior = memory.num_items, memory.expected_distances.mean(0)
    memory.write(
        keys=torch.cat([memory.keys, query.movedim(1, -1).flatten(0, 2)[chosen]]),
        values=torch.cat([memory.values, values.movedim(1, -1).flatten(0, 2)[chosen]]),
        expected_distances=torch.cat([memory.expected_distances, prior.expand(len(chosen), -1)]),
    )
    owners = torch.cat([torch.full((num_before,), NO_IMAGE), origins.images])
    sums = ExpectedDistances(memory)
    for image in range(len(query)):
        one = slice(image, image + 1)
        sums.add(memory(query[one], hidden_items=(owners == image)[None]), values[one], valid[one])
    memory.expected_distances[num_before:] = sums.compute(prior)[num_before:]
    return origins


def select_unexplained(
    points: Float[Tensor, "points channels"],
    keys: Float[Tensor, "keys channels"],
    inside: Bool[Tensor, " points"],
    *,
    max_chosen: int,
) -> Int[Tensor, " chosen"]:
    """Return indices of unit vectors, each the farthest from all keys so far, until all points are explained."""
    nearest = torch.cat([(piece @ keys.mT).amax(1) for piece in torch.split(points, 1024)])
    nearest[~inside] = 1.0
    return choose_farthest(points, nearest, max_chosen=max_chosen, explained_cosine=EXPLAINED_COSINE)
