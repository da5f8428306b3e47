"""Requests and seconds of one refresh of the registry, over an S3 server in this process, by number of products.

``python bench/refresh.py`` prints a table and writes ``bench/results/refresh.json``. Nothing changes between refreshes,
as on a line that runs.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from moto.server import ThreadedMotoServer

from app.bootstrap import OpenStore, open_store_at
from app.inference.registry import ModelRegistry
from app.inference.sessions import Device
from app.inference.version import Loader
from app.store.store import Bundle, Store

FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "format1"
RESULTS = Path(__file__).parent / "results" / "refresh.json"
NUM_REFRESHES = 20
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


class RequestCounter:
    """Counts the calls of a file system's methods that send a request."""

    METHODS = ("cat_file", "ls", "find", "info", "pipe_file")

    def __init__(self, files: object) -> None:
        self.num_calls = 0
        for name in self.METHODS:
            setattr(files, name, self._count(getattr(files, name)))

    def _count(self, call):  # noqa: ANN001, ANN202  # fsspec has no types
        def count_call(*given, **options):  # noqa: ANN002, ANN003, ANN202
            self.num_calls += 1
            return call(*given, **options)

        return count_call


def publish(stored: OpenStore, bundle: Bundle, *, product: str) -> None:
    """Publish the fixture's version as another product, and activate it."""
    manifest = bundle.manifest.model_copy(update={"product": product}).model_dump_json().encode()
    stored.store.add_teacher(bundle.manifest.teacher.sha256, bundle.teacher)
    version = stored.store.publish(product, manifest=manifest, files=bundle.files, training={})
    stored.state.activate(product, version, at=datetime.now(UTC), by="bench", why="published")


def measure(url: str, *, num_products: int, local: Path) -> dict[str, float]:
    """Return requests and seconds of one refresh, the median of many."""
    stored = open_store_at(url, None, local=local)
    store = Store(FIXTURE)
    bundle = store.load_bundle("disc", store.list_versions("disc")[0])
    for number in range(num_products):
        publish(stored, bundle, product=f"part{number:03}")
    version = Loader(Device("cpu", 1)).load(bundle)
    registry = ModelRegistry(store=stored.store, state=stored.state, prepare=lambda _: version)
    registry.refresh()
    counter = RequestCounter(stored.store.root.storage.client.files)  # type: ignore[union-attr]  # not a folder
    seconds = []
    for _ in range(NUM_REFRESHES):
        began = time.perf_counter()
        registry.refresh()
        seconds.append(time.perf_counter() - began)
    requests = counter.num_calls / NUM_REFRESHES
    return {"num_products": num_products, "requests": requests, "seconds": round(statistics.median(seconds), 4)}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, nargs="+", default=[5, 64])
    chosen = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update({**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"})  # what s3fs reads
    import s3fs  # noqa: PLC0415  # after the variables

    rows = []
    for number in chosen.products:
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir(f"line{number}")
        with tempfile.TemporaryDirectory() as local:
            rows.append(measure(f"s3://line{number}/parts", num_products=number, local=Path(local)))
            print(rows[-1])
    server.stop()
    RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
