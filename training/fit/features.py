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
from training.data.dataset import decoded
from training.fit.feature_store import Bound, Rows, empty_rows

# On a CPU larger batches fall out of the caches: measured, an image in a batch of 16 takes thrice as long as alone.
BATCH_SIZES = {"cpu": 1, "cuda": 32}
# Images that are decoded before they are asked for, a worker.
AHEAD = 4
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Reader:
    """How a training reads images: the service's decoder, the product's rule, and where to look.

    ``num_workers``: threads that decode ahead, None: one a processor.
    """

    rule: InputRecord
    max_pixels: int
    map_size: tuple[int, int]
    interest: RegionOfInterest | None = None
    num_workers: int | None = None

    def decoded(self, path: Path) -> Image:
        """An image through the service's decoder. Raises BadImage."""
        return decoded(path, self.rule, max_pixels=self.max_pixels)

    def all_decoded(self, paths: Sequence[Path]) -> Iterator[Image]:
        """Every image in order, decoded ahead by several threads. Raises BadImage."""
        return self.made(self.decoded, paths)

    def made(self, make: Callable[[Path], Made], paths: Sequence[Path]) -> Iterator[Made]:
        """What is made of each file, in order, by several threads."""
        return made_ahead(make, paths, num_workers=self.num_workers or available_cpus())

    def to_pixels(self, images: Sequence[Image]) -> Tensor:
        """Return decoded images as the teacher sees them, uint8 (batch, height, width, 3)."""
        return torch.from_numpy(make_batch(images, map_size=self.map_size, roi=self.interest).pixels)

    def valid(self, paths: Sequence[Path]) -> Tensor:
        """Which map positions show the part, 1 or 0, (images, h, w); stretched images lie alike. Raises BadImage."""
        looked_at = paths[:1] if self.rule.fit == "stretch" else paths
        masks = [
            torch.from_numpy(valid_positions(image, self.map_size, self.interest))
            for image in self.all_decoded(looked_at)
        ]
        return torch.stack(masks).expand(len(paths), *self.map_size)


def made_ahead(make: Callable[[Item], Made], items: Sequence[Item], *, num_workers: int) -> Iterator[Made]:
    """``map`` by several threads, in order, never far ahead of what is taken."""
    with ThreadPoolExecutor(num_workers, thread_name_prefix="decoding") as pool:
        waiting: deque[Future[Made]] = deque()
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
def teacher_features(
    teacher: Teacher, paths: Sequence[Path], *, reader: Reader, bound: Bound, on_images: Callable[[int], None]
) -> tuple[Rows, ...]:
    """Features of scales 1..K, each (images, channels, height, width), on the CPU. Raises BadImage, DiskTooSmall."""
    device = teacher.mean.device
    images = reader.all_decoded(paths)
    rows = None
    done = 0
    while batch := list(islice(images, BATCH_SIZES[device.type])):
        scales = [scale.cpu() for scale in teacher(reader.to_pixels(batch).to(device))]
        rows = rows or empty_rows(len(paths), scales, bound=bound)
        for own, scale in zip(rows, scales, strict=True):
            own[done : done + len(batch)] = scale
        done += len(batch)
        on_images(len(batch))
    return rows or ()


def valid_at_scales(valid: Tensor, features: tuple[Rows, ...]) -> tuple[Tensor, ...]:
    """Valid map positions (images, h, w) at each scale's own size: where at least half of a position is valid."""
    # Where one image speaks for all, its row is repeated without being copied, and stays so.
    first = valid[:1] if valid.stride(0) == 0 else valid
    return tuple(
        (resize(first[:, None], (scale.shape[-2], scale.shape[-1]))[:, 0] >= 0.5)
        .float()
        .expand(len(valid), *scale.shape[-2:])
        for scale in features
    )
