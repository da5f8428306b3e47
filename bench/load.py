"""What the service does under load: goodput when overloaded, recovery, its own overhead, version switches.

The service runs in a process of its own on processor 0, the generator here on processor 1. Requests come at random
moments (open-loop Poisson) and carry a deadline. Goodput is verdicts within their deadline, a second.

    python bench/load.py --quick --json bench/results/load.json

Without --store, a product is drawn and learned first, as ``goodpart sample-data`` and ``goodpart train --quick`` do.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from loading.client import DEADLINE_S, Line, Outcome, line_to, poisson, probing, run_closed_loop
from loading.engine import engine_ratio
from loading.served import GOODPART, Served, serve

from app.inference.sessions import Device
from app.inference.version import Loader
from app.store.state import State
from app.store.store import Store
from training.data.dataset import find_images

SERVICE_PROCESSOR, GENERATOR_PROCESSOR = 0, 1
OVERLOAD = 3.0
NUM_SWITCHES = 100
WINDOW_S = 1.0
STEPS = ("decode", "inference", "render")
Figures = dict[str, float | int | str | None]


@dataclass(frozen=True)
class Plan:
    """What is loaded, by what, and how long a phase takes."""

    store: Path
    product: str
    images: tuple[bytes, ...]
    phase_s: float


def main() -> None:
    """Measure, print, write JSON."""
    given = arguments()
    os.sched_setaffinity(0, {GENERATOR_PROCESSOR})
    with TemporaryDirectory() as folder:
        store = given.store or create_store(Path(folder), product=given.product)
        data = given.data or Path(folder) / "data"
        images = tuple(sample.path.read_bytes() for sample in find_images(data).test)
        plan = Plan(store, given.product, images, phase_s=10 if given.quick else 60)
        figures = {**facts(plan, quick=given.quick), **measure(plan)}
    text = json.dumps(figures, indent=1) + "\n"
    print(text, end="")
    if given.json:
        given.json.write_text(text)


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter phases; ends within five minutes")
    parser.add_argument("--store", type=Path, help="a store with an active version of the product")
    parser.add_argument("--data", type=Path, help="its data set, whose test images are posted; goes with --store")
    parser.add_argument("--product", default="flange")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if (given.store is None) != (given.data is None):
        parser.error("--store and --data go together")
    return given


def create_store(folder: Path, *, product: str) -> Path:
    """Create a store with a quick version of the sample product."""
    data, store = folder / "data", folder / "store"
    subprocess.run([GOODPART, "sample-data", data], check=True, stdout=sys.stderr)
    # A hundred parts can promise no less.
    command = [GOODPART, "train", "--quick", "--data", data, "--product", product, "--store", store]
    command += ["--set", "false_alarm_rate=0.05"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return store


def facts(plan: Plan, *, quick: bool) -> Figures:
    """What was measured, and on what."""
    sizes = [len(image) for image in plan.images]
    return {
        "quick": quick,
        "processor": platform.processor() or platform.machine(),
        "image_bytes_median": int(np.median(sizes)),
        "deadline_s": DEADLINE_S,
        "phase_s": plan.phase_s,
    }


def measure(plan: Plan) -> Figures:
    """Return every figure."""
    figures = engine_figures(plan)
    with serve(plan.store, processor=SERVICE_PROCESSOR) as service:
        figures |= asyncio.run(measure_sustained(plan, service))
        rate = float(figures["sustainable_per_s"] or 0)
        figures |= asyncio.run(measure_overload(plan, service, rate=rate))
        figures |= asyncio.run(measure_recovery(plan, service, rate=rate))
    with serve(plan.store, processor=SERVICE_PROCESSOR, stub=True) as service:
        figures |= asyncio.run(overhead(plan, service, rate=0.7 * rate))
    with serve(plan.store, processor=SERVICE_PROCESSOR) as service:
        figures |= asyncio.run(measure_switches(plan, service, rate=0.4 * rate))
    return figures


def engine_figures(plan: Plan) -> Figures:
    """Queue and batcher beside bare graphs, in this process, on one thread."""
    current = State(plan.store / "state").read_current(plan.product)
    if current is None:
        sys.exit(f"product {plan.product} has no active version in {plan.store}")
    version = Loader(Device("cpu", 1)).load(Store(plan.store).load_bundle(plan.product, current.version))
    per_round = 16 if plan.phase_s < 60 else 48
    figures: Figures = dict(engine_ratio(version, plan.images[:16], per_round=per_round, max_batch=1))
    batched = engine_ratio(version, plan.images[:16], per_round=per_round, max_batch=4)
    return {**figures, "engine_ratio_batches_of_4": batched["engine_ratio"]}


async def measure_sustained(plan: Plan, service: Served) -> Figures:
    """Measure the maximum rate with four clients that wait for their answers, and the cost of a request."""
    async with line_to(service.address, plan.product, plan.images) as line:
        await run_closed_loop(line, num_clients=2, seconds=2)
        before_s = service.cpu_s()
        alone = await run_closed_loop(line, num_clients=1, seconds=plan.phase_s / 3)
        spent_ms = 1000 * (service.cpu_s() - before_s) / len(alone)
        outcomes = await run_closed_loop(line, num_clients=4, seconds=plan.phase_s / 2)
    # One client alone: nothing else runs while a step does, so its time is processor time.
    parts = {step: float(np.mean([one.timings_ms[step] for one in alone])) for step in STEPS}
    return {
        "sustainable_per_s": sum(outcome.is_good for outcome in outcomes) / (plan.phase_s / 2),
        "cpu_ms_per_request": spent_ms,
        **{f"cpu_ms_{step}": spent for step, spent in parts.items()},
        "cpu_ms_rest": spent_ms - sum(parts.values()),
    }


async def measure_overload(plan: Plan, service: Served, *, rate: float) -> Figures:
    """Send three times the maximum rate: goodput, retry times and health must hold."""
    probes_s: list[float] = []
    async with line_to(service.address, plan.product, plan.images) as line:
        asking = asyncio.ensure_future(probing(line.session, service.address, probes_s))
        outcomes = await poisson(line, rate=OVERLOAD * rate, seconds=plan.phase_s)
        asking.cancel()
    refused = [outcome for outcome in outcomes if outcome.status in (503, 504)]
    judged = [outcome for outcome in outcomes if outcome.status == 200]
    in_time = [outcome for outcome in judged if outcome.is_good]
    return {
        "offered_per_s": len(outcomes) / plan.phase_s,
        "goodput_ratio": len(in_time) / plan.phase_s / rate,
        "statuses": json.dumps(Counter(outcome.status for outcome in outcomes)),
        "refusals_without_retry_after": sum(one.status == 503 and not one.retry_after for one in refused),
        "other_failures": len(outcomes) - len(judged) - len(refused),
        "latest_answer_after_deadline_ms": max(0.0, 1000 * (max(one.latency_s for one in outcomes) - DEADLINE_S)),
        "refusal_p99_ms": 1000 * quantile([one.latency_s for one in refused], 0.99),
        "livez_p99_ms": 1000 * quantile(probes_s, 0.99),
        "livez_max_ms": 1000 * max(probes_s),
    }


async def measure_recovery(plan: Plan, service: Served, *, rate: float) -> Figures:
    """Let clients retry at three times the maximum rate, then at half of it, and measure the time to recover."""
    async with line_to(service.address, plan.product, plan.images) as line:
        storm = asyncio.ensure_future(poisson(line, rate=OVERLOAD * rate, seconds=plan.phase_s / 2, retrying=True))
        await asyncio.sleep(plan.phase_s / 2)
        calm = await poisson(line, rate=0.5 * rate, seconds=plan.phase_s, seed=1)
        storm.cancel()  # who was sent away last is to come again minutes later
        with suppress(asyncio.CancelledError):
            await storm
    return {"recovery_s": recovery_s(calm), "calm_failures": sum(not outcome.is_good for outcome in calm)}


def recovery_s(outcomes: Sequence[Outcome]) -> float | None:
    """The start of the first window from which on 99 % of the requests are answered well, or None."""
    starts_s = np.arange(0, max(outcome.due_s for outcome in outcomes) - WINDOW_S, WINDOW_S)
    shares = [
        np.mean([one.is_good for one in outcomes if start_s <= one.due_s < start_s + WINDOW_S] or [True])
        for start_s in starts_s
    ]
    well_from = len(shares)
    while well_from > 0 and shares[well_from - 1] >= 0.99:
        well_from -= 1
    return float(starts_s[well_from]) if well_from < len(shares) else None


async def overhead(plan: Plan, service: Served, *, rate: float) -> Figures:
    """What a request takes beside decoding and inference, both of which cost nothing here; and what /livez takes."""
    probes_s: list[float] = []
    async with line_to(service.address, plan.product, plan.images) as line:
        await poisson(line, rate=rate, seconds=2, seed=2)
        outcomes = await poisson(line, rate=rate, seconds=plan.phase_s, seed=3)
        asking = asyncio.ensure_future(probing(line.session, service.address, probes_s))
        await asyncio.sleep(plan.phase_s / 2)
        asking.cancel()
    spent_ms = [1000 * outcome.latency_s - outcome.engine_ms for outcome in outcomes if outcome.status == 200]
    return {
        "overhead_rate_per_s": rate,
        "overhead_p50_ms": quantile(spent_ms, 0.5),
        "overhead_p99_ms": quantile(spent_ms, 0.99),
        "idle_livez_p50_ms": 1000 * quantile(probes_s, 0.5),
    }


async def measure_switches(plan: Plan, service: Served, *, rate: float) -> Figures:
    """Switch between two versions a hundred times under load, without an error or a memory leak."""
    versions = two_versions(plan)
    memory: list[int] = []
    async with line_to(service.address, plan.product, plan.images) as line:
        ended = asyncio.Event()
        loading = asyncio.ensure_future(until(ended, line, rate=rate))
        for number in range(NUM_SWITCHES):
            path = f"/v1/products/{plan.product}/versions/{versions[number % 2]}/activate"
            await asyncio.to_thread(service.ask, path, method="POST")
            memory.append(service.rss_bytes())
        ended.set()
        outcomes = await loading
    return {
        "switches": NUM_SWITCHES,
        "switch_requests": len(outcomes),
        "switch_failures": sum(outcome.status != 200 or outcome.version not in versions for outcome in outcomes),
        "versions_named": len({outcome.version for outcome in outcomes}),
        "rss_after_10_switches_mb": float(np.median(memory[7:12])) / 1e6,
        "rss_after_last_switch_mb": float(np.median(memory[-5:])) / 1e6,
        "rss_growth_ratio": float(np.median(memory[-5:]) / np.median(memory[7:12])),
        "rss_idle_at_end_mb": service.rss_bytes() / 1e6,
    }


def two_versions(plan: Plan) -> tuple[str, str]:
    """The active version, and one alike but for its fingerprint, which is published here."""
    store = Store(plan.store)
    current = State(plan.store / "state").read_current(plan.product)
    bundle = store.load_bundle(plan.product, current.version) if current else sys.exit("no version is active")
    manifest = bundle.manifest.model_copy(update={"fingerprint": f"{os.getpid():064x}"})
    twin = store.publish(plan.product, manifest=manifest.model_dump_json().encode(), files=bundle.files, training={})
    return twin, bundle.version


async def until(ended: asyncio.Event, line: Line, *, rate: float) -> list[Outcome]:
    """Poisson load, second by second, until it is ended; what came of it."""
    outcomes: list[Outcome] = []
    for seed in itertools.count():
        if ended.is_set():
            break
        outcomes += await poisson(line, rate=rate, seconds=1, seed=seed)
    return outcomes


def quantile(values: Sequence[float], share: float) -> float:
    """The value that so large a share lies below; NaN of nothing."""
    return float(np.quantile(values, share)) if values else float("nan")


if __name__ == "__main__":
    main()
