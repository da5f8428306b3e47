"""Fills the marked tables of docs/ from ``bench/results`` and from the settings.

``python bench/pages.py`` writes every page, ``python bench/pages.py quality`` one. A table stands between two marks,
``<!-- NAME -->`` and ``<!-- /NAME -->``.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ablations
import adapt
import quality
from pydantic_core import PydanticUndefined

from app.settings import PREFIX, Settings
from app.sinks.registers import MAP
from training.settings import list_settings

ROOT = Path(__file__).parents[1]
DOCS, RESULTS = ROOT / "docs", ROOT / "bench" / "results"

PARTS_A_DAY, PRODUCTS = 1_000_000, 1000
DAY_S, DAY_H = 86_400, 24
# Parts do not arrive evenly, and a processor should not be busy all the time.
PEAK_TO_MEAN, MAX_BUSY = 3.0, 0.7
GRAPHS = ("teacher", "student", "comparison")
GROWTH_WORDS = {
    "image_size": "side of the image",
    "memory_items": "items of the recall memory",
    "products": "products loaded",
    "training_images": "images to learn from",
    "clients": "clients at once",
}
LOAD_WORDS = {
    "goodput_ratio": "goodput at three times the sustainable rate, of the peak",
    "refusal_p99_ms": "a refusal then, p99, ms",
    "livez_max_ms": "`/livez` then, the slowest, ms",
    "latest_answer_after_deadline_ms": "the latest answer after its deadline, ms",
    "recovery_s": "until 99 % are judged again, with retrying clients, s",
    "engine_ratio": "engine beside the same graphs run bare",
    "overhead_p50_ms": "the service's own work beside decoding and graphs, p50, ms",
    "overhead_p99_ms": "the same, p99, ms",
    "idle_livez_p50_ms": "for comparison: `/livez` on the idle service, p50, ms",
    "switch_failures": "failed requests in 100 version switches",
    "rss_growth_ratio": "memory after the last switch, of that after the tenth",
    "sustainable_per_s": "judged a second at most, one processor",
    "cpu_ms_per_request": "processor time a request, one client, all in all, ms",
    "cpu_ms_decode": "of it: decoding",
    "cpu_ms_inference": "of it: the three graphs",
    "cpu_ms_rest": "of it: all else (HTTP, threads, scores and regions, JSON, the log)",
    "broken_versions": "broken versions after 50 kills of a publisher",
    "publish_failed_requests": "failed requests meanwhile",
    "ready_again_s": "ready again after a kill of the service, s",
}

STORAGE_WORDS = {
    "versions": "versions trained and published",
    "taken_up": "of them taken up by the first and by the second service",
    "requests": "requests meanwhile, one client a service",
    "failed": "of them failed",
    "half": "versions that were never published, or that gave one part two scores",
    "storage_away_s": "then the storage was away, s",
    "requests_while_away": "requests in that time, none of which failed",
    "requests_to_storage": "requests to the storage, all in all",
}
IMAGE_WORDS = {
    "base_mb": "stand-in base, MB",
    "service_cpu_mb": "`service-cpu` with it, MB",
    "service_gpu_mb": "`service-gpu` with it, MB",
    "training_mb": "`training` with it, MB",
    "base_s": "making the base, s",
    "service_cpu_build_s": "building `service-cpu`, s",
    "service_gpu_build_s": "building `service-gpu`, s",
    "training_build_s": "building `training`, s",
    "train_s": "`train --quick` in its image, s",
    "ready_after_s": "the service's image ready after, s",
    "user": "its user",
    "read_only_root": "its root can't be written",
    "torch_in_service": "torch is in it",
    "healthy": "its `HEALTHCHECK` says that it is healthy",
    "version_taken_up": "the version trained meanwhile was taken up",
    "requests": "requests meanwhile",
    "failed": "of them failed",
    "exit_code": "exit code after SIGTERM",
    "service_does_not_need": "what nothing of it imports, MB",
    "service_gpu_without_a_gpu": "`service-gpu` on a machine without a GPU",
}
OUTBOX_WORDS = {
    "inspections": "parts judged",
    "kills": "kills of the service meanwhile",
    "broker_away": "times that the broker was stopped",
    "missing": "parts that did not arrive",
    "out_of_order": "out of order",
    "parts_twice": "parts with two sequence numbers",
    "duplicates": "sent twice",
    "unmarked": "of these not marked `repeated`",
    "p50_ratio": "latency with a sink by that without, median",
    "p99_ratio": "the same, p99",
    "p99_ms": "p99 with a sink, ms",
}


def main() -> None:
    """Write the pages that are named, or all."""
    parser = argparse.ArgumentParser(description="Fill the marked tables of docs/.")
    # No ``choices``: Python 3.11 would check the empty list against them.
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"{', '.join(PAGES)}; default: all")
    names = parser.parse_args().pages
    if unknown := set(names) - set(PAGES):
        parser.error(f"no page {', '.join(sorted(unknown))}; there are {', '.join(PAGES)}")
    for name in names or PAGES:
        path = DOCS / f"{name}.md"
        path.write_text(fill(path.read_text(), PAGES[name]))


def fill(page: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Return the page with its tables. Raises KeyError for a missing mark."""
    for name, table in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        if not re.search(pattern, page, flags=re.DOTALL):
            raise KeyError(name)
        text = table()
        page = re.sub(pattern, lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page, flags=re.DOTALL)
    return page


