"""How long one image takes through teacher, student and comparison in ONNX Runtime, and what each costs.

The graphs are those that a training with these settings exports, with a memory of random items: time does not depend
on what is remembered. Times are medians; each part is also given as a ratio to the teacher in the same run, since
machines differ and are noisy.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from app.inference.detector import Batch, Detector, Graphs
from app.inference.sessions import Device, choose_device
from app.inference.version import Loader
from training.export.onnx import export_graphs
from training.fit.networks import create_networks
from training.model_info import describe_networks
from training.settings import TrainSettings, read_train_settings

WARM_UP = 5
PARTS = ("teacher", "student", "comparison")


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a training setting")
    parser.add_argument("--runs", type=int, default=50, help="images a median is taken of")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads to measure with")
    parser.add_argument("--provider", default="cpu", help="auto, cuda, tensorrt or cpu")
    parser.add_argument("--out", type=Path, default=Path("bench/results/latency.json"))
    given = parser.parse_args()
    settings = read_train_settings(None, given.set)
    macs = {network.name: network.macs for network in describe_networks(settings)}
    rows = [
        {"threads": threads, **measure(settings, choose_device(given.provider, num_threads=threads), runs=given.runs)}
        for threads in given.threads
    ]
    result = {
        "settings": {"teacher": settings.teacher, "strides": settings.strides, "height": settings.height},
        "provider": given.provider,
        "runs": given.runs,
        "processor": platform.processor() or platform.machine(),
        "multiply_adds": macs,
        "rows": rows,
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print_table(macs, rows)


def measure(settings: TrainSettings, device: Device, *, runs: int) -> dict[str, float]:
    """Return median milliseconds of each part and in total, on this device."""
    detector, batch = open_detector(settings, device)
    seen = detector.extract(batch)
    reconstruction = detector.reconstruct(seen)
    times = {
        "teacher_ms": median_ms(lambda: detector.extract(batch), runs),
        "student_ms": median_ms(lambda: detector.reconstruct(seen), runs),
        "comparison_ms": median_ms(lambda: detector.compare_features(seen, reconstruction, batch), runs),
        "whole_ms": median_ms(lambda: detector.run(batch), runs),
    }
    return {**times, "student_to_teacher": times["student_ms"] / times["teacher_ms"]}


def open_detector(settings: TrainSettings, device: Device) -> tuple[Detector, Batch]:
    """Return the exported graphs and one image of noise."""
    graphs, batch = export(settings)
    return Loader(device).open_detector(graphs), batch


def export(settings: TrainSettings) -> tuple[Graphs, Batch]:
    """Export a training with these settings; return it with one image of noise."""
    torch.manual_seed(settings.seed)
    networks = create_networks(settings)
    pixels = torch.randint(0, 256, (2, settings.height, settings.width, 3), dtype=torch.uint8)
    graphs = export_graphs(networks.teacher, networks.student, networks.compare, pixels)
    return graphs, Batch(pixels[:1].numpy(), np.ones((1, *settings.map_size), np.float32))


def median_ms(work: Callable[[], object], runs: int) -> float:
    """The median time of a call in milliseconds, warmed up."""
    return statistics.median(times_ms(work, runs))


def times_ms(work: Callable[[], object], runs: int) -> list[float]:
    """The time of each call in milliseconds, warmed up."""
    spent = []
    for _ in range(WARM_UP + runs):
        began = time.perf_counter()
        work()
        spent.append((time.perf_counter() - began) * 1000)
    return spent[WARM_UP:]


def print_table(macs: dict[str, int], rows: list[dict[str, float]]) -> None:
    """A row a part, a column a number of threads."""
    print("part        multiply-adds" + "".join(f"   {row['threads']} thread(s), ms" for row in rows))
    for part in PARTS:
        times = "".join(f"{row[f'{part}_ms']:>18.2f}" for row in rows)
        print(f"{part:<10}  {macs[part]:>13,}{times}")
    print(f"{'whole':<10}  {sum(macs.values()):>13,}" + "".join(f"{row['whole_ms']:>18.2f}" for row in rows))


if __name__ == "__main__":
    main()
