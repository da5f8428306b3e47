"""Parity and calibration: what the graphs say of held-out good parts, once the networks say the same."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from app.imaging.decode import Image
from app.inference.detector import Comparison, Detector, Floats, make_batch
from training.export.calibration_features import NOBODY, Kept
from training.export.onnx import Parity, check_parity, network_comparison
from training.fit.features import Reader
from training.fit.networks import Networks

# Calibration parts whose features are kept for adapting and for the gate: enough to promise one in a thousand.
MOST_KEPT = 1000


@dataclass(frozen=True)
class Verified:
    """Calibration parts on which graphs and networks agree.

    ``features``: the teacher's of the first ``MOST_KEPT`` of them, float16, scales 1..K.
    """

    comparisons: list[Comparison]
    valid: list[Floats]
    features: tuple[Tensor, ...]
    parity: Parity

    def kept(self, *, num_items: int) -> Kept:
        """The parts whose features are kept; none of them gave an item."""
        features = tuple(scale.numpy() for scale in self.features)
        owners = np.full(num_items, NOBODY, np.int64)
        return Kept(features, np.stack(self.valid[: len(features[0])]), owners)


def verified(
    images: Iterable[Image],
    networks: Networks,
    detector: Detector,
    *,
    reader: Reader,
    on_image: Callable[[int], None],
) -> Verified:
    """Each image judged by the graphs, as the service will, and by the networks. Raises ParityFailed."""
    checked = []
    for number, image in enumerate(images):
        one = checked_image(image, networks, detector, reader=reader)
        checked.append(one if number < MOST_KEPT else without_features(one))
        on_image(1)
    return joined(checked)


def checked_image(image: Image, networks: Networks, detector: Detector, *, reader: Reader) -> Verified:
    """One image."""
    batch = make_batch([image], map_size=reader.map_size, roi=reader.interest)
    found = detector.run(batch)
    with torch.no_grad():
        features = networks.teacher(torch.from_numpy(batch.pixels))
    expected = network_comparison(features, networks.student, networks.compare, torch.from_numpy(batch.valid))
    parity = check_parity(expected, found)
    return Verified(found, list(batch.valid), tuple(scale.half() for scale in features), parity)


def without_features(one: Verified) -> Verified:
    """The same, keeping no features."""
    return Verified(one.comparisons, one.valid, tuple(scale[:0] for scale in one.features), one.parity)


def joined(parts: Sequence[Verified]) -> Verified:
    """Many as one; the parity is that of the worst."""
    return Verified(
        comparisons=[comparison for part in parts for comparison in part.comparisons],
        valid=[valid for part in parts for valid in part.valid],
        features=tuple(torch.cat(scale) for scale in zip(*(part.features for part in parts), strict=True)),
        parity=Parity(
            num_images=sum(part.parity.num_images for part in parts),
            score=max(part.parity.score for part in parts),
            map=max(part.parity.map for part in parts),
        ),
    )
