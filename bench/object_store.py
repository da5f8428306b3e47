"""Two services and a trainer on one store on object storage, under load: does anything fail, is anything half?

A real S3 server (moto's), real services with copies of their own, real trainings. Each version must be taken up by both
services; then the storage is away for a minute. Writes ``{versions, taken_up, requests, failed, half, ...}``.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import storage as s3
from drawing import encode, good_part, write_mvtec
from posting import Load
from serving import GOODPART, Service, until

PRODUCT = "disc"
SMALL = ("height=64", "width=64", "num_recall_items=300", "false_alarm_rate=0.1")


def main() -> None:
    """Publish under load, take the storage away, print, write JSON; exit code 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--away-s", type=float, default=60)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    storage = s3.start()
    os.environ.update(storage.environment)
    with TemporaryDirectory() as folder:
        figures = measure(storage, Path(folder), num_versions=given.versions, away_s=given.away_s)
    storage.close()
    text = json.dumps(figures, indent=1) + "\n"
    print(text, end="")
    if given.json:
        given.json.write_text(text)
    if figures["failed"] or figures["half"] or figures["taken_up"] != [given.versions] * 2:
        raise SystemExit(1)


def measure(storage: s3.Storage, work: Path, *, num_versions: int, away_s: float) -> dict[str, object]:
    """Measure everything, on a store of its own."""
    url = f"{storage.new_bucket('line')}/parts"
    data = write_mvtec(work / "data", num_train=40)
    versions = [train(url, data, work, seed=0)]
    ends = threading.Event()
    with Service(url, local=work / "one") as one, Service(url, local=work / "two") as two:
        loads = [Load(service.address, PRODUCT, encode(good_part(7)), ends) for service in (one, two)]
        threads = [load.start() for load in loads]
        delays = [taken_up(loads, versions[0])]
        for seed in range(1, num_versions):
            versions.append(train(url, data, work, seed=seed))
            delays.append(taken_up(loads, versions[-1]))
            print(f"{seed + 1} of {num_versions}: {versions[-1]}, taken up after {delays[-1]:.1f} s", flush=True)
        began = time.monotonic()
        with storage.inject(off=True):
            time.sleep(away_s)
        during = [sum(began <= one.at <= began + away_s for one in load.answers) for load in loads]
        until(lambda: all(not service.client.get("/readyz").json()["reasons"] for service in (one, two)))
        ends.set()
        for thread in threads:
            thread.join()
    names = [load.versions for load in loads]
    scores = {(one.version, one.score) for load in loads for one in load.answers}
    return {
        "versions": len(set(versions)),
        "taken_up": [len(seen & set(versions)) for seen in names],
        "requests": sum(load.num_requests for load in loads),
        "failed": sum(len(load.failed) for load in loads),
        "failures": [*{failure for load in loads for failure in load.failed}][:5],
        # A version that was never published, or one that gave the same part two scores.
        "half": len(scores) - len(set(versions)) if set.union(*names) <= set(versions) else len(scores),
        "storage_away_s": away_s,
        "requests_while_away": sum(during),
        "s_after_the_trainer_ended": {"median": sorted(delays)[len(delays) // 2], "most": max(delays)},
        "requests_to_storage": storage.num_requests,
    }


def train(url: str, data: Path, work: Path, *, seed: int) -> str:
    """Train a version by the real command; forced, since one seed may be held back beside another."""
    chosen = [word for setting in (*SMALL, f"seed={seed}") for word in ("--set", setting)]
    command = [GOODPART, "train", "--quick", "--data", data, "--product", PRODUCT, "--store", url, "--local"]
    done = subprocess.run(
        [*command, work / "trainer", "--force", "bench", *chosen], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return done.stdout.strip()


def taken_up(loads: list[Load], version: str) -> float:
    """Seconds until every client has had an answer from a version."""
    began = time.monotonic()
    until(lambda: all(version in load.versions for load in loads))
    return round(time.monotonic() - began, 2)


if __name__ == "__main__":
    main()
