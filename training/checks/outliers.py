"""Which of the good parts are probably none: those that the memory of all others does not explain.

A defect that came twice explains itself, so the oddest parts are kept out of the memory and all are judged anew, twice.
On ``magnetic_tile`` with 5 % defects mixed in, four in five are found so, and one good part in ten is suspected
(`docs/log.md`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.measure import distance
from model.recall import RecallMemory
from training.fit.feature_store import Rows
from training.fit.memory import BATCH_SIZE, Exemplars, Origins, fill_memory, tell_usual_distances
from training.settings import TrainSettings

# How often the oddest are kept out, and the share that stays in.
NUM_TRIMS, KEPT_SHARE = 2, 0.85
# A part is suspected from so many robust spreads above the median of the logarithms on.
LIMIT_SPREADS = 1.5
# The share of a part's positions, the oddest ones, whose mean says how odd it is; a score looks at fewer (top_share).
ODDEST_SHARE = 0.08
# Of a normal distribution, the spread is so many median absolute deviations.
SPREAD_OF_DEVIATION = 1.4826


@dataclass(frozen=True)
class Suspicion:
    """How odd each part is, in robust spreads above the median (parts); ``limit``: from where on it is suspected."""

    oddness: NDArray[np.float64]
    limit: float = LIMIT_SPREADS

    @property
    def suspects(self) -> list[int]:
        """The parts that somebody should look at, the oddest first."""
        order = np.argsort(-self.oddness, kind="stable")
        return [int(part) for part in order if self.oddness[part] > self.limit]


@dataclass(frozen=True)
class Plain:
    """A recall memory that is asked the features themselves."""

    recall: RecallMemory

    def fusion(self, *features: Tensor) -> Tensor:
        """The query."""
        return features[0]


@dataclass(frozen=True)
class Some:
    """Some of the rows, in their order."""

    rows: Rows
    images: Tensor

    @property
    def shape(self) -> torch.Size:
        """As of rows."""
        return torch.Size((len(self.images), *self.rows.shape[1:]))

    def __getitem__(self, images: Tensor) -> Tensor:
        """The rows of these among them."""
        return self.rows[self.images[images]]


def suspicion(standard: Rows, valid: Tensor, settings: TrainSettings, *, on_images: Callable[[int], None]) -> Suspicion:
    """How odd each part is beside the others; features of the first scale in standard space, (parts, h, w) valid."""
    trusted = torch.arange(standard.shape[0])
    for trim in range(NUM_TRIMS + 1):
        scores = scored(standard, valid, trusted, settings, on_images=on_images)
        if trim < NUM_TRIMS:
            num_kept = max(1, int(KEPT_SHARE * len(scores)))
            trusted = torch.from_numpy(np.sort(np.argsort(scores, kind="stable")[:num_kept]))
    logs = np.log(np.maximum(scores, 1e-12))
    middle = np.median(logs)
    spread = SPREAD_OF_DEVIATION * np.median(np.abs(logs - middle))
    return Suspicion((logs - middle) / max(float(spread), 1e-12))


@torch.no_grad()
def scored(
    standard: Rows, valid: Tensor, trusted: Tensor, settings: TrainSettings, *, on_images: Callable[[int], None]
) -> NDArray[np.float64]:
    """Every part's score against a memory of the trusted ones, never of itself (parts)."""
    memory = plain_memory(settings, num_channels=standard.shape[1])
    generator = torch.Generator().manual_seed(settings.seed)
    known, inside = Some(standard, trusted), valid[trusted]
    origins = fill_memory(memory, known, inside, num_candidates=settings.num_candidates, generator=generator)
    tell_usual_distances(memory, Exemplars((known,), (inside,), origins))
    own = Origins(trusted[origins.images], origins.positions)
    num_counted = max(1, round(ODDEST_SHARE * standard.shape[-2] * standard.shape[-1]))
    scores = []
    for first in range(0, standard.shape[0], BATCH_SIZE):
        images = torch.arange(first, min(first + BATCH_SIZE, standard.shape[0]))
        features = standard[images]
        recalled = memory.recall(features, hidden_items=own.hidden_from(images))
        off = distance(features, recalled.features, regularisation=settings.regularisation) / recalled.usual_distance
        highest = (off * valid[images]).flatten(1).topk(num_counted, dim=1).values
        scores.append(highest.mean(1))
        on_images(len(images))
    return torch.cat(scores).double().numpy()


def plain_memory(settings: TrainSettings, *, num_channels: int) -> Plain:
    """A memory by the settings, yet to be filled."""
    return Plain(
        RecallMemory(
            num_items=settings.num_recall_items,
            num_channels=num_channels,
            num_read=settings.num_read_items,
            temperature=settings.temperature,
            regularisation=settings.regularisation,
        )
    )
