"""How costs grow: with image size, memory items, products loaded, training images and clients. A figure each.

Writes the points and, for each, the exponent of the power law that fits them best, and draws both into docs/images/.
"""

import argparse
import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from latency import export, median_ms, open_detector
from load import GOODPART
from loading.client import Outcome, line_to, run_closed_loop
from loading.served import serve
from many_images import vary
from matplotlib.figure import Figure

from app.inference.sessions import Device, available_cpus
from app.inference.version import Loader
from app.store.files import replace_file
from training.data.dataset import find_images
from training.settings import read_train_settings

RUNS = 25
PHASE_S = 8.0
FIGURES = Path(__file__).parents[1] / "docs" / "images"
ONE_THREAD = Device("cpu", 1)


@dataclass(frozen=True)
class Growth:
    """One cost by what it grows with."""

    name: str
    by: str
    cost: str
    points: Sequence[tuple[float, float]]

    @property
    def exponent(self) -> float:
        """Of the power law that fits best: 1 is proportional, 0 is constant."""
        x, y = np.log(np.array(self.points)).T
        return float(np.polyfit(x, y, 1)[0])

    @property
    def per_unit(self) -> float:
        """What one more costs, by the straight line that fits best."""
        x, y = np.array(self.points).T
        return float(np.polyfit(x, y, 1)[0])


def main() -> None:
    """Measure, draw, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder whose good images are learned")
    parser.add_argument("--store", type=Path, required=True, help="a store with an active version of the product")
    parser.add_argument("--product", required=True)
    parser.add_argument("--json", type=Path, default=Path("bench/results/growth.json"))
    given = parser.parse_args()
    growths = [
        Growth("image_size", "side of the image, px", "ms an image", list(by_size())),
        Growth("memory_items", "items of the recall memory", "ms an image", list(by_items())),
        Growth("products", "products loaded", "MB of memory", list(by_products())),
        Growth("training_images", "good images", "s of a quick training", list(by_training_images(given.data))),
        Growth("clients", "clients", "images a second", list(by_clients(given.data, given.store, given.product))),
    ]
    for growth in growths:
        draw(growth)
    laws = {
        one.name: {
            "by": one.by,
            "cost": one.cost,
            "points": [[x, round(y, 3)] for x, y in one.points],
            "exponent": round(one.exponent, 2),
            "per_unit": float(f"{one.per_unit:.3g}"),
        }
        for one in growths
    }
    text = json.dumps({"processors": available_cpus(), "growth": laws}, indent=1) + "\n"
    replace_file(given.json, text.encode())
    print(text)


def by_size() -> Iterator[tuple[float, float]]:
    """The three graphs at one thread, by the side of a square image."""
    for side in (128, 192, 256, 384, 512):
        yield side, judged_ms(f"height={side}", f"width={side}")


def by_items() -> Iterator[tuple[float, float]]:
    """The same at 256 pixels, by the number of items."""
    for number in (500, 1000, 2000, 4000, 8000, 16000):
        yield number, judged_ms(f"num_recall_items={number}")


def judged_ms(*assignments: str) -> float:
    """Milliseconds an image takes at one thread with these settings."""
    detector, batch = open_detector(read_train_settings(None, assignments), ONE_THREAD)
    return median_ms(lambda: detector.run(batch), RUNS)


def by_products() -> Iterator[tuple[float, float]]:
    """Memory of this process with so many products open, which share a teacher, over that with none."""
    graphs, batch = export(read_train_settings(None, []))
    loader, opened = Loader(ONE_THREAD), []
    before_mb = rss_mb()
    for number in (4, 8, 16, 32, 64):
        while len(opened) < number:
            opened.append(loader.open_detector(graphs))
            opened[-1].run(batch)
        yield number, rss_mb() - before_mb


def rss_mb() -> float:
    """The memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def by_training_images(data: Path) -> Iterator[tuple[float, float]]:
    """Seconds of `train --quick`, by the number of good images."""
    good = find_images(data).good
    with TemporaryDirectory() as name:
        for number in (100, 200, 400):
            images = Path(name) / str(number)
            vary(good, images, number)
            command = [GOODPART, "train", "--quick", "--data", images, "--product", f"p{number}", "--no-activate"]
            began = time.monotonic()
            subprocess.run(
                [*command, "--store", Path(name) / "store", "--set", "false_alarm_rate=0.05"],
                check=True,
                stderr=subprocess.DEVNULL,
            )
            yield number, time.monotonic() - began


def by_clients(data: Path, store: Path, product: str) -> Iterator[tuple[float, float]]:
    """Images a second through the service, by the number of clients that each wait for their answer."""
    images = [image.read_bytes() for image in find_images(data).good[:32]]
    with serve(store) as running:
        for number in (1, 2, 4, 8, 16):
            yield number, asyncio.run(images_per_s(running.address, product, images, number))


async def images_per_s(address: str, product: str, images: Sequence[bytes], num_clients: int) -> float:
    """What so many clients get."""
    async with line_to(address, product, images) as line:
        await run_closed_loop(line, num_clients=num_clients, seconds=1.0)
        outcomes: list[Outcome] = await run_closed_loop(line, num_clients=num_clients, seconds=PHASE_S)
    return sum(outcome.is_good for outcome in outcomes) / PHASE_S


def draw(growth: Growth) -> None:
    """The points and the law, on two logarithmic axes."""
    figure = Figure(figsize=(4.2, 3.0), dpi=110, layout="constrained")
    axes = figure.subplots()
    x, y = np.array(growth.points).T
    law = np.exp(np.mean(np.log(y) - growth.exponent * np.log(x))) * x**growth.exponent
    axes.loglog(x, y, "o", color="#1a56b0")
    axes.loglog(x, law, "-", color="#737b88", label=f"exponent {growth.exponent:.2f}")
    axes.set_xticks(x, [f"{value:g}" for value in x])
    axes.minorticks_off()
    ticks = np.unique(np.round(np.geomspace(y.min(), y.max(), 4), 1))
    axes.set_yticks(ticks, [f"{value:g}" for value in ticks])
    axes.set_xlabel(growth.by)
    axes.set_ylabel(growth.cost)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / f"growth-{growth.name.replace('_', '-')}.png")


if __name__ == "__main__":
    main()
