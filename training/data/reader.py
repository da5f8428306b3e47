"""Images as a product's training reads them: by the product's rule, decoded ahead by several threads."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from app.imaging.decode import Image
from app.imaging.roi import RegionOfInterest
from app.inference.detector import make_batch, valid_positions
from app.inference.sessions import available_cpus
from model.bundle import InputRecord
from training.data.images import ImageFile

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

    def decode(self, image: ImageFile) -> Image:
        """Decode an image. Raises BadImage."""
        return image.decode(self.rule, max_pixels=self.max_pixels)

    def decode_all(self, images: Sequence[ImageFile]) -> Iterator[Image]:
        """Yield every image in order, decoded ahead by several threads. Raises BadImage."""
        return self.map(self.decode, images)

    def map(self, make: Callable[[ImageFile], Output], images: Sequence[ImageFile]) -> Iterator[Output]:
        """Yield ``make(image)`` for each image, in order, by several threads."""
        return map_ahead(make, images, num_workers=self.num_workers or available_cpus())

    def to_pixels(self, images: Sequence[Image]) -> Tensor:
        """Return decoded images as the teacher sees them, uint8 (batch, height, width, 3)."""
        return torch.from_numpy(make_batch(images, map_size=self.map_size, roi=self.roi).pixels)

    def compute_valid(self, images: Sequence[ImageFile]) -> Tensor:
        """Return 1 at map positions that show the part, else 0, (images, h, w); the same for all stretched images."""
        looked_at = images[:1] if self.rule.fit == "stretch" else images
        masks = [
            torch.from_numpy(valid_positions(image, self.map_size, self.roi)) for image in self.decode_all(looked_at)
        ]
        return torch.stack(masks).expand(len(images), *self.map_size)


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
