"""Teacher features of many images, computed once."""

from collections.abc import Callable, Sequence
from itertools import islice

import torch
from torch import Tensor

from model.fusion import resize
from model.teacher import Teacher
from training.data.images import ImageFile
from training.data.reader import ImageReader
from training.fit.feature_store import FeatureRows, MemoryLimit, allocate_rows

# On a CPU larger batches fall out of the caches: measured, an image in a batch of 16 takes thrice as long as alone.
BATCH_SIZES = {"cpu": 1, "cuda": 32}


@torch.no_grad()
def extract_features(
    teacher: Teacher,
    images: Sequence[ImageFile],
    *,
    reader: ImageReader,
    limit: MemoryLimit,
    on_images: Callable[[int], None],
) -> tuple[FeatureRows, ...]:
    """Return features of scales 1..K, (images, channels, height, width), on the CPU. Raises TrainingError."""
    device = teacher.mean.device
    decoded = reader.decode_all(images)
    rows = None
    done = 0
    while batch := list(islice(decoded, BATCH_SIZES[device.type])):
        scales = [scale.cpu() for scale in teacher(reader.to_pixels(batch).to(device))]
        rows = rows or allocate_rows(len(images), scales, limit=limit)
        for own, scale in zip(rows, scales, strict=True):
            own[done : done + len(batch)] = scale
        done += len(batch)
        on_images(len(batch))
    return rows or ()


def resize_valid(valid: Tensor, features: tuple[FeatureRows, ...]) -> tuple[Tensor, ...]:
    """Resize valid map positions (images, h, w) to each scale: valid where at least half of a position is."""
    # Where one image speaks for all, its row is repeated without being copied, and stays so.
    first = valid[:1] if valid.stride(0) == 0 else valid
    return tuple(
        (resize(first[:, None], (scale.shape[-2], scale.shape[-1]))[:, 0] >= 0.5)
        .float()
        .expand(len(valid), *scale.shape[-2:])
        for scale in features
    )
