"""Parity and calibration: the graphs' comparisons of held-out good parts, verified against the networks."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from app.imaging.decode import Image
from app.inference.detector import Comparison, Detector, Floats, make_batch
from training.data.reader import ImageReader
from training.export.calibration_features import NO_OWNER, CalibrationFeatures
from training.export.onnx import Parity, check_parity, compare_with_networks
from training.fit.networks import Networks

# Calibration parts whose features are kept for adapting and for the gate: enough to promise one in a thousand.
MAX_KEPT_PARTS = 1000


@dataclass(frozen=True)
class ParityResult:
    """Comparisons on which graphs and networks agree.

    ``features``: the teacher's of the first ``MAX_KEPT_PARTS`` parts, float16, scales 1..K.
    """

    comparisons: list[Comparison]
    valid: list[Floats]
    features: tuple[Tensor, ...]
    parity: Parity

    def to_calibration_features(self, *, num_items: int) -> CalibrationFeatures:
        """Return the calibration features; none of these parts gave an item."""
        features = tuple(scale.numpy() for scale in self.features)
        owners = np.full(num_items, NO_OWNER, np.int64)
        return CalibrationFeatures(features, np.stack(self.valid[: len(features[0])]), owners)


def verify_parity(
    images: Iterable[Image],
    networks: Networks,
    detector: Detector,
    *,
    reader: ImageReader,
    on_image: Callable[[int], None],
) -> ParityResult:
    """Compare each image by the graphs and by the networks. Raises TrainingError."""
    checked = []
    for number, image in enumerate(images):
        one = verify_image(image, networks, detector, reader=reader)
        checked.append(one if number < MAX_KEPT_PARTS else drop_features(one))
        on_image(1)
    return join_results(checked)


def verify_image(image: Image, networks: Networks, detector: Detector, *, reader: ImageReader) -> ParityResult:
    """Verify one image."""
    batch = make_batch([image], map_size=reader.map_size, roi=reader.roi)
    found = detector.run(batch)
    with torch.no_grad():
        features = networks.teacher(torch.from_numpy(batch.pixels))
    expected = compare_with_networks(features, networks.student, networks.compare, torch.from_numpy(batch.valid))
    parity = check_parity(expected, found)
    return ParityResult(found, list(batch.valid), tuple(scale.half() for scale in features), parity)


def drop_features(one: ParityResult) -> ParityResult:
    """Return the result without features."""
    return ParityResult(one.comparisons, one.valid, tuple(scale[:0] for scale in one.features), one.parity)


def join_results(parts: Sequence[ParityResult]) -> ParityResult:
    """Join results; the parity is that of the worst."""
    return ParityResult(
        comparisons=[comparison for part in parts for comparison in part.comparisons],
        valid=[valid for part in parts for valid in part.valid],
        features=tuple(torch.cat(scale) for scale in zip(*(part.features for part in parts), strict=True)),
        parity=Parity(
            num_images=sum(part.parity.num_images for part in parts),
            score=max(part.parity.score for part in parts),
            map=max(part.parity.map for part in parts),
        ),
    )
