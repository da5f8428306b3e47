"""Outliers among good parts: those that the memory of all others does not explain.

A defect that occurs twice explains itself, so the oddest parts are left out of the memory and all are scored again,
twice. On ``magnetic_tile`` with 5 % defects mixed in, four in five are found so, and one good part in ten is suspected
(`docs/history/log-2026-11-25.md`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.fusion import QueryFusion
from model.recall import RecallMemory
from model.similarity import cosine_distance
from training.fit.feature_store import FeatureRows
from training.fit.memory import BATCH_SIZE, FeatureDataset, ItemOrigins, fill_memory, fit_expected_distances
from training.settings import TrainSettings

# How often the oddest are kept out, and the share that stays in.
NUM_TRIMS, KEPT_SHARE = 2, 0.85
# A part is suspected from so many robust spreads above the median of the logarithms on.
LIMIT_SPREADS = 1.5
# The share of a part's positions, the oddest ones, whose mean is its outlier score; the score uses fewer (top_share).
ODDEST_SHARE = 0.08
# The measure with which four in five defects were found; the judgement has its own setting.
REGULARISATION = 1.0
# Of a normal distribution, the spread is so many median absolute deviations.
SPREAD_OF_DEVIATION = 1.4826


@dataclass(frozen=True)
class OutlierScores:
    """How odd each part is, in robust spreads above the median (parts); above ``limit`` it is suspected."""

    oddness: NDArray[np.float64]
    limit: float = LIMIT_SPREADS

    @property
    def suspects(self) -> list[int]:
        """The suspected parts, the oddest first."""
        order = np.argsort(-self.oddness, kind="stable")
        return [int(part) for part in order if self.oddness[part] > self.limit]


@dataclass(frozen=True)
class FirstScaleMemory:
    """A recall memory of the first scale alone, without a student."""

    fusion: QueryFusion
    recall: RecallMemory

    @staticmethod
    def view(standard: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return what the memory sees: the features themselves."""
        return standard

    def make_query(self, standard: tuple[Tensor, ...]) -> Tensor:
        """Return the query."""
        query: Tensor = self.fusion(*standard)
        return query

    def make_values(self, standard: tuple[Tensor, ...]) -> Tensor:
        """Return what the memory stores."""
        return standard[0]


@dataclass(frozen=True)
class RowSubset:
    """Some of the rows, in their order."""

    rows: FeatureRows
    images: Tensor

    @property
    def shape(self) -> torch.Size:
        """The number of images, and the shape of one."""
        return torch.Size((len(self.images), *self.rows.shape[1:]))

    def __getitem__(self, images: Tensor) -> Tensor:
        """Return rows by their index in the subset."""
        return self.rows[self.images[images]]


def score_outliers(
    standard: FeatureRows, valid: Tensor, settings: TrainSettings, *, on_images: Callable[[int], None]
) -> OutlierScores:
    """Return how odd each part is; features of the first scale in standard space, ``valid`` (parts, h, w)."""
    trusted = torch.arange(standard.shape[0])
    for trim in range(NUM_TRIMS + 1):
        scores = score_parts(standard, valid, trusted, settings, on_images=on_images)
        if trim < NUM_TRIMS:
            num_kept = max(1, int(KEPT_SHARE * len(scores)))
            trusted = torch.from_numpy(np.sort(np.argsort(scores, kind="stable")[:num_kept]))
    logs = np.log(np.maximum(scores, 1e-12))
    middle = np.median(logs)
    spread = SPREAD_OF_DEVIATION * np.median(np.abs(logs - middle))
    return OutlierScores((logs - middle) / max(float(spread), 1e-12))


@torch.no_grad()
def score_parts(
    standard: FeatureRows, valid: Tensor, trusted: Tensor, settings: TrainSettings, *, on_images: Callable[[int], None]
) -> NDArray[np.float64]:
    """Score every part against a memory of the trusted ones, without its own items (parts)."""
    memory = make_memory(settings, num_channels=standard.shape[1])
    generator = torch.Generator().manual_seed(settings.seed)
    known, inside = RowSubset(standard, trusted), valid[trusted]
    origins = fill_memory(memory, (known,), inside, num_candidates=settings.num_candidates, generator=generator)
    fit_expected_distances(memory, FeatureDataset((known,), (inside,), origins))
    own = ItemOrigins(trusted[origins.images], origins.positions)
    num_counted = max(1, round(ODDEST_SHARE * standard.shape[-2] * standard.shape[-1]))
    scores = []
    for first in range(0, standard.shape[0], BATCH_SIZE):
        images = torch.arange(first, min(first + BATCH_SIZE, standard.shape[0]))
        features = standard[images]
        recalled = memory.recall(memory.make_query((features,)), hidden_items=own.find_own_items(images))
        off = cosine_distance(features, recalled.features[0], regularisation=REGULARISATION)
        off = off / recalled.expected_distances[0]
        highest = (off * valid[images]).flatten(1).topk(num_counted, dim=1).values
        scores.append(highest.mean(1))
        on_images(len(images))
    return torch.cat(scores).double().numpy()


def make_memory(settings: TrainSettings, *, num_channels: int) -> FirstScaleMemory:
    """Return a memory by the settings, not yet filled."""
    return FirstScaleMemory(
        QueryFusion((num_channels,), query_channels=num_channels),
        RecallMemory(
            num_items=settings.num_recall_items,
            query_channels=num_channels,
            value_channels=(num_channels,),
            num_read=settings.num_read_items,
            temperature=settings.temperature,
            regularisation=REGULARISATION,
        ),
    )
