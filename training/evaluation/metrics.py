"""Figures of merit. Image metrics by scikit-learn; AUPRO as Bergmann et al. (CVPR 2019) define it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

AUPRO_LIMIT = 0.3
EIGHT_CONNECTED = np.ones((3, 3))


@dataclass(frozen=True)
class ImageMetrics:
    """How well scores separate defective parts from good ones, each in 0 to 1."""

    image_auroc: float
    average_precision: float
    f1_max: float


@dataclass(frozen=True)
class PixelMetrics:
    """How well maps find the marked defects, each in 0 to 1."""

    pixel_auroc: float
    aupro: float


def image_metrics(scores: NDArray[np.float64], defective: NDArray[np.bool_]) -> ImageMetrics:
    """Metrics of scores (images); both kinds of parts must be there."""
    precision, recall, _ = precision_recall_curve(defective, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return ImageMetrics(
        image_auroc=float(roc_auc_score(defective, scores)),
        average_precision=float(average_precision_score(defective, scores)),
        f1_max=float(f1.max()),
    )


def pixel_metrics(
    maps: Sequence[NDArray[np.float32]],
    masks: Sequence[NDArray[np.bool_]],
    *,
    limit: float = AUPRO_LIMIT,
) -> PixelMetrics:
    """Metrics of maps, each of its mask's size; some mask must have a defect.

    AUPRO is the area under the per-region overlap up to a false-positive rate of ``limit``, as a share of 1. At each
    threshold the overlap is the mean, over the connected defects of all images, of the share of the defect that is
    found; the rate is the share of good pixels that are wrongly found. Both metrics come of one sort of all pixels,
    which is what takes the time.
    """
    values, gains, good = pixels_by_region(maps, masks)
    order = np.argsort(-values, kind="stable")
    values, gains, good = values[order], gains[order], good[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    num_good = np.cumsum(good, dtype=np.int64)[last_of_ties]
    rate = np.append(0, num_good / num_good[-1])
    found = np.append(0, (last_of_ties + 1 - num_good) / (len(values) - num_good[-1]))
    overlap = np.append(0, np.cumsum(gains, dtype=np.float64)[last_of_ties])
    return PixelMetrics(pixel_auroc=area_up_to(rate, found, 1.0), aupro=area_up_to(rate, overlap, limit) / limit)


def pixels_by_region(
    maps: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Every pixel's value, how much finding it adds to the mean overlap, and whether it is good."""
    labelled = [ndimage.label(mask, structure=EIGHT_CONNECTED) for mask in masks]
    num_regions = sum(count for _, count in labelled)
    gains = []
    for labels, _ in labelled:
        sizes = np.bincount(labels.ravel()).astype(np.float64)
        worth = 1 / np.maximum(sizes, 1) / num_regions
        worth[0] = 0
        gains.append(worth[labels.ravel()].astype(np.float32))
    values = np.concatenate([one.ravel() for one in maps])
    good = np.concatenate([labels.ravel() == 0 for labels, _ in labelled])
    return values, np.concatenate(gains), good


def area_up_to(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> float:
    """The trapezoid area under a curve with rising ``x``, from 0 to ``limit``, its end interpolated."""
    inside = x <= limit
    end = float(np.interp(limit, x, y))
    return float(np.trapezoid(np.append(y[inside], end), np.append(x[inside], limit)))
