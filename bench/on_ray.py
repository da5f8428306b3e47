"""A plan of products on a Ray cluster of two nodes on this machine, one of which is killed while it trains.

Writes which products were under way, and what came of each; exit code 1 where one is missing. Takes ``goodpart[ray]``.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from ray.cluster_utils import Cluster

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from drawing import write_mvtec
from serving import GOODPART, until

from app.store.files import replace_file

SETTINGS = {
    "height": 64,
    "width": 64,
    "num_recall_items": 300,
    "false_alarm_rate": 0.06,
    "checkpoint_interval_s": 1,
    "memory": {"num_steps": 100},
    "learning": {"num_steps": 300, "batch_size": 4},
}
PATIENCE_S = 900


def main() -> None:
    """Draw products, begin, kill a node, wait for the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--products", type=int, default=4)
    parser.add_argument("--json", type=Path, default=Path("bench/results/ray.json"))
    given = parser.parse_args()
    with TemporaryDirectory() as work:
        figures = measure(Path(work), [f"disc{number}" for number in range(given.products)])
    text = json.dumps(figures, indent=1) + "\n"
    print(text, end="")
    replace_file(given.json, text.encode())
    if figures["finished"] != given.products:
        raise SystemExit(1)


def measure(folder: Path, products: list[str]) -> dict[str, object]:
    """Measure everything."""
    for product in products:
        write_mvtec(folder / product, num_train=60, num_test=1)
    plan, report = folder / "plan.yaml", folder / "report.json"
    entries = {product: {"data": product, "settings": {"seed": seed}} for seed, product in enumerate(products)}
    plan.write_text(yaml.safe_dump({"store": "store", "settings": SETTINGS, "products": entries}))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    began = time.monotonic()
    command = [GOODPART, "train-all", plan, "--ray", cluster.address, "--json", report]
    with subprocess.Popen(command) as training:
        checkpoints = until(lambda: two_checkpoints(folder / "store" / "work"), within_s=PATIENCE_S)
        killed_after_s = time.monotonic() - began
        cluster.remove_node(second, allow_graceful=False)
        training.wait(PATIENCE_S)
    cluster.shutdown()
    outcomes = json.loads(report.read_text())
    return {
        "nodes": 2,
        "products": len(products),
        "under_way_at_the_kill": sorted(checkpoints),
        "killed_after_s": round(killed_after_s, 1),
        "finished": sum(one["version"] is not None for one in outcomes),
        "seconds": round(time.monotonic() - began, 1),
        "outcomes": outcomes,
    }


def two_checkpoints(work: Path) -> set[str]:
    """The products under way, once there are two of them, each with a checkpoint."""
    found = {path.parents[1].name for path in work.glob("*/*/checkpoint*")}
    return found if len(found) >= 2 else set()


if __name__ == "__main__":
    main()
