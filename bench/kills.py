"""kill -9 at random moments: of a process that publishes, fifty times, and of the service under load.

python bench/kills.py --store STORE --data DIR --product NAME --json bench/results/kills.json
"""

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from loading.client import Outcome, line_to, poisson
from loading.served import serve

from app.store.state import State
from app.store.store import Store
from training.data.dataset import find_images

NUM_KILLS, NUM_RESTARTS = 50, 5
RATE_PER_S = 10.0
PUBLISHER = """
import itertools, sys
from datetime import UTC, datetime
from pathlib import Path
from app.store.state import State
from app.store.store import Store

root, product, first = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store, state = Store(root), State(root / "state")
bundle = store.load_bundle(product, state.read_current(product).version)
print("go", flush=True)
for number in itertools.count(first):
    manifest = bundle.manifest.model_copy(update={"fingerprint": f"{number:064x}"}).model_dump_json().encode()
    version = store.publish(product, manifest=manifest, files=bundle.files, training={"settings.json": b"{}"})
    state.activate(product, version, at=datetime.now(UTC), by="kills", why="bench")
"""


def main() -> None:
    """Kill, look, print, write JSON; exit code 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="its product gets many versions")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--product", required=True)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    images = tuple(sample.path.read_bytes() for sample in find_images(given.data).test)
    figures = {
        **asyncio.run(publishers_killed(given.store, given.product, images)),
        **asyncio.run(services_killed(given.store, given.product, images)),
    }
    text = json.dumps(figures, indent=1) + "\n"
    print(text, end="")
    if given.json:
        given.json.write_text(text)
    if figures["broken_versions"] or figures["publish_failed_requests"] or figures["restarts_with_another_answer"]:
        sys.exit("something was lost")


async def publishers_killed(root: Path, product: str, images: tuple[bytes, ...]) -> dict[str, float]:
    """Processes that publish and activate are killed while the service judges by what they leave."""
    store, generator = Store(root), np.random.default_rng(0)
    broken = 0
    with serve(root, processor=0, refresh_interval_s=0.2) as service:
        async with line_to(service.address, product, images) as line:
            outcomes: list[Outcome] = []
            for kill in range(NUM_KILLS):
                load = asyncio.ensure_future(poisson(line, rate=RATE_PER_S, seconds=0.6, seed=kill))
                await asyncio.to_thread(publish_and_kill, root, product, kill, generator.uniform(0, 0.5))
                outcomes += await load
                broken += sum(not is_whole(store, product, version) for version in store.list_versions(product))
        standing = service.ask(f"/v1/products/{product}")
    current = State(root / "state").read_current(product)
    return {
        "publish_kills": NUM_KILLS,
        "versions_left": len(store.list_versions(product)),
        "broken_versions": broken,
        "publish_requests": len(outcomes),
        "publish_failed_requests": sum(outcome.status != 200 for outcome in outcomes),
        "serves_what_is_activated": float(current is not None and standing["serving"] == current.version),
    }


def publish_and_kill(root: Path, product: str, kill: int, after_s: float) -> None:
    """A process that publishes one version after the other, for so long."""
    command = [sys.executable, "-c", PUBLISHER, str(root), product, str(kill * 10**6 + time.time_ns())]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        if process.stdout is not None:
            process.stdout.readline()
        time.sleep(after_s)
        process.kill()


def is_whole(store: Store, product: str, version: str) -> bool:
    """Whether every byte of a version is what was published."""
    try:
        store.load_bundle(product, version)
    except Exception as error:  # noqa: BLE001  # whatever it is, the version is not whole
        print(f"{version}: {error}", file=sys.stderr)
        return False
    return True


async def services_killed(root: Path, product: str, images: tuple[bytes, ...]) -> dict[str, float]:
    """The service is killed under load and started again: how long until it is ready, and whether it judges alike."""
    spent_s, others = [], 0
    with serve(root, processor=0) as service:
        service.ask(f"/v1/products/{product}/threshold", method="PUT", members={"false_alarm_rate": 0.1, "by": "kills"})
        before = service.ask(f"/v1/products/{product}")
    for seed in range(NUM_RESTARTS):
        with serve(root, processor=0) as service:
            async with line_to(service.address, product, images) as line:
                load = asyncio.ensure_future(poisson(line, rate=RATE_PER_S, seconds=1, seed=seed))
                await asyncio.sleep(0.7)
                service.process.send_signal(signal.SIGKILL)
                await load
        began = time.perf_counter()
        with serve(root, processor=0) as service:
            spent_s.append(time.perf_counter() - began)
            after = service.ask(f"/v1/products/{product}")
            others += any(after[member] != before[member] for member in ("serving", "threshold", "threshold_from"))
    return {
        "service_kills": NUM_RESTARTS,
        "ready_again_s": statistics.median(spent_s),
        "restarts_with_another_answer": others,
    }


if __name__ == "__main__":
    main()
