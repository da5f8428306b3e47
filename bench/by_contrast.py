"""How many defects of the sample product a version finds, by kind and contrast, from the report of its training."""

import argparse
import json
from collections import defaultdict
from pathlib import Path

from app.store.state import State
from app.store.store import Store
from training.demo.sample_data import CONTRASTS, DEFECTS


def main() -> None:
    """Print a table, found of drawn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what goodpart sample-data drew")
    parser.add_argument("--product", required=True)
    parser.add_argument("--store", type=Path, required=True)
    given = parser.parse_args()
    current = State(given.store / "state").read_current(given.product)
    if current is None:
        parser.error(f"product {given.product} has no active version in {given.store}")
    report = json.loads(Store(given.store).load_bundle(given.product, current.version).files["metrics.json"])
    contrasts = {row["path"]: row["contrast"] for row in json.loads((given.data / DEFECTS).read_text())}
    found: dict[tuple[str, float], list[bool]] = defaultdict(list)
    for row in report["test_scores"]:
        if row["kind"] != "good":
            found[row["kind"], contrasts[row["path"]]].append(row["verdict"] == "ng")
    print(f"{'kind':<18}" + "".join(f"{contrast:>8}" for contrast in CONTRASTS))
    for kind in sorted({kind for kind, _ in found}):
        cells = [found[kind, contrast] for contrast in CONTRASTS]
        print(f"{kind:<18}" + "".join(f"{f'{sum(cell)}/{len(cell)}':>8}" for cell in cells))
    print(f"good parts judged ng: {report['false_alarm_rate']:.1%}; image AUROC {report['image_auroc']:.4f}")


if __name__ == "__main__":
    main()
