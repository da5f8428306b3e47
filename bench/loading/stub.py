"""``goodpart serve`` with decoding and graphs that cost nothing: what is left is the service's own work.

Everything else is the real thing, from the socket to the answer: limits, threads, queue, worker, scores, regions, JSON.
"""

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from app import main as service
from app.cli import main
from app.imaging.decode import Image, decode
from app.inference.detector import Batch, Comparison
from app.inference.version import Version
from app.inspection import pipeline
from app.store.store import Bundle
from model.bundle import InputRecord


class StubDetector:
    """Answers every image as an ordinary good part."""

    provider = "stub"

    def __init__(self, version: Version) -> None:
        manifest = version.manifest
        num_scales = len(manifest.scales)
        self.comparison = Comparison(
            scale_maps=np.full((num_scales, *manifest.map_size), manifest.map.mean, np.float32),
            map=np.full(manifest.map_size, manifest.map.mean, np.float32),
            score=manifest.score.mean,
            scale_scores=np.zeros(num_scales, np.float32),
            scale_shares=np.full(num_scales, 1 / num_scales, np.float32),
        )

    def run(self, batch: Batch) -> list[Comparison]:
        """One comparison an image."""
        return [self.comparison] * len(batch.pixels)


def load_stubbed(bundle: Bundle, *, loader: object, max_batch: int) -> Version:  # noqa: ARG001  # as ``load_verified`` is called
    """Load a version and replace its graphs."""
    version: Version = loader.load(bundle)  # type: ignore[attr-defined]
    return replace(version, detector=StubDetector(version))  # type: ignore[arg-type]


def make_caching_decoder() -> Callable[..., Image]:
    """Return a decoder that decodes each image once."""
    known: dict[bytes, Image] = {}

    def decode_once(data: bytes, rule: InputRecord, *, max_pixels: int) -> Image:
        if data not in known:
            known[data] = decode(data, rule, max_pixels=max_pixels)
        return known[data]

    return decode_once


if __name__ == "__main__":
    pipeline.decode = make_caching_decoder()  # type: ignore[assignment]
    service.load_verified = load_stubbed  # type: ignore[assignment]
    main.commands(["serve", *sys.argv[1:]])
