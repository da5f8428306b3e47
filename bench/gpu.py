"""What a GPU makes of a version: providers, precisions, batch sizes, several products; then a service and a training.

    bench/gpu.sh

Each form is the three graphs bound to the device, so that features stay there (``DeviceDetector``). One that does not
run is reported with its reason and not left out. With ``--provider cpu`` the program itself can be tried without a GPU.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from latency import times_ms
from load import GOODPART, create_store
from loading.client import Outcome, line_to, run_closed_loop
from loading.served import serve
from onnxruntime.transformers.float16 import convert_float_to_float16

from app.bootstrap import open_store_at
from app.inference.detector import DeviceDetector, Graphs, make_blank_batch
from app.inference.sessions import CHAINS, CUDA_OPTIONS
from app.inference.version import graphs_from_bundle
from app.store.files import replace_file
from model.bundle import Manifest
from training.data.dataset import find_images

BATCHES = (1, 2, 4, 8, 16, 32, 64)
RUNS = 50
NUM_PRODUCTS = 8
NUM_CLIENTS, SERVICE_S = 32, 20.0
PRECISIONS = (("float32", torch.float32, False), ("TF32", torch.float32, True), ("float16", torch.float16, False))
MATRIX = 8192
CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Form:
    """A provider with its options; ``is_half``: graphs converted to float16, inputs and outputs left as they are."""

    name: str
    provider: str
    options: Mapping[str, str] = field(default_factory=dict)
    is_half: bool = False


CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
FORMS = (
    Form("cuda float32", CUDA, CUDA_OPTIONS),
    Form("cuda TF32", CUDA, {**CUDA_OPTIONS, "use_tf32": "1"}),
    Form("cuda float16", CUDA, CUDA_OPTIONS, is_half=True),
    Form("cuda float32, exhaustive search", CUDA, {**CUDA_OPTIONS, "cudnn_conv_algo_search": "EXHAUSTIVE"}),
    Form("cuda float32, channels last", CUDA, {**CUDA_OPTIONS, "prefer_nhwc": "1"}),
    Form("tensorrt float32", TENSORRT),
    Form("tensorrt float16", TENSORRT, {"trt_fp16_enable": "1"}),
)


def main() -> None:
    """Measure all of it; what is there is written after each part, so that a run that is ended leaves what it has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--provider", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--json", type=Path, default=Path("bench/results/gpu.json"))
    given = parser.parse_args()
    is_gpu = given.provider == "cuda"
    device = torch.cuda.get_device_name() if is_gpu else "cpu"
    figures: dict[str, Any] = {"device": device, "peak_macs_per_s": peaks(is_gpu=is_gpu)}
    with TemporaryDirectory() as name:
        began = time.monotonic()
        store = create_store(Path(name), product="flange")
        figures["drawn_and_learned_quick_s"] = round(time.monotonic() - began, 1)
        graphs, manifest = train(store)
        chosen = FORMS if is_gpu else (Form("cpu", CPU),)
        figures["forms"] = [row for form in chosen for row in rows(form, graphs, manifest, given.batches)]
        write(given.json, figures)
        figures["products"] = many_products(chosen[0], graphs, manifest)
        figures["service"] = service(store, given.provider)
        write(given.json, figures)
        figures["training_s"] = training_s(Path(name), given.provider)
        write(given.json, figures)


def write(path: Path, figures: Mapping[str, Any]) -> None:
    """What is known so far."""
    text = json.dumps(figures, indent=1) + "\n"
    replace_file(path, text.encode())
    print(text)


def peaks(*, is_gpu: bool) -> dict[str, float]:
    """Multiply-adds a second of a large matrix product, by precision."""
    device = torch.device("cuda" if is_gpu else "cpu")
    size = MATRIX if is_gpu else 1024
    found = {}
    for name, kind, has_tf32 in PRECISIONS if is_gpu else PRECISIONS[:1]:
        torch.backends.cuda.matmul.allow_tf32 = has_tf32
        left = torch.rand(size, size, device=device, dtype=kind)

        def product(left: torch.Tensor = left) -> None:
            left @ left
            if is_gpu:
                torch.cuda.synchronize()

        found[name] = size**3 / (statistics.median(times_ms(product, RUNS)) / 1000)
    return found


