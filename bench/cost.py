"""Where the time of an inspection goes: each graph beside what the machine can do, by operator; then a whole request.

The peak is what is measured here in the same run: a product of two large matrices, and a copy of an array that no cache
holds. Everything runs at one thread, so that shares can be compared.
"""

import argparse
import base64
import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from latency import median_ms

from app.api.schemas import InspectionResponse
from app.bootstrap import load_version, open_store
from app.imaging.decode import decode
from app.imaging.heatmap import render
from app.inference.detector import Graphs, make_batch
from app.inference.sessions import Device, make_session_options
from app.inference.version import Version, graphs_from_bundle
from app.inspection.pipeline import InspectOptions, infer, inspect, standardise_map
from app.settings import read_settings
from app.store.files import replace_file
from training.data.dataset import find_images
from training.model_info import describe_networks
from training.settings import read_train_settings

RUNS = 60
MATRIX = 1024
COPIED_BYTES = 256 * 2**20
MAX_OPERATORS = 5
MAX_PIXELS = 10**8


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with images of the product")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--product", required=True)
    parser.add_argument("--json", type=Path, default=Path("bench/results/cost.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = read_settings(store=str(given.store), threads=1, provider="cpu")
    version = load_version(settings, given.product)
    bundle = open_store(settings).store.load_bundle(given.product, version.name)
    graphs = graphs_from_bundle(bundle)
    data = find_images(given.data).good[0].read_bytes()
    peak = {"macs_per_s": matrix_macs_per_s(), "bytes_per_s": copied_bytes_per_s()}
    figures = {
        "peak": {**peak, "kinds": f"product of {MATRIX} x {MATRIX} float32, copy of {COPIED_BYTES // 2**20} MiB"},
        "parts": parts(version, graphs, data, peak),
        "request_ms": request(version, data),
    }
    text = json.dumps(figures, indent=1) + "\n"
    print(text, end="")
    replace_file(given.json, text.encode())


def matrix_macs_per_s() -> float:
    """Multiply-adds a second of a matrix product."""
    left, right = torch.rand(MATRIX, MATRIX), torch.rand(MATRIX, MATRIX)
    return MATRIX**3 / (median_ms(lambda: left @ right, RUNS) / 1000)


def copied_bytes_per_s() -> float:
    """Bytes read and written a second by a copy."""
    source = np.ones(COPIED_BYTES, np.uint8)
    target = np.empty_like(source)
    return 2 * COPIED_BYTES / (median_ms(lambda: np.copyto(target, source), 10) / 1000)


def parts(version: Version, graphs: Graphs, data: bytes, peak: Mapping[str, float]) -> dict[str, Any]:
    """Each graph: what it costs, how long it takes, what share of the peak that is, and where the rest goes."""
    manifest = version.manifest
    sizes = [f"height={manifest.input.height}", f"width={manifest.input.width}"]
    described = read_train_settings(None, [f"teacher={manifest.teacher.name}", *sizes])
    macs = {network.name: network.macs for network in describe_networks(described)}
    image = decode(data, manifest.input, max_pixels=MAX_PIXELS)
    batch = make_batch([image], map_size=manifest.map_size, roi=version.roi)
    feeds: dict[str, Any] = {"image": batch.pixels, "valid": batch.valid}
    costs = {}
    for name, graph in (("teacher", graphs.teacher), ("student", graphs.student), ("comparison", graphs.compare)):
        session = profile(graph)
        given = {one.name: feeds[one.name] for one in session.get_inputs()}
        names = [one.name for one in session.get_outputs()]
        feeds.update(zip(names, session.run(names, given), strict=True))
        spent_ms = median_ms(lambda session=session, given=given: session.run(None, given), RUNS)
        moved_bytes = (
            len(graph) + sum(array.nbytes for array in given.values()) + sum(feeds[one].nbytes for one in names)
        )
        costs[name] = {
            "multiply_adds": macs[name],
            "bytes": moved_bytes,
            "ms": round(spent_ms, 2),
            "share_of_peak": round(macs[name] / peak["macs_per_s"] / (spent_ms / 1000), 3),
            "share_of_copy": round(moved_bytes / peak["bytes_per_s"] / (spent_ms / 1000), 3),
            "operators_ms": operators(session),
        }
    return costs


def profile(graph: bytes) -> ort.InferenceSession:
    """Run the graph as the service does at one thread, with a profile."""
    options = make_session_options(Device("cpu", 1))
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(tempfile.mkdtemp()) / "profile")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def operators(session: ort.InferenceSession) -> dict[str, float]:
    """Milliseconds a run by kind of operator, the median of each node; those that take most."""
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            nodes.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"] / 1000)
    spent: Counter[str] = Counter()
    for (kind, _), times in nodes.items():
        spent[kind] += statistics.median(times)
    return {kind: round(ms, 2) for kind, ms in spent.most_common(MAX_OPERATORS)}


def request(version: Version, data: bytes) -> dict[str, float]:
    """What each step of a request takes, in milliseconds: but for the line between the client and the service."""
    manifest = version.manifest
    image = decode(data, manifest.input, max_pixels=MAX_PIXELS)
    batch = make_batch([image], map_size=manifest.map_size, roi=version.roi)
    detector = version.detector
    seen = detector.extract(batch)
    reconstruction = detector.reconstruct(seen)
    comparison = infer(batch, version)
    map_ = standardise_map(comparison.map, batch.valid[0], version)
    inspection = inspect(data, version, max_pixels=MAX_PIXELS, options=InspectOptions(heatmap="png"))
    answer = InspectionResponse.from_inspection(inspection, inspection_id="0" * 32, request_id="0" * 32, part_id=None)
    shown = inspection.heatmap.data if inspection.heatmap else b""
    steps = {
        "decode": lambda: decode(data, manifest.input, max_pixels=MAX_PIXELS),
        "batch": lambda: make_batch([image], map_size=manifest.map_size, roi=version.roi),
        "teacher": lambda: detector.extract(batch),
        "student": lambda: detector.reconstruct(seen),
        "comparison": lambda: detector.compare_features(seen, reconstruction, batch),
        "heat-map": lambda: render(map_, image, kind="png"),
        "base64": lambda: base64.b64encode(shown).decode(),
        "JSON": answer.model_dump_json,
        "all by judge()": lambda: inspect(data, version, max_pixels=MAX_PIXELS, options=InspectOptions(heatmap="png")),
    }
    return {name: round(median_ms(step, RUNS), 3) for name, step in steps.items()}


if __name__ == "__main__":
    main()
