"""A folder of thousands of images scored by ``goodpart score-archive``: undisturbed, and killed again and again.

The images are variations of a data set's good ones. Writes what one image costs, and whether both runs ended with the
same tables.
"""

import argparse
import json
import random
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
from many_images import GOODPART, vary

from app.bootstrap import open_store_at
from app.inference.sessions import available_cpus
from app.store.files import replace_file
from model.bundle import METRICS
from training.data.dataset import find_images

NUM_KILLS = 3


def main() -> None:
    """Make the images, score them twice, compare; exit code 1 where the tables differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder whose good images are varied")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--product", required=True)
    parser.add_argument("--num", type=int, default=5000, help="how many images")
    parser.add_argument("--shard-size", type=int, default=250)
    parser.add_argument("--json", type=Path, default=Path("bench/results/archive.json"))
    given = parser.parse_args()
    chosen = ["--store", given.store, "--product", given.product, "--shard-size", str(given.shard_size)]
    with TemporaryDirectory() as work:
        images, whole, killed = (Path(work) / name for name in ("images", "whole", "killed"))
        vary(find_images(given.data).good, images, given.num)
        began = time.monotonic()
        subprocess.run([GOODPART, "score-archive", images, whole, *chosen], check=True)
        seconds = time.monotonic() - began
        kills = scored_with_kills([GOODPART, "score-archive", images, killed, *chosen], killed)
        is_same = tables(whole) == tables(killed)
        figures = {
            "num_images": given.num,
            "shards": len(tables(whole)),
            "processors": available_cpus(),
            "seconds": round(seconds, 1),
            "images_per_s": round(given.num / seconds, 1),
            "parquet_bytes_per_image": round(sum(path.stat().st_size for path in whole.glob("*.parquet")) / given.num),
            "kills": kills,
            "is_same": is_same,
            **about_version(given.store, given.product),
        }
    text = json.dumps(figures, indent=1) + "\n"
    print(text, end="")
    replace_file(given.json, text.encode())
    if not is_same:
        raise SystemExit(1)


def about_version(store: Path, product: str) -> dict[str, float]:
    """How long the version took to train, what it takes on disk, and what only the trainer keeps of it."""
    stored = open_store_at(store, None)
    current = stored.state.read_current(product)
    name = current.version if current else ""
    served, trained = store / "products" / product / "versions" / name, store / "products" / product / "training" / name
    metrics = json.loads((served / METRICS).read_text())
    return {
        "training_s": metrics["training_s"],
        "version_mb": round(size_bytes(served) / 1e6, 1),
        "training_mb": round(size_bytes(trained) / 1e6, 1),
    }


def size_bytes(folder: Path) -> int:
    """What the files under a folder take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def scored_with_kills(command: list[str | Path], target: Path) -> int:
    """Score, and kill it so many times between two files; how often it was killed while it still ran."""
    chance = random.Random(0)  # noqa: S311  # moments, no secrets
    num_kills = 0
    for _ in range(NUM_KILLS):
        process = subprocess.Popen(command)
        before = len(list(target.glob("part-*.parquet")))
        while process.poll() is None and len(list(target.glob("part-*.parquet"))) < before + 3:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 2))
        num_kills += process.poll() is None
        process.kill()
        process.wait()
    subprocess.run(command, check=True)
    return num_kills


def tables(folder: Path) -> dict[str, object]:
    """Every file of results, as a table."""
    return {path.name: pq.read_table(path) for path in folder.glob("part-*.parquet")}


if __name__ == "__main__":
    main()
