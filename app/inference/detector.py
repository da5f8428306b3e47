"""One version's three graphs, run one after the other: teacher, student, comparison."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from app.errors import ModelError, RunFailed
from app.imaging.decode import Image
from app.imaging.roi import RegionOfInterest
from model.bundle import Manifest

Floats = NDArray[np.float32]
# Batches are padded to one of these sizes, so that a graph runs with few shapes, each warmed up.
BUCKETS = (1, 2, 4, 8)
# Grey level of pixels outside the region of interest: the mean that the teachers were trained with.
BLANK_LEVEL = 127
# Outputs of the student with the items that its recall memory read.
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
class RecalledItems:
    """Items that the recall memory read at each position of the first scale, and their weights (positions, read)."""

    items: NDArray[np.int64]
    weights: Floats


@dataclass(frozen=True)
class Comparison:
    """The graphs' raw output for one image: maps (scales, h, w) and (h, w), and numbers a scale.

    ``recalled``: None for students that do not export it.
    """

    scale_maps: Floats
    map: Floats
    score: float
    scale_scores: Floats
    scale_shares: Floats
    recalled: RecalledItems | None = None


def make_batch(images: Sequence[Image], *, map_size: tuple[int, int], roi: RegionOfInterest | None = None) -> Batch:
    """Return decoded images as one batch."""
    return Batch(
        pixels=np.stack([blank_outside(image, roi) for image in images]),
        valid=np.stack([valid_positions(image, map_size, roi) for image in images]),
    )


def blank_outside(image: Image, roi: RegionOfInterest | None) -> NDArray[np.uint8]:
    """Return an image's pixels, uint8 (height, width, 3), grey outside the region of interest if that is set."""
    if roi is None or not roi.is_blanked:
        return image.pixels
    height, width = image.pixels.shape[:2]
    inside = valid_positions(image, (height, width), roi) > 0
    return np.where(inside[:, :, None], image.pixels, BLANK_LEVEL).astype(np.uint8)


def make_blank_batch(manifest: Manifest, *, size: int) -> Batch:
    """Return a batch of black images; the cost of a batch does not depend on its content."""
    rule = manifest.input
    return Batch(
        pixels=np.zeros((size, rule.height, rule.width, 3), np.uint8),
        valid=np.ones((size, *manifest.map_size), np.float32),
    )


def valid_positions(image: Image, map_size: tuple[int, int], roi: RegionOfInterest | None = None) -> Floats:
    """Return 1 at map positions whose centre lies in the image and in the region of interest, else 0.

    Float32 (h, w).
    """
    height, width = image.pixels.shape[:2]
    box = image.content
    y = ((np.arange(map_size[0]) + 0.5) * height / map_size[0] - box.y) / box.height
    x = ((np.arange(map_size[1]) + 0.5) * width / map_size[1] - box.x) / box.width
    inside = np.outer((y >= 0) & (y <= 1), (x >= 0) & (x <= 1))
    if roi is not None:
        inside = inside & roi.contains(y, x)
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
        """Return the teacher's features, ``t1`` to ``tK``."""
        return run_session(self.teacher, {"image": batch.pixels})

    def reconstruct(self, teacher_features: dict[str, Floats]) -> dict[str, Floats]:
        """Return the student's outputs: ``s1`` to ``sK``, ``u1`` to ``uK``, and the recalled items."""
        return run_session(self.student, teacher_features)

    def compare_features(
        self, teacher_features: dict[str, Floats], student_features: dict[str, Floats], batch: Batch
    ) -> list[Comparison]:
        """Return the comparison of each image, in order. Raises ModelError."""
        given = {**teacher_features, **student_features, "valid": batch.valid}
        answers = run_session(self.compare, {one.name: given[one.name] for one in self.compare.get_inputs()})
        return to_comparisons(answers, student_features, len(batch.pixels))

    def run(self, batch: Batch) -> list[Comparison]:
        """Run all graphs, from pixels to comparisons. Raises ModelError."""
        with translate_run_errors():
            teacher_features = self.extract(batch)
            student_features = self.reconstruct(teacher_features)
            return self.compare_features(teacher_features, student_features, batch)


@dataclass(frozen=True)
class DeviceDetector(Detector):
    """A detector that keeps features on the device. ``device``: ``cuda``, as ONNX Runtime calls it, or ``cpu``.

    Only pixels and the small outputs are copied; no feature map crosses host memory.
    """

    device: str = "cuda"

    def run(self, batch: Batch) -> list[Comparison]:
        """As ``Detector.run``."""
        with translate_run_errors():
            seen = self._run_bound(self.teacher, {"image": to_host_value(batch.pixels)})
            rebuilt = self._run_bound(self.student, seen)
            answers = self._run_bound(self.compare, {**seen, **rebuilt, "valid": to_host_value(batch.valid)}, to="cpu")
            reading = {name: rebuilt[name].numpy() for name in (ITEMS, WEIGHTS) if name in rebuilt}
            found = {name: answer.numpy() for name, answer in answers.items()}
            return to_comparisons(found, reading, len(batch.pixels))

    def _run_bound(
        self, session: ort.InferenceSession, given: Mapping[str, ort.OrtValue], *, to: str | None = None
    ) -> dict[str, ort.OrtValue]:
        """Run a graph on values of the device.

        Return its outputs by name, on the device unless ``to`` says otherwise.
        """
        binding = session.io_binding()
        for one in session.get_inputs():
            binding.bind_ortvalue_input(one.name, given[one.name])
        names = [output.name for output in session.get_outputs()]
        for name in names:
            binding.bind_output(name, to or self.device)
        session.run_with_iobinding(binding)
        return dict(zip(names, binding.get_outputs(), strict=True))


def to_host_value(values: NDArray[Any]) -> ort.OrtValue:
    """Return values in host memory, from where a graph on a device copies them."""
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(values))


@contextmanager
def translate_run_errors() -> Iterator[None]:
    """Translate ONNX Runtime's exceptions to RunFailed."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        raise RunFailed(str(error) or type(error).__name__) from error


def to_comparisons(
    answers: Mapping[str, Floats], student_outputs: Mapping[str, NDArray[Any]], num_images: int
) -> list[Comparison]:
    """Split the comparison graph's outputs into one comparison an image. Raises ModelError."""
    if not all(np.isfinite(answer).all() for answer in answers.values()):
        raise ModelError("compare.onnx returned a score that is not finite")
    return [
        Comparison(
            scale_maps=answers["scale_maps"][row],
            map=answers["map"][row],
            score=float(answers["score"][row]),
            scale_scores=answers["scale_scores"][row],
            scale_shares=answers["scale_shares"][row],
            recalled=get_recalled_items(student_outputs, row),
        )
        for row in range(num_images)
    ]


def get_recalled_items(student_outputs: Mapping[str, NDArray[Any]], row: int) -> RecalledItems | None:
    """Return the recalled items of one image, or None where the student does not export them."""
    if ITEMS not in student_outputs:
        return None
    return RecalledItems(student_outputs[ITEMS][row], student_outputs[WEIGHTS][row])


def run_session(session: ort.InferenceSession, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
    """Run a graph; return its outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
