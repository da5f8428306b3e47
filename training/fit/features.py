"""Teacher features of many images, computed once."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from app.imaging.decode import Image
from app.imaging.roi import RegionOfInterest
from app.inference.detector import make_batch, valid_positions
from app.inference.sessions import available_cpus
from model.bundle import InputRecord
from model.fusion import resize
from model.teacher import Teacher
from training.data.dataset import decode_image
from training.fit.feature_store import FeatureRows, MemoryLimit, allocate_rows

# On a CPU larger batches fall out of the caches: measured, an image in a batch of 16 takes thrice as long as alone.
BATCH_SIZES = {"cpu": 1, "cuda": 32}
# Number of images that each worker decodes ahead.
AHEAD = 4
Item = TypeVar("Item")
Output = TypeVar("Output")


@dataclass(frozen=True)
class ImageReader:
    """Reads images with the service's decoder, the product's rule and the region of interest.

    ``num_workers``: threads that decode ahead; None: one a processor.
    """

    rule: InputRecord
    max_pixels: int
    map_size: tuple[int, int]
    roi: RegionOfInterest | None = None
    num_workers: int | None = None

    def decode(self, path: Path) -> Image:
        """Decode an image. Raises BadImage."""
        return decode_image(path, self.rule, max_pixels=self.max_pixels)

    def decode_all(self, paths: Sequence[Path]) -> Iterator[Image]:
        """Yield every image in order, decoded ahead by several threads. Raises BadImage."""
        return self.map(self.decode, paths)

    def map(self, make: Callable[[Path], Output], paths: Sequence[Path]) -> Iterator[Output]:
        """Yield ``make(path)`` for each path, in order, by several threads."""
        return map_ahead(make, paths, num_workers=self.num_workers or available_cpus())

    def to_pixels(self, images: Sequence[Image]) -> Tensor:
        """Return decoded images as the teacher sees them, uint8 (batch, height, width, 3)."""
        return torch.from_numpy(make_batch(images, map_size=self.map_size, roi=self.roi).pixels)

    def compute_valid(self, paths: Sequence[Path]) -> Tensor:
        """Return 1 at map positions that show the part, else 0, (images, h, w); the same for all stretched images."""
        looked_at = paths[:1] if self.rule.fit == "stretch" else paths
        masks = [
            torch.from_numpy(valid_positions(image, self.map_size, self.roi)) for image in self.decode_all(looked_at)
        ]
        return torch.stack(masks).expand(len(paths), *self.map_size)


def map_ahead(make: Callable[[Item], Output], items: Sequence[Item], *, num_workers: int) -> Iterator[Output]:
    """``map`` by several threads, in order, never far ahead of the consumer."""
    with ThreadPoolExecutor(num_workers, thread_name_prefix="decoding") as pool:
        waiting: deque[Future[Output]] = deque()
        coming = iter(items)
        try:
            waiting.extend(pool.submit(make, item) for item in islice(coming, AHEAD * num_workers))
            while waiting:
                made = waiting.popleft().result()
                waiting.extend(pool.submit(make, item) for item in islice(coming, 1))
                yield made
        finally:
            for future in waiting:
                future.cancel()


@torch.no_grad()
def extract_features(
    teacher: Teacher,
    paths: Sequence[Path],
    *,
    reader: ImageReader,
    limit: MemoryLimit,
    on_images: Callable[[int], None],
) -> tuple[FeatureRows, ...]:
    """Return features of scales 1..K, (images, channels, height, width), on the CPU. Raises TrainingError."""
    device = teacher.mean.device
    images = reader.decode_all(paths)
    rows = None
    done = 0
    while batch := list(islice(images, BATCH_SIZES[device.type])):
        scales = [scale.cpu() for scale in teacher(reader.to_pixels(batch).to(device))]
        rows = rows or allocate_rows(len(paths), scales, limit=limit)
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