def read_result(name: str) -> Any:  # noqa: ANN401  # JSON
    """Return what a program has measured."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def format_table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table in Markdown."""
    names = list(header)
    return "\n".join(format_row(row) for row in (names, ["---"] * len(names), *rows))


def format_row(cells: Iterable[object]) -> str:
    """Return a row in Markdown."""
    return "|" + "".join(f" {cell} |" if cell != "" else " |" for cell in cells)


def format_published() -> str:
    """Return the methods on the published splits."""
    return quality.table(quality.read_rows(RESULTS / "quality.json"), split="published")


def format_shipped() -> str:
    """Return the rates of the versions as trained by default."""
    measured = quality.read_rows(RESULTS / "quality.json")
    return quality.rates_table([row for row in measured if row["split"] == "shipped"])


def format_ablations() -> str:
    """Return what each part of the method is worth."""
    return ablations.format_tables(quality.read_rows(RESULTS / "ablations.json"))


def format_train_settings() -> str:
    """Return the settings of a training."""
    rows = (
        (f"`{one.name}`", "none" if one.default is None else one.default, one.description) for one in list_settings()
    )
    return format_table(("setting", "default", "what"), rows)


def format_adapt() -> str:
    """Return detection before and after adapting."""
    return adapt.table(read_result("adapt"))


def format_speed() -> str:
    """Return the fastest form of each candidate at one thread by one image, and the fastest by eight."""
    measured = read_result("speed")["rows"]
    by_eight = {row["name"]: row for row in find_fastest(measured, batch=8)}
    header = (
        *("", "form", "ms, p50", "p99", "by goodpart's", "images/s by eight"),
        *("start, s", "memory, MB", "disk, MB"),
    )
    rows = (
        (
            *(row["name"], row["form"], f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}", f"{row['ratio']:.1f}"),
            *(f"{by_eight[row['name']]['images_per_s']:.1f}", f"{row['start_s']:.1f}", f"{row['peak_mb']:.0f}"),
            f"{row['size_mb']:.1f}",
        )
        for row in find_fastest(measured, batch=1)
    )
    return format_table(header, rows)


def find_fastest(measured: list[dict[str, Any]], *, batch: int) -> list[dict[str, Any]]:
    """Return a row for each candidate, in its fastest form at one thread, the fastest candidate first."""
    of_batch = [row for row in measured if (row["threads"], row["batch"]) == (1, batch)]
    best: dict[str, dict[str, Any]] = {}
    for row in sorted(of_batch, key=lambda row: float(row["p50_ms"])):
        best.setdefault(row["name"], row)
    return list(best.values())


def format_graphs() -> str:
    """Return the share of the machine's peak that each graph reaches, before and after."""
    before, after = read_result("cost")["before"], read_result("cost")["after"]
    rows = (compare_graphs(name, before["parts"][name], after["parts"][name]) for name in GRAPHS)
    header = (
        *("graph", "multiply-adds", "MB moved", "ms before", "after", "share of peak before", "after"),
        "most after, ms",
    )
    peaks = " and ".join(f"{one['peak']['macs_per_s'] / 1e9:.1f}" for one in (before, after))
    note = f"Peak, by a product of matrices in each of the two runs: {peaks} thousand million multiply-adds a second."
    return f"{format_table(header, rows)}\n\n{note}"


