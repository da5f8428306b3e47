"""The pipeline of an image: bytes -> preprocess -> infer -> postprocess -> Inspection.

Pure functions, which ``inspect`` runs one after the other, for command line and training. The service runs the same
ones for many images at once (``app/inspection/inspector.py``).
"""

import time
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.imaging.decode import Image, decode
from app.imaging.heatmap import Heatmap, HeatmapKind, render
from app.imaging.input_check import Guard, check_input
from app.imaging.regions import Region, find_regions, make_grid
from app.inference.calibration import p_value
from app.inference.detector import Batch, Comparison, make_batch
from app.inference.explain import Explanation, explain_region
from app.inference.version import Version
from model.bundle import PromiseRecord


@dataclass(frozen=True)
class InspectOptions:
    """What an inspection returns besides the verdict."""

    heatmap: HeatmapKind = "none"
    explain: bool = False
    min_region_area_px: int = 0


VERDICT_ONLY = InspectOptions()


@dataclass(frozen=True)
class ScaleVerdict:
    """One scale's own score, and its share of the joint score."""

    stride: int
    score: float
    share: float


@dataclass(frozen=True)
class Timings:
    """Milliseconds by step; ``queue`` is the wait for the batcher."""

    decode: float
    queue: float
    inference: float
    render: float = 0.0


@dataclass(frozen=True)
class Inspection:
    """The result of one inspection.

    ``map``: float32 (h, w) on the absolute scale: good positions have mean 0, spread 1.

    ``explanations``: one a region, in order, if requested. ``warnings``: of the input check.
    """

    version: Version
    image: Image
    verdict: Literal["ok", "ng"]
    score: float
    threshold: float
    p_value: float
    promise: PromiseRecord
    scales: tuple[ScaleVerdict, ...]
    regions: tuple[Region, ...]
    map: NDArray[np.float32]
    heatmap: Heatmap | None
    explanations: tuple[Explanation, ...]
    warnings: tuple[str, ...]
    timings: Timings


@dataclass(frozen=True)
class PreprocessedImage:
    """A decoded image, the same as a batch of one, and the warnings of the input check."""

    image: Image
    batch: Batch
    warnings: tuple[str, ...]


def inspect(
    data: bytes,
    version: Version,
    *,
    max_pixels: int,
    options: InspectOptions = VERDICT_ONLY,
    guard: Guard = "off",
) -> Inspection:
    """Inspect one image in the calling thread. Raises ImageError or ModelError."""
    started = time.perf_counter()
    preprocessed = preprocess(data, version, max_pixels=max_pixels, guard=guard)
    decoded = time.perf_counter()
    comparison = infer(preprocessed.batch, version)
    timings = Timings(decode=to_ms(decoded - started), queue=0.0, inference=to_ms(time.perf_counter() - decoded))
    return postprocess(preprocessed, comparison, version, options=options, timings=timings)


def to_ms(seconds: float) -> float:
    """Return seconds as milliseconds, to a microsecond."""
    return round(seconds * 1000, 3)


def preprocess(data: bytes, version: Version, *, max_pixels: int, guard: Guard = "off") -> PreprocessedImage:
    """Decode, check and batch an image by the version's rules. Raises ImageError."""
    image = decode(data, version.manifest.input, max_pixels=max_pixels)
    warnings = check_input(image, version.manifest.expects, guard)
    return PreprocessedImage(image, make_batch([image], map_size=version.manifest.map_size, roi=version.roi), warnings)


def infer(batch: Batch, version: Version) -> Comparison:
    """Run teacher, student and comparison on a batch of one."""
    return version.detector.run(batch)[0]


def postprocess(
    preprocessed: PreprocessedImage,
    comparison: Comparison,
    version: Version,
    *,
    options: InspectOptions,
    timings: Timings,
) -> Inspection:
    """Convert raw values to the absolute scale, then derive verdict, regions and heat-map.

    ``timings``: of the steps before; the time of rendering is added.
    """
    manifest, image = version.manifest, preprocessed.image
    score = manifest.score.standardise(comparison.score)
    map_ = standardise_map(comparison.map, preprocessed.batch.valid[0], version)
    verdict: Literal["ok", "ng"] = "ng" if score > version.threshold else "ok"
    regions = find_regions(
        map_,
        threshold=version.region_threshold,
        grid=make_grid(image, manifest.map_size),
        min_area_px=options.min_region_area_px,
    )
    if verdict == "ok" and version.is_region_bound_to_verdict:
        regions = ()
    started = time.perf_counter()
    heatmap = render(map_, image, kind=options.heatmap)
    timings = replace(timings, render=to_ms(time.perf_counter() - started))
    shown = regions if options.explain else ()
    return Inspection(
        version=version,
        image=image,
        verdict=verdict,
        score=score,
        threshold=version.threshold,
        p_value=p_value(version.calibration, score),
        promise=version.promise,
        scales=to_scale_verdicts(comparison, version),
        regions=regions,
        map=map_,
        heatmap=heatmap,
        explanations=tuple(explain_region(region, comparison, manifest, version.patches) for region in shown),
        warnings=preprocessed.warnings,
        timings=timings,
    )


def standardise_map(raw: NDArray[np.float32], valid: NDArray[np.float32], version: Version) -> NDArray[np.float32]:
    """Return the raw map on the absolute scale; 0 outside the part."""
    constants = version.manifest.map
    standard = (raw - constants.mean) / constants.spread * valid
    return standard.astype(np.float32)


def to_scale_verdicts(comparison: Comparison, version: Version) -> tuple[ScaleVerdict, ...]:
    """Return each scale's numbers, the first scale first; maps of one stride are joined by their weights."""
    manifest = version.manifest
    weights = np.array([scale.weight for scale in manifest.scales])
    verdicts = []
    for stride in manifest.strides:
        own = np.array([scale.stride == stride for scale in manifest.scales])
        weight = weights[own] if weights[own].any() else np.ones(int(own.sum()))
        score = np.average(comparison.scale_scores[own], weights=weight)
        verdicts.append(ScaleVerdict(stride, float(score), float(comparison.scale_shares[own].sum())))
    return tuple(verdicts)
