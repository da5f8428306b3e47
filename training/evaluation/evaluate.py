"""Evaluation of a version on a test set, through the service's own pipeline."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from app.errors import ImageError
from app.imaging.decode import MAX_PIXELS, load_image
from app.imaging.heatmap import enlarge
from app.inference.version import Version
from app.inspection.pipeline import Inspection, inspect
from training.data.dataset import Sample
from training.data.images import ImageFile
from training.errors import BadImage
from training.evaluation.metrics import image_metrics, pixel_metrics

# Pixel metrics hold every pixel of the test set in memory; larger images are measured at this size.
MAX_SIDE_PX = 512


@dataclass(frozen=True)
class TestScore:
    """The score of one test image."""

    __test__ = False  # pytest takes a class of this name for a test otherwise

    path: str
    kind: str
    sha256: str
    score: float
    verdict: str


@dataclass(frozen=True)
class EvaluationMetrics:
    """Metrics of a version on a test set; those that its parts or masks do not allow are None.

    ``test_scores``: one an image, in order.
    """

    num_test_good: int
    num_test_defective: int
    false_alarm_rate: float | None = None
    escape_rate: float | None = None
    image_auroc: float | None = None
    average_precision: float | None = None
    f1_max: float | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None
    test_scores: tuple[TestScore, ...] | None = None


def evaluate(
    version: Version,
    samples: Sequence[Sample],
    *,
    folder: Path,
    max_pixels: int,
    on_image: Callable[[int], None],
) -> EvaluationMetrics:
    """Return the metrics of a test set, those of pixels where every defective part has a mask. Raises BadImage."""
    scores: list[TestScore] = []
    maps: list[NDArray[np.float32]] = []
    masks: list[NDArray[np.bool_]] = []
    has_masks = all(sample.mask is not None for sample in samples if sample.is_defective)
    for sample, inspection in inspect_samples(version, samples, max_pixels=max_pixels):
        scores.append(to_test_score(sample, inspection, folder))
        if has_masks:
            masks.append(load_mask(sample, inspection))
            maps.append(resize_map(inspection, masks[-1].shape))
        on_image(1)
    metrics = replace(compute_image_metrics(scores), test_scores=tuple(scores))
    return replace(metrics, **asdict(pixel_metrics(maps, masks))) if has_masks and any_defect(masks) else metrics


def evaluate_images(
    version: Version, samples: Sequence[Sample], *, folder: Path, max_pixels: int, on_image: Callable[[int], None]
) -> EvaluationMetrics:
    """Return the metrics that need scores alone. Raises BadImage."""
    scores = []
    for sample, inspection in inspect_samples(version, samples, max_pixels=max_pixels):
        scores.append(to_test_score(sample, inspection, folder))
        on_image(1)
    return compute_image_metrics(scores)


def inspect_samples(
    version: Version, samples: Sequence[Sample], *, max_pixels: int
) -> Iterator[tuple[Sample, Inspection]]:
    """Yield each sample with its inspection. Raises BadImage."""
    for sample in samples:
        try:
            yield sample, inspect(sample.image.read_bytes(), version, max_pixels=max_pixels)
        except ImageError as error:
            raise BadImage(sample.path, str(error)) from error


def to_test_score(sample: Sample, inspection: Inspection, folder: Path) -> TestScore:
    """Return what is kept of an inspection."""
    return TestScore(
        path=sample.path.relative_to(folder).as_posix(),
        kind=sample.kind,
        sha256=inspection.image.sha256,
        score=inspection.score,
        verdict=inspection.verdict,
    )


def compute_image_metrics(scores: Sequence[TestScore]) -> EvaluationMetrics:
    """Return metrics of the scores, as far as both kinds of parts exist, and both error rates at the threshold."""
    values = np.array([score.score for score in scores])
    defective = np.array([score.kind != "good" for score in scores])
    judged_ng = np.array([score.verdict == "ng" for score in scores])
    metrics = EvaluationMetrics(
        num_test_good=int((~defective).sum()),
        num_test_defective=int(defective.sum()),
        false_alarm_rate=None if defective.all() else float(judged_ng[~defective].mean()),
        escape_rate=float((~judged_ng)[defective].mean()) if defective.any() else None,
    )
    if defective.all() or not defective.any():
        return metrics
    return replace(metrics, **asdict(image_metrics(values, defective)))


def load_mask(sample: Sample, inspection: Inspection) -> NDArray[np.bool_]:
    """Return the mask of a defect, empty for a good part; of the image's size, up to ``MAX_SIDE_PX``.

    Raises BadImage.
    """
    size = (inspection.image.width, inspection.image.height)
    scale = min(1.0, MAX_SIDE_PX / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    if sample.mask is None:
        return np.zeros((height, width), dtype=bool)
    picture = open_mask(sample.mask, size=size)
    return np.asarray(picture.resize((width, height), Pillow.Resampling.NEAREST)) > 0


def open_mask(mask: ImageFile, *, size: tuple[int, int]) -> Pillow.Image:
    """Open a mask of its image's ``(width, height)`` in mode L. Raises BadImage."""
    try:
        picture = load_image(mask.read_bytes(), max_pixels=MAX_PIXELS).convert("L")
    except (ImageError, OSError) as error:
        raise BadImage(mask.path, f"the mask can't be read: {error}") from error
    if picture.size != size:
        raise BadImage(
            mask.path,
            f"the mask is {picture.width} x {picture.height}, but its image is {size[0]} x {size[1]}",
        )
    return picture


def resize_map(inspection: Inspection, size: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the anomaly map at the size (height, width) of the image."""
    image = inspection.image
    canvas = image.pixels.shape[:2]
    return enlarge(inspection.map, image.content, canvas=canvas, size=(size[1], size[0]))


def any_defect(masks: Sequence[NDArray[np.bool_]]) -> bool:
    """Whether any pixel is marked."""
    return any(mask.any() for mask in masks)