def compare_graphs(name: str, before: dict[str, Any], after: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of one graph."""
    most = ", ".join(f"{kind} {ms:.2f}" for kind, ms in list(after["operators_ms"].items())[:3])
    return (
        *(name, f"{after['multiply_adds']:,}", f"{after['bytes'] / 1e6:.1f}", f"{before['ms']:.2f}"),
        *(f"{after['ms']:.2f}", f"{before['share_of_peak']:.0%}", f"{after['share_of_peak']:.0%}", most),
    )


def format_request() -> str:
    """Return each step of a request, before and after."""
    before, after = (read_result("cost")[when]["request_ms"] for when in ("before", "after"))
    rows = ((step, f"{before[step]:.2f}", f"{after[step]:.2f}") for step in after)
    return format_table(("step", "ms before", "after"), rows)


def format_forms() -> str:
    """Return verdicts and times of other forms of the same versions."""
    header = ("data", "form", "image AUROC", "verdicts changed", "largest change of a score", "time by published")
    rows = (
        (
            *(row["data"], row["form"], f"{row['image_auroc']:.4f}"),
            *(f"{row['verdicts_changed']} of {row['num_test']}", f"{row['largest_score_change']:.4f}"),
            f"{row['ratio']:.2f}",
        )
        for row in read_result("forms")["rows"]
    )
    return format_table(header, rows)


def format_growth() -> str:
    """Return the law of each growth, and its figure."""
    found = read_result("growth")["growth"]
    rows = (describe_growth(name, words, found[name]) for name, words in GROWTH_WORDS.items())
    return format_table(("by", "cost", "from, to", "exponent", "one more costs", ""), rows)


def describe_growth(name: str, words: str, found: dict[str, Any]) -> tuple[object, ...]:
    """Return the cells of one growth."""
    (first, low), (last, high) = found["points"][0], found["points"][-1]
    picture = f"![{words}](images/growth-{name.replace('_', '-')}.png)"
    span = f"{first:g}: {low:.1f}, {last:g}: {high:.1f}"
    return words, found["cost"], span, f"{found['exponent']:.2f}", f"{found['per_unit']:g}", picture


def format_service_settings() -> str:
    """Return the settings of the service."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "none" if field.default is None else field.default
        if field.default is PydanticUndefined:
            default = "the host's name" if name == "instance" else "the processors there are"
        rows.append((f"`{PREFIX}{name.upper()}`", default, field.description))
    return format_table(("variable", "default", "what"), rows)


def format_load() -> str:
    """Return what was measured of the service under load and under kills."""
    measured = read_result("load") | read_result("kills")
    rows = ((words, f"{measured[key]:.3g}") for key, words in LOAD_WORDS.items() if key in measured)
    return format_table(("what", "figure"), rows)


def format_object_store() -> str:
    """Return what was measured of a store on object storage."""
    measured = read_result("object_store")
    found = {key: one if isinstance(one, list) else [one] for key, one in measured.items()}
    rows = ((words, ", ".join(f"{one:,}" for one in found[key])) for key, words in STORAGE_WORDS.items())
    return format_table(("what", "figure"), rows)


def served_per_s() -> float:
    """Images a second that a processor serves over HTTP, clients on the same machine included."""
    growth = read_result("growth")
    return max(rate for _, rate in growth["growth"]["clients"]["points"]) / growth["processors"]


def scored_per_s() -> float:
    """Images a second that a processor scores out of a folder."""
    archive = read_result("archive")
    return float(archive["images_per_s"]) / archive["processors"]


def format_unit_costs() -> str:
    """Return what one of each costs on the machine of the results."""
    archive, growth = read_result("archive"), read_result("growth")["growth"]
    by_archive, by_growth = "`bench/archive.py`", "`bench/growth.py`"
    rows = (
        ("images a second and processor, over HTTP", f"{served_per_s():.1f}", by_growth),
        ("the same, out of a folder", f"{scored_per_s():.1f}", by_archive),
        ("memory of a product more, MB", f"{growth['products']['per_unit']:.1f}", by_growth),
        ("a version on disk, MB", f"{archive['version_mb']:.1f}", by_archive),
        ("what the trainer keeps of it, MB", f"{archive['training_mb']:.1f}", by_archive),
        (f"a training, {archive['processors']} processors, s", f"{archive['training_s']:.0f}", by_archive),
        ("Parquet of an image, bytes", archive["parquet_bytes_per_image"], by_archive),
    )
    return format_table(("what", "measured", "by"), rows)


def format_needs() -> str:
    """Return what so many parts and products need, by these costs."""
    archive, growth = read_result("archive"), read_result("growth")["growth"]
    mean_per_s = PARTS_A_DAY / DAY_S
    serving = mean_per_s * PEAK_TO_MEAN / served_per_s() / MAX_BUSY
    scoring_h = PARTS_A_DAY / scored_per_s() / 3600
    training_h = PRODUCTS * archive["training_s"] * archive["processors"] / 3600
    memory_gb = PRODUCTS * growth["products"]["per_unit"] / 1000
    disk_gb = PRODUCTS * (archive["version_mb"] + archive["training_mb"]) / 1000
    parquet_gb = PARTS_A_DAY * archive["parquet_bytes_per_image"] / 1e9
    rows = (
        (f"{PARTS_A_DAY:,} parts a day, mean", f"{mean_per_s:.1f} a second"),
        (f"processors to serve {PEAK_TO_MEAN:g} times that, {MAX_BUSY:.0%} busy", f"{serving:.1f}"),
        ("processor hours to score as many again out of an archive", f"{scoring_h:.1f}"),
        ("Parquet of these, GB", f"{parquet_gb:.2f}"),
        (f"memory to have {PRODUCTS:,} products loaded at once, GB", f"{memory_gb:.1f}"),
        ("a version of each on disk, GB", f"{disk_gb:.1f}"),
        (f"processor hours to train {PRODUCTS:,} products", f"{training_h:.0f}"),
        (f"the same in a night of {DAY_H // 3} h, processors", math.ceil(training_h / (DAY_H / 3))),
    )
    return format_table(("what", "need"), rows)


def format_ray() -> str:
    """Return the outcomes of a plan while a node was killed."""
    found = read_result("ray")
    rows = (
        (
            one["product"],
            "yes" if one["product"] in found["under_way_at_the_kill"] else "",
            one["what"],
            f"{one['minutes']:.1f}",
        )
        for one in found["outcomes"]
    )
    return format_table(("product", "under way at the kill", "what", "minutes of its last try"), rows)


def format_images() -> str:
    """Return what ``make image-test`` has found."""
    measured = read_result("images")
    rows = ((words, describe(measured[key])) for key, words in IMAGE_WORDS.items() if key in measured)
    return format_table(("what", "found"), rows)


def describe(found: object) -> str:
    """Return a figure in words."""
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, dict):
        return ", ".join(f"{name} {size}" for name, size in found.items())
    return f"{found:,}" if isinstance(found, int | float) else str(found)


