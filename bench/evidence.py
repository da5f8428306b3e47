"""What every method of ``quality.py`` is given: teacher features of a data set, computed once and kept on disk.

Features are raw taps (no local averaging) by stride, float16 on disk, float32 in memory; under 1 lie the pixels. Masks
are compared at 256 x 256 pixels, as published work does.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.bundle import InputRecord
from training.data.dataset import Dataset, Sample, compute_median_size, detect_channels, find_images
from training.data.images import ImageFile
from training.evaluation.evaluate import open_mask
from training.fit.weights import load_teacher
from training.settings import TrainSettings

CACHE = Path(".cache/features")
MASK_SIZE = 256
MAX_PIXELS = 50_000_000
PIXELS = 1
STRIDES = (4, 8, 16, 32)
Features = dict[int, Tensor]


@dataclass(frozen=True)
class Evidence:
    """A data set as the teacher sees it. ``masks``: (test images, 256, 256), or None without masks."""

    name: str
    good: tuple[ImageFile, ...]
    train: Features
    test: Features
    defective: NDArray[np.bool_]
    masks: NDArray[np.bool_] | None


def load_evidence(folder: Path, *, teacher: str, size: int, strides: Sequence[int] = STRIDES) -> Evidence:
    """Load a data set in MVTec layout, features from the cache if they are there."""
    dataset = find_images(folder)
    test = tuple(sample.image for sample in dataset.test)
    channels = detect_channels(dataset.good, max_pixels=MAX_PIXELS)
    rule = InputRecord(height=size, width=size, fit="stretch", channels=channels, white_level=255)
    return Evidence(
        name=folder.name,
        good=dataset.good,
        train=load_features(dataset.good, teacher=teacher, rule=rule, strides=strides),
        test=load_features(test, teacher=teacher, rule=rule, strides=strides),
        defective=np.array([sample.is_defective for sample in dataset.test]),
        masks=load_masks(dataset),
    )


def fit_to_images(settings: TrainSettings, folder: Path) -> TrainSettings:
    """Return the settings with the input size that a training on this data set would take."""
    return settings.fit_to_images(compute_median_size(find_images(folder).good, max_pixels=MAX_PIXELS))


def load_masks(dataset: Dataset) -> NDArray[np.bool_] | None:
    """Return the masks of all test images, or None where a defective image has none."""
    if any(sample.mask is None for sample in dataset.test if sample.is_defective):
        return None
    return np.stack([load_mask(sample) for sample in dataset.test])


def load_mask(sample: Sample) -> NDArray[np.bool_]:
    """Return the mask of one image."""
    if sample.mask is None:
        return np.zeros((MASK_SIZE, MASK_SIZE), dtype=bool)
    with Pillow.open(sample.path) as picture:
        mask = open_mask(sample.mask, size=picture.size)
    return np.asarray(mask.resize((MASK_SIZE, MASK_SIZE), Pillow.Resampling.NEAREST)) > 0


def load_features(images: Sequence[ImageFile], *, teacher: str, rule: InputRecord, strides: Sequence[int]) -> Features:
    """Return raw taps of these images by stride, from the cache if they are there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for image in images:
        digest.update(image.read_bytes())
    place = CACHE / f"{digest.hexdigest()[:16]}-{teacher}-{rule.height}.safetensors"
    if not place.is_file():
        beside = place.with_suffix(f".{os.getpid()}")
        save_file(compute_features(images, teacher=teacher, rule=rule), beside)
        beside.replace(place)  # another run may be reading
    kept = load_file(place)
    return {PIXELS: kept[str(PIXELS)], **{stride: kept[str(stride)].float() for stride in strides}}


@torch.no_grad()
def compute_features(images: Sequence[ImageFile], *, teacher: str, rule: InputRecord) -> dict[str, Tensor]:
    """Compute raw taps at every stride of the teacher, as float16."""
    network = load_teacher(teacher, weights=None, sha256=None, strides=STRIDES, taps={})
    pieces: dict[int, list[Tensor]] = {stride: [] for stride in (PIXELS, *STRIDES)}
    for image in images:
        pixels = torch.from_numpy(image.decode(rule, max_pixels=MAX_PIXELS).pixels)[None]
        pieces[PIXELS].append(pixels)
        taps = network.network.forward_taps(network.normalise(pixels), network.taps)
        for stride, scale in zip(STRIDES, taps, strict=True):
            pieces[stride].append(scale.contiguous().half())
    return {str(stride): torch.cat(scales) for stride, scales in pieces.items()}


def select(features: Features, images: NDArray[np.int64] | Tensor) -> Features:
    """Return these images alone."""
    rows = torch.as_tensor(images)
    return {stride: scale[rows] for stride, scale in features.items()}
