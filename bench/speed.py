"""How fast goodpart is beside what a user would pick instead: anomalib's models, each in every form that it offers.

    make speed

One run, one machine, the same decoded images. Each turn is a process of its own that loads one candidate, judges once,
warms up, then measures from decoded images to maps and scores. In each round every candidate has its turn, so that
noise hits all alike, and ratios compare turns of the same round. Without --store, a product is drawn and learned first.
The peers' weights are random, which does not change how long they take; ``bench/peers/`` says what they are.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from load import create_store
from peers.candidates import GOODPART, PEERS_PYTHON, Candidate, goodparts, peers, select
from peers.rows import Measured, Row, Setting, make_rows, print_table, round_row
from peers.timing import BATCHES, SIZE_PX
from PIL import Image as Pillow

from training.data.dataset import find_images

BENCH = Path(__file__).parent.resolve()
NUM_IMAGES = 16
QUICK_TURN_S = 0.3


@dataclass(frozen=True)
class Plan:
    """Who is measured how often, on which images."""

    candidates: Sequence[Candidate]
    settings: Sequence[Setting]
    images: Path
    rounds: int
    turn_s: float


def main() -> None:
    """Measure, print a table, write JSON; after each round anew, so that a run that is ended leaves what it has."""
    given = arguments()
    others = peers()
    facts = collect_facts(given)
    with TemporaryDirectory() as name:
        plan = make_plan(given, Path(name), others)
        rows: list[Row] = []
        for num_rounds, rows in enumerate(measure(plan), start=1):
            if given.json:
                members = {**facts, "rounds": num_rounds, "rows": [round_row(row) for row in rows]}
                given.json.write_text(json.dumps(members, indent=1) + "\n")
    print_table(rows)


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of short turns, to see that everything works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn-s", type=float, default=2.0, help="seconds that a turn measures")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", choices=BATCHES, default=BATCHES)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="names or forms of candidates; all if none"
    )
    parser.add_argument("--store", type=Path, help="a store with an active version of the product")
    parser.add_argument("--data", type=Path, help="a data set whose test images are judged; goes with --store")
    parser.add_argument("--product", default="flange")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.turn_s = 1, QUICK_TURN_S
    if (given.store is None) != (given.data is None):
        parser.error("--store and --data go together")
    return given


def make_plan(given: argparse.Namespace, folder: Path, others: Sequence[Candidate]) -> Plan:
    """Return the plan, and write what it needs into the folder."""
    store = given.store or create_store(folder, product=given.product)
    candidates = [*goodparts(store, given.product, folder / GOODPART), *others]
    return Plan(
        candidates=select(candidates, given.only),
        settings=[Setting(threads, batch) for threads in given.threads for batch in given.batch],
        images=write_images(given.data or folder / "data", folder / "images.npy"),
        rounds=given.rounds,
        turn_s=given.turn_s,
    )


def write_images(data: Path, file: Path) -> Path:
    """Write decoded test images at the size of all candidates, uint8 (images, height, width, 3), to a file."""
    paths = [sample.path for sample in find_images(data).test]
    spread = [paths[index * len(paths) // NUM_IMAGES] for index in range(NUM_IMAGES)]
    np.save(file, np.stack([Pillow.open(path).convert("RGB").resize((SIZE_PX, SIZE_PX)) for path in spread]))
    return file


def measure(plan: Plan) -> Iterator[list[Row]]:
    """Yield the rows after each round: a row a candidate and setting, the fastest of a setting first."""
    turns: dict[Setting, list[list[Measured]]] = {setting: [] for setting in plan.settings}
    for round_index in range(plan.rounds):
        for setting in plan.settings:
            print(f"round {round_index + 1} of {plan.rounds}, {setting}", file=sys.stderr, flush=True)
            turns[setting].append([run_turn(one, setting, plan) for one in plan.candidates])
        rows = [row for setting in plan.settings for row in make_rows(plan.candidates, setting, turns[setting])]
        yield sorted(rows, key=lambda row: (row.threads, row.batch, row.p50_ms))


def run_turn(one: Candidate, setting: Setting, plan: Plan) -> Measured:
    """Run one turn on a number of processors."""
    processors = sorted(os.sched_getaffinity(0))[: setting.threads]
    command = ["taskset", "--cpu-list", ",".join(map(str, processors)), one.python, "-m", one.program]
    command += ["--folder", one.list_deployed(setting.batch), "--form", one.form, "--images", plan.images]
    command += ["--threads", setting.threads, "--batch", setting.batch, "--seconds", plan.turn_s]
    began_s = time.monotonic()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=BENCH)
    if done.returncode:
        sys.exit(f"{one.name} in {one.form} failed: {done.stderr[-2000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    return Measured(said["spent_ms"], said["peak_mb"], start_s=said["ready_at_s"] - began_s)


def collect_facts(given: argparse.Namespace) -> dict[str, object]:
    """Return what is measured, and on which machine."""
    return {
        "machine": machine(),
        "versions": {GOODPART: version("goodpart"), "onnxruntime": version("onnxruntime")},
        "peers": {"weights": "random", **peers_facts()},
        "size_px": SIZE_PX,
        "num_images": NUM_IMAGES,
        "turn_s": given.turn_s,
    }


def machine() -> dict[str, object]:
    """The processor, and how busy it was when the run began."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = said.get("flags", "").split()
    return {
        "processor": said.get("model name", platform.machine()),
        "processors": len(os.sched_getaffinity(0)),
        "vector": [flag for flag in flags if flag.startswith(("avx", "amx"))],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def peers_facts() -> dict[str, str]:
    """What runs in the environment of the peers."""
    done = subprocess.run([PEERS_PYTHON, "-m", "peers.facts"], capture_output=True, check=True, cwd=BENCH)
    facts: dict[str, str] = json.loads(done.stdout)
    return facts


if __name__ == "__main__":
    main()