def format_outbox() -> str:
    """Return what was measured of the outbox."""
    measured = read_result("outbox")
    return format_table(("what", "figure"), ((words, f"{measured[key]:,}") for key, words in OUTBOX_WORDS.items()))


def format_registers() -> str:
    """Return the Modbus registers."""
    rows = []
    for one in MAP:
        last = one.address + one.num_words - 1
        span = f"{one.address}" if one.num_words == 1 else f"{one.address} to {last}"
        rows.append((span, f"`{one.name}`", one.kind, one.meaning))
    return format_table(("address", "register", "type", "what"), rows)


# Each page's tables, by the name of their marks.
PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "quality": {"published": format_published, "shipped": format_shipped, "ablations": format_ablations},
    "training": {"settings": format_train_settings, "adapt": format_adapt},
    "performance": {
        "speed": format_speed,
        "parts": format_graphs,
        "request": format_request,
        "forms": format_forms,
        "growth": format_growth,
    },
    "service": {"settings": format_service_settings, "load": format_load, "object-store": format_object_store},
    "scale": {"unit-costs": format_unit_costs, "needs": format_needs, "ray": format_ray},
    "containers": {"images": format_images},
    "integration": {"outbox": format_outbox, "registers": format_registers},
}


if __name__ == "__main__":
    main()
