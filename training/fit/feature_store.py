"""Features of many images, one row an image: in memory if they fit, else in a file.

Twenty thousand images have 13 GiB of features. Beyond the limit they are stored as float16, half as large, and read a
few rows at a time; the last digits then differ from those in memory, so a training repeats bit for bit with the same
limit only.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from model.standardise import Standardiser
from training.errors import TrainingError

GIB = 2**30


class FeatureRows(Protocol):
    """The interface of features; a tensor has it too. ``shape``: (images, ...)."""

    @property
    def shape(self) -> torch.Size:
        """The number of images, and the shape of one."""

    def __getitem__(self, images: Tensor, /) -> Tensor:
        """Return the rows of these images, float32."""


@dataclass(frozen=True)
class MemoryLimit:
    """Rows are in memory up to ``memory_bytes`` in total, else in files under ``folder``."""

    memory_bytes: float
    folder: Path


class Float16File:
    """Rows on disk as float16."""

    def __init__(self, path: Path, shape: Sequence[int]) -> None:
        self.shape = torch.Size(shape)
        self.row_bytes = 2 * prod(self.shape[1:])
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def __setitem__(self, place: slice, rows: Tensor) -> None:
        """Write rows at a slice's start. Raises OSError."""
        with self.path.open("r+b") as file:
            file.seek(place.start * self.row_bytes)
            file.write(np.ascontiguousarray(rows.half().numpy()).data)

    def __getitem__(self, images: Tensor) -> Tensor:
        """Return these rows, float32. Read, not mapped: mapped pages would count as this process's memory."""
        rows = np.empty((len(images), *self.shape[1:]), np.float16)
        with self.path.open("rb", buffering=0) as file:
            for row, image in zip(rows, images.tolist(), strict=True):
                file.seek(image * self.row_bytes)
                file.readinto(row.data)
        return torch.from_numpy(rows).float()


@dataclass(frozen=True)
class StandardisedRows:
    """Rows in standard space, computed on access."""

    rows: FeatureRows
    standardiser: Standardiser

    @property
    def shape(self) -> torch.Size:
        """The shape of the rows."""
        return self.rows.shape

    @torch.no_grad()
    def __getitem__(self, images: Tensor) -> Tensor:
        """Return these images' rows."""
        device = self.standardiser.mean.device
        standard: Tensor = self.standardiser(self.rows[images].to(device))
        return standard


def allocate_rows(num_images: int, likes: Sequence[Tensor], *, limit: MemoryLimit) -> tuple[Tensor | Float16File, ...]:
    """Allocate rows like each of ``likes`` (batch, ...), all in memory or all on disk. Raises TrainingError."""
    shapes = [(num_images, *like.shape[1:]) for like in likes]
    if sum(map(prod, shapes)) * 4 <= limit.memory_bytes:
        return tuple(torch.empty(shape) for shape in shapes)
    limit.folder.mkdir(parents=True, exist_ok=True)
    needed, free = 2 * sum(map(prod, shapes)), shutil.disk_usage(limit.folder).free
    if needed > free:
        raise TrainingError(
            f"the features take {needed / 2**30:.1f} GiB, and {limit.folder} has {free / 2**30:.1f} GiB left; "
            "make room, or raise feature_memory_gib where there is more memory",
            kind="disk-too-small",
        )
    return tuple(Float16File(limit.folder / f"scale-{k + 1}.float16", shape) for k, shape in enumerate(shapes))
