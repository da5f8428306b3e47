"""The engine beside the same graphs run bare: what queue, batcher and comparison objects cost."""

import statistics
import time
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from app.inference.detector import Batch
from app.inference.version import Version
from app.inspection.batcher import Batcher, BatchLimits, InferenceJob
from app.inspection.pipeline import preprocess

MAX_PIXELS = 50_000_000
ROUNDS = 7


def engine_ratio(version: Version, images: Sequence[bytes], *, per_round: int, max_batch: int) -> dict[str, float]:
    """Images a second through queue and batcher, and of bare graphs; rounds take turns, and medians are compared."""
    batches = [preprocess(data, version, max_pixels=MAX_PIXELS).batch for data in images]
    batches = [batches[index % len(batches)] for index in range(per_round)]
    queued, bare = [], []
    for _ in range(ROUNDS):
        bare.append(per_round / timed_bare(version, batches, max_batch=max_batch))
        queued.append(per_round / timed_queue(version, batches, max_batch=max_batch))
    return {
        "engine_images_per_s": statistics.median(queued),
        "bare_images_per_s": statistics.median(bare),
        "engine_ratio": statistics.median(fast / slow for fast, slow in zip(queued, bare, strict=True)),
    }


def timed_queue(version: Version, batches: Sequence[Batch], *, max_batch: int) -> float:
    """Seconds from the first image submitted to the last one judged."""
    worker = Batcher(BatchLimits(max_batch=max_batch))
    began = time.perf_counter()
    futures = [worker.submit(InferenceJob(batch, version, deadline=None)) for batch in batches]
    for future in futures:
        future.result()
    spent_s = time.perf_counter() - began
    worker.close()
    return spent_s


def timed_bare(version: Version, batches: Sequence[Batch], *, max_batch: int) -> float:
    """Seconds for the same images through the three graphs one after the other, and nothing else."""
    detector = version.detector
    pixels = [
        np.concatenate([batch.pixels for batch in batches[first : first + max_batch]])
        for first in range(0, len(batches), max_batch)
    ]
    valid = [
        np.concatenate([batch.valid for batch in batches[first : first + max_batch]])
        for first in range(0, len(batches), max_batch)
    ]
    began = time.perf_counter()
    for some, where in zip(pixels, valid, strict=True):
        seen = run(detector.teacher, {"image": some})
        reconstruction = run(detector.student, seen)
        given = {**seen, **reconstruction, "valid": where}
        run(detector.compare, {one.name: given[one.name] for one in detector.compare.get_inputs()})
    return time.perf_counter() - began


def run(session: ort.InferenceSession, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A graph's outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