def train(store: Path) -> tuple[Graphs, Manifest]:
    """Return the graphs of the trained product."""
    stored = open_store_at(store, None)
    current = stored.state.read_current("flange")
    bundle = stored.store.load_bundle("flange", current.version if current else "")
    return graphs_from_bundle(bundle), bundle.manifest


def rows(form: Form, graphs: Graphs, manifest: Manifest, batches: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row a batch size."""
    try:
        detector = open_detector(form, graphs)
    except Exception as error:  # noqa: BLE001  # any error of a provider is reported
        yield {"form": form.name, "fault": in_one_line(error)}
        return
    for size in batches:
        batch = make_blank_batch(manifest, size=size)
        try:
            spent = times_ms(lambda batch=batch: detector.run(batch), RUNS)
        except Exception as error:  # noqa: BLE001  # as above
            yield {"form": form.name, "batch": size, "fault": in_one_line(error)}
            continue
        p50_ms, p99_ms = statistics.median(spent), float(np.percentile(spent, 99))
        yield {
            "form": form.name,
            "batch": size,
            "p50_ms": round(p50_ms, 3),
            "p99_ms": round(p99_ms, 3),
            "images_per_s": round(1000 * size / p50_ms, 1),
        }


def in_one_line(error: Exception) -> str:
    """What it says first, or what it is."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def open_detector(form: Form, graphs: Graphs) -> DeviceDetector:
    """Open the three graphs in this form, on the device."""
    ort.preload_dlls()
    names = next(chain for chain in CHAINS.values() if chain[0] == form.provider)
    chain = [(name, dict(form.options) if name == form.provider else {}) for name in names]

    def open_graph(graph: bytes) -> ort.InferenceSession:
        model = half(graph) if form.is_half else graph
        session = ort.InferenceSession(model, providers=chain)
        if session.get_providers()[0] != form.provider:
            raise RuntimeError(f"requested {form.provider}, got {session.get_providers()[0]}")
        return session

    device = "cpu" if form.provider == CPU else "cuda"
    return DeviceDetector(
        open_graph(graphs.teacher), open_graph(graphs.student), open_graph(graphs.compare), device=device
    )


def half(graph: bytes) -> bytes:
    """The graph in float16."""
    converted: bytes = convert_float_to_float16(onnx.load_from_string(graph), keep_io_types=True).SerializeToString()
    return converted


def many_products(form: Form, graphs: Graphs, manifest: Manifest) -> dict[str, float]:
    """One image of each of several products in turn, by the time of as many of one."""
    detectors = [open_detector(form, graphs) for _ in range(NUM_PRODUCTS)]
    batch = make_blank_batch(manifest, size=1)
    one = statistics.median(times_ms(lambda: [detectors[0].run(batch) for _ in detectors], RUNS))
    many = statistics.median(times_ms(lambda: [detector.run(batch) for detector in detectors], RUNS))
    return {"products": NUM_PRODUCTS, "ms": round(many, 2), "ratio_to_one": round(many / one, 3)}


def service(store: Path, provider: str) -> dict[str, float]:
    """Images a second through the whole service, with decoding on all processors."""
    images = [image.read_bytes() for image in find_images(store.with_name("data")).good]
    with serve(store, provider=provider, max_batch=8) as running:
        outcomes = asyncio.run(answers(running.address, images))
    return {"clients": NUM_CLIENTS, "images_per_s": round(sum(one.is_good for one in outcomes) / SERVICE_S, 1)}


async def answers(address: str, images: Sequence[bytes]) -> list[Outcome]:
    """What so many clients were answered, each of which waits for its answer before it asks again."""
    async with line_to(address, "flange", images) as line:
        return await run_closed_loop(line, num_clients=NUM_CLIENTS, seconds=SERVICE_S)


def training_s(folder: Path, provider: str) -> float:
    """How long a full training of the drawn product takes."""
    began = time.monotonic()
    chosen = ["--set", f"device={provider}", "--set", "false_alarm_rate=0.05", "--no-activate"]
    command = [GOODPART, "train", "--data", folder / "data", "--product", "full", "--store", folder / "store", *chosen]
    subprocess.run(command, check=True)
    return round(time.monotonic() - began, 1)


if __name__ == "__main__":
    main()
