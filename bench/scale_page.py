"""Writes what a million parts a day and a thousand products take into docs/scale.md, from measured unit costs."""

import math
from collections.abc import Iterator
from pathlib import Path

import marks
from marks import results

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"
PARTS_A_DAY, PRODUCTS = 1_000_000, 1000
DAY_S, DAY_H = 86_400, 24
# A line does not bring its parts evenly, and no processor should be busy all the time.
PEAK_TO_MEAN, MAX_BUSY = 3.0, 0.7


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(fill(PAGE.read_text()))


def fill(page: str) -> str:
    """Return the page with its current tables."""
    for name, table in (("unit-costs", unit_costs), ("needs", needs), ("ray", ray)):
        page = marks.fill(page, name, "\n".join(table()))
    return page


def served_per_s() -> float:
    """Images a second that a processor serves over HTTP, clients on the same machine included."""
    growth = results("growth")
    return max(rate for _, rate in growth["growth"]["clients"]["points"]) / growth["processors"]


def scored_per_s() -> float:
    """Images a second that a processor scores out of a folder."""
    archive = results("archive")
    return float(archive["images_per_s"]) / archive["processors"]


def unit_costs() -> Iterator[str]:
    """What one of each costs here."""
    archive, growth = results("archive"), results("growth")["growth"]
    yield "| what | measured | by |"
    yield "| --- | --- | --- |"
    yield f"| images a second and processor, over HTTP | {served_per_s():.1f} | `bench/growth.py` |"
    yield f"| the same, out of a folder | {scored_per_s():.1f} | `bench/archive.py` |"
    yield f"| memory of a product more, MB | {growth['products']['per_unit']:.1f} | `bench/growth.py` |"
    yield f"| a version on disk, MB | {archive['version_mb']:.1f} | `bench/archive.py` |"
    yield f"| what the trainer keeps of it, MB | {archive['training_mb']:.1f} | `bench/archive.py` |"
    yield f"| a training, {archive['processors']} processors, s | {archive['training_s']:.0f} | `bench/archive.py` |"
    yield f"| Parquet of an image, bytes | {archive['parquet_bytes_per_image']} | `bench/archive.py` |"


def needs() -> Iterator[str]:
    """What so many parts and products need, by these costs."""
    archive, growth = results("archive"), results("growth")["growth"]
    mean_per_s = PARTS_A_DAY / DAY_S
    serving = mean_per_s * PEAK_TO_MEAN / served_per_s() / MAX_BUSY
    scoring_h = PARTS_A_DAY / scored_per_s() / 3600
    training_h = PRODUCTS * archive["training_s"] * archive["processors"] / 3600
    memory_gb = PRODUCTS * growth["products"]["per_unit"] / 1000
    disk_gb = PRODUCTS * (archive["version_mb"] + archive["training_mb"]) / 1000
    yield "| what | need |"
    yield "| --- | --- |"
    yield f"| {PARTS_A_DAY:,} parts a day, mean | {mean_per_s:.1f} a second |"
    yield f"| processors to serve {PEAK_TO_MEAN:g} times that, {MAX_BUSY:.0%} busy | {serving:.1f} |"
    yield f"| processor hours to score as many again out of an archive | {scoring_h:.1f} |"
    yield f"| Parquet of these, GB | {PARTS_A_DAY * archive['parquet_bytes_per_image'] / 1e9:.2f} |"
    yield f"| memory to have {PRODUCTS:,} products loaded at once, GB | {memory_gb:.1f} |"
    yield f"| a version of each on disk, GB | {disk_gb:.1f} |"
    yield f"| processor hours to train {PRODUCTS:,} products | {training_h:.0f} |"
    yield f"| the same in a night of {DAY_H // 3} h, processors | {math.ceil(training_h / (DAY_H / 3))} |"


def ray() -> Iterator[str]:
    """What came of a plan while a node was killed."""
    told = results("ray")
    yield "| product | under way at the kill | what | minutes of its last try |"
    yield "| --- | --- | --- | --- |"
    for one in told["outcomes"]:
        was = "yes" if one["product"] in told["under_way_at_the_kill"] else ""
        yield f"| {one['product']} | {was} | {one['what']} | {one['minutes']:.1f} |"


if __name__ == "__main__":
    main()
