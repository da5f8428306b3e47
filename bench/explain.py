"""What an explanation costs: judging a test set's images with and without it, in turns, in one process."""

import argparse
import json
import statistics
import time
from pathlib import Path

from app.api.schemas import InspectionResponse
from app.inference.sessions import choose_device
from app.inference.version import Loader
from app.inspection.pipeline import InspectOptions, inspect
from app.store.state import State
from app.store.store import Store
from model.bundle import PATCHES
from training.data.dataset import find_images

MAX_PIXELS = 50_000_000
WISHES = {"plain": InspectOptions(), "explained": InspectOptions(explain=True)}


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder in MVTec layout")
    parser.add_argument("--product", required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/results/explain.json"))
    given = parser.parse_args()
    current = State(given.store / "state").read_current(given.product)
    if current is None:
        parser.error(f"product {given.product} has no active version in {given.store}")
    bundle = Store(given.store).load_bundle(given.product, current.version)
    version = Loader(choose_device("cpu", num_threads=given.threads)).load(bundle)
    defective = [sample.path for sample in find_images(given.data).test if sample.is_defective]
    spent: dict[str, list[float]] = {name: [] for name in WISHES}
    sizes: dict[str, list[int]] = {name: [] for name in WISHES}
    for path in defective[:: max(1, len(defective) // given.images)]:
        data = path.read_bytes()
        for name, wish in WISHES.items():
            began = time.perf_counter()
            inspection = inspect(data, version, max_pixels=MAX_PIXELS, options=wish)
            answer = InspectionResponse.from_inspection(
                inspection, inspection_id="", request_id="", part_id=None
            ).model_dump_json()
            spent[name].append((time.perf_counter() - began) * 1000)
            sizes[name].append(len(answer))
    result = {
        "images": len(spent["plain"]),
        "threads": given.threads,
        "median_ms": {name: statistics.median(values) for name, values in spent.items()},
        "answer_bytes": {name: statistics.mean(values) for name, values in sizes.items()},
        "patches_bytes": len(bundle.files[PATCHES]),
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
