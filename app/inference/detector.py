"""One version's three graphs, run one after the other: teacher, student, comparison."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from app.errors import ModelError, NotFinite, RunFailed
from app.imaging.decode import Image
from app.imaging.roi import RegionOfInterest
from model.bundle import Manifest

Floats = NDArray[np.float32]
# Batches are filled up to one of these, so that a graph meets few shapes, each of them warm.
BUCKETS = (1, 2, 4, 8)
# The student's outputs that say what its recall memory read.
ITEMS, WEIGHTS = "items", "weights"


@dataclass(frozen=True)
class Graphs:
    """A version's three graphs as ONNX bytes."""

    teacher: bytes
    student: bytes
    compare: bytes


@dataclass(frozen=True)
class Batch:
    """Images of one product. ``pixels``: uint8 (batch, height, width, 3); ``valid``: (batch, h, w), 0 or 1."""

    pixels: NDArray[np.uint8]
    valid: Floats


@dataclass(frozen=True)
class Reading:
    """Which items the recall memory read at each position of the first scale, and their weights: (positions, read)."""

    items: NDArray[np.int64]
    weights: Floats


@dataclass(frozen=True)
class Comparison:
    """What the graphs say of one image, raw: maps (scales, h, w) and (h, w), and numbers a scale.

    ``reading`` is None where the student is older than that it tells.
    """

    scale_maps: Floats
    map: Floats
    score: float
    scale_scores: Floats
    scale_shares: Floats
    reading: Reading | None = None


def batch_of(images: Sequence[Image], *, map_size: tuple[int, int], interest: RegionOfInterest | None = None) -> Batch:
    """Decoded images as one batch."""
    return Batch(
        pixels=np.stack([image.pixels for image in images]),
        valid=np.stack([valid_positions(image, map_size, interest) for image in images]),
    )


def blank_batch(manifest: Manifest, *, size: int) -> Batch:
    """So many black images: what a batch costs does not depend on what it shows."""
    rule = manifest.input
    return Batch(
        pixels=np.zeros((size, rule.height, rule.width, 3), np.uint8),
        valid=np.ones((size, *manifest.map_size), np.float32),
    )


def valid_positions(image: Image, map_size: tuple[int, int], interest: RegionOfInterest | None = None) -> Floats:
    """1 at map positions whose centre lies in the image and in the region of interest, else 0; float32 (h, w)."""
    height, width = image.pixels.shape[:2]
    box = image.content
    y = ((np.arange(map_size[0]) + 0.5) * height / map_size[0] - box.y) / box.height
    x = ((np.arange(map_size[1]) + 0.5) * width / map_size[1] - box.x) / box.width
    inside = np.outer((y >= 0) & (y <= 1), (x >= 0) & (x <= 1))
    if interest is not None:
        inside = inside & interest.at(y, x)
    return inside.astype(np.float32)


@dataclass(frozen=True)
class Detector:
    """Teacher, student and comparison of one version. Safe to call from several threads."""

    teacher: ort.InferenceSession
    student: ort.InferenceSession
    compare: ort.InferenceSession

    @property
    def provider(self) -> str:
        """Where the graphs run: ``cuda``, ``tensorrt`` or ``cpu``."""
        return str(self.teacher.get_providers()[0]).removesuffix("ExecutionProvider").lower()

    def extract(self, batch: Batch) -> dict[str, Floats]:
        """The teacher's features, ``t1`` to ``tK``."""
        return named(self.teacher, {"image": batch.pixels})

    def rebuild(self, teacher_features: dict[str, Floats]) -> dict[str, Floats]:
        """What good parts would have had, ``s1`` to ``sK``, how far off they usually are, and what was read."""
        return named(self.student, teacher_features)

    def judge(
        self, teacher_features: dict[str, Floats], student_features: dict[str, Floats], batch: Batch
    ) -> list[Comparison]:
        """The comparison of each image, in order; raises NotFinite."""
        given = {**teacher_features, **student_features, "valid": batch.valid}
        answers = named(self.compare, {one.name: given[one.name] for one in self.compare.get_inputs()})
        return comparisons(answers, student_features, len(batch.pixels))

    def run(self, batch: Batch) -> list[Comparison]:
        """The whole way from pixels to comparisons; raises NotFinite and RunFailed."""
        with reporting_failed_runs():
            teacher_features = self.extract(batch)
            student_features = self.rebuild(teacher_features)
            return self.judge(teacher_features, student_features, batch)


@dataclass(frozen=True)
class DeviceDetector(Detector):
    """A detector whose features stay where they were made. ``device``: ``cuda``, as ONNX Runtime calls it, or ``cpu``.

    Pixels go to the device and small answers come back; no feature map crosses host memory.
    """

    device: str = "cuda"

    def run(self, batch: Batch) -> list[Comparison]:
        """As ``Detector.run``."""
        with reporting_failed_runs():
            seen = self._bound(self.teacher, {"image": on_host(batch.pixels)})
            rebuilt = self._bound(self.student, seen)
            answers = self._bound(self.compare, {**seen, **rebuilt, "valid": on_host(batch.valid)}, to="cpu")
            reading = {name: rebuilt[name].numpy() for name in (ITEMS, WEIGHTS) if name in rebuilt}
            found = {name: answer.numpy() for name, answer in answers.items()}
            return comparisons(found, reading, len(batch.pixels))

    def _bound(
        self, session: ort.InferenceSession, given: Mapping[str, ort.OrtValue], *, to: str | None = None
    ) -> dict[str, ort.OrtValue]:
        """Run a graph on what lies on the device; its outputs by name, left there unless said otherwise."""
        binding = session.io_binding()
        for one in session.get_inputs():
            binding.bind_ortvalue_input(one.name, given[one.name])
        names = [output.name for output in session.get_outputs()]
        for name in names:
            binding.bind_output(name, to or self.device)
        session.run_with_iobinding(binding)
        return dict(zip(names, binding.get_outputs(), strict=True))


def on_host(values: NDArray[Any]) -> ort.OrtValue:
    """Values in host memory, which a graph on a device fetches itself."""
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(values))


@contextmanager
def reporting_failed_runs() -> Iterator[None]:
    """Turn what ONNX Runtime raises into RunFailed."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        raise RunFailed(str(error) or type(error).__name__) from error


def comparisons(
    answers: Mapping[str, Floats], student_outputs: Mapping[str, NDArray[Any]], num_images: int
) -> list[Comparison]:
    """The comparison graph's answers, an image each. Raises NotFinite."""
    if not all(np.isfinite(answer).all() for answer in answers.values()):
        raise NotFinite("compare.onnx")
    return [
        Comparison(
            scale_maps=answers["scale_maps"][row],
            map=answers["map"][row],
            score=float(answers["score"][row]),
            scale_scores=answers["scale_scores"][row],
            scale_shares=answers["scale_shares"][row],
            reading=reading_of(student_outputs, row),
        )
        for row in range(num_images)
    ]


def reading_of(student_outputs: Mapping[str, NDArray[Any]], row: int) -> Reading | None:
    """What one image recalled, if the student tells."""
    if ITEMS not in student_outputs:
        return None
    return Reading(student_outputs[ITEMS][row], student_outputs[WEIGHTS][row])


def named(session: ort.InferenceSession, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
    """Run a graph; its outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
