"""Teacher features of many images, computed once."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app.engine.decode import Image
from app.engine.detector import valid_positions
from app.engine.interest import RegionOfInterest
from model.bundle import InputRecord
from model.fusion import resized
from model.teacher import Teacher
from training.data import decoded

# On a CPU larger batches fall out of the caches: measured, an image in a batch of 16 takes thrice as long as alone.
BATCH_SIZES = {"cpu": 1, "cuda": 32}


def pixels_of(images: Sequence[Image]) -> Tensor:
    """Decoded images as uint8 (batch, height, width, 3)."""
    return torch.from_numpy(np.stack([image.pixels for image in images]))


@torch.no_grad()
def teacher_features(
    teacher: Teacher,
    paths: Sequence[Path],
    *,
    rule: InputRecord,
    max_pixels: int,
    on_images: Callable[[int], None],
) -> tuple[Tensor, ...]:
    """Features of scales 1..K, each (images, channels, height, width), on the CPU. Raises BadImage."""
    device = teacher.mean.device
    batches: list[tuple[Tensor, ...]] = []
    batch_size = BATCH_SIZES[device.type]
    for first in range(0, len(paths), batch_size):
        some = paths[first : first + batch_size]
        images = [decoded(path, rule, max_pixels=max_pixels) for path in some]
        batches.append(tuple(scale.cpu() for scale in teacher(pixels_of(images).to(device))))
        on_images(len(some))
    return tuple(torch.cat(scale) for scale in zip(*batches, strict=True))


def valid_of(
    paths: Sequence[Path],
    *,
    rule: InputRecord,
    max_pixels: int,
    map_size: tuple[int, int],
    interest: RegionOfInterest | None,
) -> Tensor:
    """Which map positions show the part, 1 or 0, (images, h, w). Raises BadImage."""
    # Stretched images all lie alike, so that one speaks for all.
    looked_at = paths[:1] if rule.fit == "stretch" else paths
    masks = [
        torch.from_numpy(valid_positions(decoded(path, rule, max_pixels=max_pixels), map_size, interest))
        for path in looked_at
    ]
    return torch.stack(masks).expand(len(paths), *map_size)


def valid_at_scales(valid: Tensor, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Valid map positions (images, h, w) at each scale's own size: where at least half of a position is valid."""
    return tuple(
        (resized(valid[:, None], (scale.shape[-2], scale.shape[-1]))[:, 0] >= 0.5).float() for scale in features
    )
