"""Other forms of the same version: are they faster, and do they say the same?

Each form gets its own scale and threshold from the calibration parts, as a training would, and judges every test
image; then each is timed in turn, round by round, at one thread. *published* is the float32 that was published.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from sklearn.metrics import roc_auc_score

from app.bootstrap import open_store_at
from app.imaging.decode import Image
from app.inference.detector import Batch, Comparison, Detector, Graphs, make_batch
from app.inference.sessions import Device
from app.inference.version import Loader, graphs_from_bundle
from app.store.files import replace_file
from training.adapt import BaseVersion, load_base_version
from training.data.dataset import find_images, split_images
from training.data.images import ImageFile
from training.data.reader import ImageReader
from training.export.calibrate import calibrate
from training.export.onnx import export_graphs
from training.fit.features import stack_pixels
from training.release.publish import PublishRequest

NUM_CALIBRATED = 64
ROUNDS, RUNS = 12, 15
MAX_PIXELS = 10**8
Feeds = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Judged:
    """What a form says of the test images. ``scores``: float64 (images) on its own scale; ``is_ng``: bool (images)."""

    scores: NDArray[np.float64]
    is_ng: NDArray[np.bool_]


def main() -> None:
    """Make the forms, judge, time, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="data sets; each is also a product's name")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--json", type=Path, default=Path("bench/results/forms.json"))
    given = parser.parse_args()
    stored = open_store_at(given.store, None)
    rows = [
        row
        for data in given.data
        for row in compare_forms(data, load_base_version(PublishRequest(data.name, stored.store, stored.state)))
    ]
    text = json.dumps({"runs": ROUNDS * RUNS, "threads": 1, "rows": rows}, indent=1) + "\n"
    replace_file(given.json, text.encode())
    print(text, end="")


def compare_forms(data: Path, parent: BaseVersion) -> Iterator[dict[str, object]]:
    """Yield a row for each form."""
    dataset, manifest = find_images(data), parent.bundle.manifest
    parts = split_images(dataset.good, ok=(), ng=())
    reader = ImageReader(manifest.input, MAX_PIXELS, manifest.map_size)
    shown = list(reader.decode_all(parts.train[:NUM_CALIBRATED]))
    detectors = {name: open_detector(graphs) for name, graphs in forms(parent, shown).items()}
    judged = {
        name: judgement(detector, reader, parts.calibrate, [sample.image for sample in dataset.test], parent)
        for name, detector in detectors.items()
    }
    truth = [sample.is_defective for sample in dataset.test]
    batch = make_batch(shown[:1], map_size=manifest.map_size)
    times = time_calls({name: lambda detector=detector: detector.run(batch) for name, detector in detectors.items()})
    first = judged["published"]
    for name, said in judged.items():
        yield {
            "data": data.name,
            "form": name,
            "image_auroc": round(float(roc_auc_score(truth, said.scores)), 5),
            "num_test": len(truth),
            "verdicts_changed": int((said.is_ng != first.is_ng).sum()),
            "largest_score_change": round(float(np.abs(said.scores - first.scores).max()), 5),
            "p50_ms": round(statistics.median(times[name]), 2),
            "ratio": round(statistics.median(times[name]) / statistics.median(times["published"]), 3),
        }


def forms(parent: BaseVersion, shown: Sequence[Image]) -> dict[str, Graphs]:
    """The graphs of each form by its name."""
    bundle, networks = parent.bundle, parent.networks
    published = graphs_from_bundle(bundle)
    today = export_graphs(networks.teacher, networks.student, networks.compare, stack_pixels(list(shown[:2])))
    images: list[Feeds] = [{"image": image.pixels[None]} for image in shown]
    teacher = ort.InferenceSession(published.teacher, providers=["CPUExecutionProvider"])
    names = [one.name for one in teacher.get_outputs()]
    features: list[Feeds] = [dict(zip(names, teacher.run(names, feeds), strict=True)) for feeds in images]
    small_teacher = quantise(today.teacher, images, ["Conv"])
    return {
        "published": published,
        "exported today": today,
        "int8 teacher": Graphs(small_teacher, today.student, today.compare),
        "int8 convolutions": Graphs(small_teacher, quantise(today.student, features, ["Conv"]), today.compare),
        "int8 convolutions and products": Graphs(
            small_teacher, quantise(today.student, features, ["Conv", "MatMul"]), today.compare
        ),
    }


class Shown(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """What quantisation learns its ranges from."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Feeds | None:
        """The next, None at the end."""
        return next(self.feeds, None)


def quantise(graph: bytes, feeds: Sequence[Feeds], operators: list[str]) -> bytes:
    """Quantise these operators of a graph to 8 bits (QDQ), a weight's range a channel."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        onnx.save(onnx.load_model(io.BytesIO(graph)), source)
        quant_pre_process(source, source, skip_symbolic_shape=True)
        quantize_static(
            source,
            target,
            Shown(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # without it, products of two pairs overflow 16 bits where there is no VNNI
        )
        return target.read_bytes()


def open_detector(graphs: Graphs) -> Detector:
    """Open the form as the service runs it at one thread."""
    return Loader(Device("cpu", 1)).open_detector(graphs)


def judgement(
    detector: Detector,
    reader: ImageReader,
    calibration: Sequence[ImageFile],
    test: Sequence[ImageFile],
    parent: BaseVersion,
) -> Judged:
    """What a form says of the test images by the threshold that its own calibration gives."""
    batches = [make_batch([image], map_size=reader.map_size) for image in reader.decode_all(calibration)]
    comparisons: list[Comparison] = [detector.run(batch)[0] for batch in batches]
    asked = parent.settings.false_alarm_rate
    constants = calibrate(comparisons, [batch.valid[0] for batch in batches], asked=asked)
    found: Iterator[Batch] = (make_batch([image], map_size=reader.map_size) for image in reader.decode_all(test))
    scores = np.array([constants.score.standardise(detector.run(batch)[0].score) for batch in found])
    return Judged(scores, scores > constants.promise.threshold)


def time_calls(works: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Return milliseconds of each call, the forms in turn."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            work()
            for _ in range(RUNS):
                began = time.perf_counter()
                work()
                spent[name].append((time.perf_counter() - began) * 1000)
    return spent


if __name__ == "__main__":
    main()
