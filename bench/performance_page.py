"""Writes what was measured of speed, cost, forms and growth into docs/performance.md and docs/scale.md."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import marks
from marks import results

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
PARTS = ("teacher", "student", "comparison")
GROWTH = {
    "image_size": "side of the image",
    "memory_items": "items of the recall memory",
    "products": "products loaded",
    "training_images": "images to learn from",
    "clients": "clients at once",
}


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(fill(PAGE.read_text()))


def fill(page: str) -> str:
    """Return the page with its current tables."""
    for name, table in (("speed", speed), ("parts", parts), ("request", request), ("forms", forms), ("growth", growth)):
        page = marks.fill(page, name, "\n".join(table()))
    return page


def speed() -> Iterator[str]:
    """The fastest form of each candidate at one thread, by one image; beside it, that candidate's fastest by eight."""
    measured = results("speed")["rows"]
    yield "| | form | ms, p50 | p99 | by goodpart's | images/s by eight | start, s | memory, MB | disk, MB |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    by_eight = {row["name"]: row for row in fastest(measured, batch=8)}
    for row in fastest(measured, batch=1):
        yield (
            f"| {row['name']} | {row['form']} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {row['ratio']:.1f} | "
            f"{by_eight[row['name']]['images_per_s']:.1f} | {row['start_s']:.1f} | {row['peak_mb']:.0f} | "
            f"{row['size_mb']:.1f} |"
        )


def fastest(measured: list[dict[str, Any]], *, batch: int) -> list[dict[str, Any]]:
    """A row a candidate, in its fastest form at one thread, the fastest candidate first."""
    of_batch = [row for row in measured if (row["threads"], row["batch"]) == (1, batch)]
    best: dict[str, dict[str, Any]] = {}
    for row in sorted(of_batch, key=lambda row: float(row["p50_ms"])):
        best.setdefault(row["name"], row)
    return list(best.values())


def parts() -> Iterator[str]:
    """What share of the machine's peak each graph reaches, before and after."""
    before, after = results("cost")["before"], results("cost")["after"]
    yield "| graph | multiply-adds | MB moved | ms before | after | share of peak before | after | most after, ms |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name in PARTS:
        then, now = before["parts"][name], after["parts"][name]
        most = ", ".join(f"{kind} {ms:.2f}" for kind, ms in list(now["operators_ms"].items())[:3])
        yield (
            f"| {name} | {now['multiply_adds']:,} | {now['bytes'] / 1e6:.1f} | {then['ms']:.2f} | {now['ms']:.2f} | "
            f"{then['share_of_peak']:.0%} | {now['share_of_peak']:.0%} | {most} |"
        )
    peaks = " and ".join(f"{one['peak']['macs_per_s'] / 1e9:.1f}" for one in (before, after))
    yield ""
    yield f"Peak, by a product of matrices in each of the two runs: {peaks} thousand million multiply-adds a second."


def request() -> Iterator[str]:
    """Each step of a request, before and after."""
    before, after = results("cost")["before"]["request_ms"], results("cost")["after"]["request_ms"]
    yield "| step | ms before | after |"
    yield "| --- | --- | --- |"
    for step in after:
        yield f"| {step} | {before[step]:.2f} | {after[step]:.2f} |"


def forms() -> Iterator[str]:
    """What other forms of the same versions say, and how long they take."""
    yield "| data | form | image AUROC | verdicts changed | largest change of a score | time by published |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in results("forms")["rows"]:
        yield (
            f"| {row['data']} | {row['form']} | {row['image_auroc']:.4f} | {row['verdicts_changed']} of "
            f"{row['num_test']} | {row['largest_score_change']:.4f} | {row['ratio']:.2f} |"
        )


def growth() -> Iterator[str]:
    """The law of each growth, and its figure."""
    found: Mapping[str, Any] = results("growth")["growth"]
    yield "| by | cost | from, to | exponent | one more costs | |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, words in GROWTH.items():
        one = found[name]
        (first, low), (last, high) = one["points"][0], one["points"][-1]
        picture = f"![{words}](images/growth-{name.replace('_', '-')}.png)"
        yield (
            f"| {words} | {one['cost']} | {first:g}: {low:.1f}, {last:g}: {high:.1f} | {one['exponent']:.2f} | "
            f"{one['per_unit']:g} | {picture} |"
        )


if __name__ == "__main__":
    main()
