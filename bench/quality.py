"""How well Goodpart and its baselines judge: the same teacher, the same data, the same input size, several seeds.

Rows are kept as they are done, and a rerun computes only those that are not there. Designs are chosen by the mean over
the development sets; no choice is made on the others.
"""

import argparse
import fcntl
import itertools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines.method import Judged, Method, enlarge
from baselines.padim import PaDiM
from baselines.patchcore import PatchCore
from baselines.reverse_distillation import ReverseDistillation
from baselines.stfpm import STFPM
from evidence import MASK_SIZE, Evidence, fit_to_images, load_evidence, select
from goodpart import Goodpart
from scipy.ndimage import label
from scipy.stats import beta

from app.inference.calibration import compute_promise, min_calibration_parts
from training.data.dataset import min_good_images, split_images
from training.evaluation.metrics import image_metrics, pixel_metrics
from training.settings import TrainSettings, read_train_settings

DEVELOPMENT = ("magnetic_tile", "casting", "metal_nut")
ASKED = (0.005, 0.01, 0.05)
NUM_TIMED = 20
SHOWN = (
    "image_auroc",
    "average_precision",
    "f1_max",
    "pixel_auroc",
    "aupro",
    "recall_at_1_percent",
    "first_region_hit",
)
COSTS = ("training_minutes", "judging_ms", "model_megabytes")
HEADINGS = {
    "image_auroc": "image AUROC",
    "average_precision": "AP",
    "f1_max": "F1-max",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
    "recall_at_1_percent": "recall at 1 %",
    "first_region_hit": "first region hits",
    "training_minutes": "training, min",
    "judging_ms": "ms",
    "model_megabytes": "MB",
}
Row = dict[str, Any]


def makers(settings: TrainSettings) -> dict[str, Callable[[], Method]]:
    """Every method by name."""
    return {
        "goodpart": lambda: Goodpart(settings),
        "goodpart_fast": lambda: Goodpart(settings),
        "rd4ad": ReverseDistillation,
        "stfpm": lambda: STFPM(teacher=settings.teacher),
        "patchcore": PatchCore,
        "padim": PaDiM,
    }


def main() -> None:
    """Compute what is missing, keep each row, print the table."""
    given = arguments()
    torch.set_num_threads(given.threads)
    if (given.set or given.config) and not given.label:
        raise SystemExit("settings were changed: name the methods' rows apart by --label")
    teacher = [f"teacher={given.teacher}"] if given.teacher else []
    size = [f"height={given.size}", f"width={given.size}"] if given.size else []
    asked = read_train_settings(given.config, [*teacher, *size, *given.set])
    for folder in given.data:
        evidence: dict[int, Evidence] = {}
        for method, seed in itertools.product(given.methods, range(given.seeds)):
            quick = {"quick": True} if method == "goodpart_fast" else {}
            settings = fit_to_images(asked.model_copy(update=quick), folder)
            key = make_key(method, folder.name, settings, seed=seed, given=given)
            if any({name: row[name] for name in key} == key for row in read_rows(given.out)):
                continue
            if settings.height not in evidence:
                evidence[settings.height] = load_evidence(folder, teacher=settings.teacher, size=settings.height)
            row = {**key, **measure(makers(settings)[method](), evidence[settings.height], seed=seed, given=given)}
            keep(given.out, row)
            print(f"{method} on {folder.name}, seed {seed}: image AUROC {row['image_auroc']:.4f}", flush=True)
    rows = read_rows(given.out)
    print(table(rows, split=given.split))
    if given.split == "shipped":
        print(rates_table(rows))


def make_key(method: str, dataset: str, settings: TrainSettings, *, seed: int, given: argparse.Namespace) -> Row:
    """Return the key of a row: two runs of one key give one row."""
    return {
        "method": f"{method}_{given.label}" if given.label else method,
        "dataset": dataset,
        "role": "development" if dataset in DEVELOPMENT else "untouched",
        "split": given.split,
        "teacher": settings.teacher,
        "size": settings.height,
        "max_train": given.max_train,
        "seed": seed,
    }


def arguments() -> argparse.Namespace:
    """What is to be measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders in MVTec layout")
    parser.add_argument(
        "--methods", nargs="+", default=list(makers(TrainSettings())), choices=list(makers(TrainSettings()))
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--size", type=int, default=None, help="input height and width in pixels; default: as a training takes it"
    )
    parser.add_argument("--teacher", help="default: that of the settings")
    parser.add_argument("--max-train", type=int, default=None, help="good images to train on; default: all")
    parser.add_argument(
        "--split",
        choices=["published", "shipped"],
        default="published",
        help="all good images train; or some are held out for the promise",
    )
    parser.add_argument("--config", type=Path, help="training settings for goodpart, as for goodpart train")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a training setting")
    parser.add_argument("--label", default="", help="suffix of the methods' names, where settings were changed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("bench/results/quality.json"))
    return parser.parse_args()


def measure(method: Method, evidence: Evidence, *, seed: int, given: argparse.Namespace) -> Row:
    """Return the row of one method and seed: its metrics and its cost."""
    train = np.arange(len(evidence.good))
    if given.max_train is not None:
        train = np.random.default_rng(seed).permutation(train)[: given.max_train]
    began = time.perf_counter()
    calibration = fit_method(method, evidence, train, seed=seed, is_shipped=given.split == "shipped")
    minutes = (time.perf_counter() - began) / 60
    judged = method.judge(evidence.test)
    return {
        **figures(judged, evidence),
        "rates": [] if calibration is None else rates(calibration, judged, evidence.defective),
        "training_minutes": minutes,
        "judging_ms": judging_ms(method, evidence),
        "model_megabytes": method.size_bytes() / 1e6,
        "num_train": len(train),
        "threads": given.threads,
    }


def fit_method(
    method: Method, evidence: Evidence, train: np.ndarray, *, seed: int, is_shipped: bool
) -> np.ndarray | None:
    """Fit on all training images; or on section 6's share of them, and return scores of those held out to calibrate."""
    if not is_shipped:
        method.fit(select(evidence.train, train), seed=seed)
        return None
    order = {image: index for index, image in enumerate(evidence.good)}
    parts = split_images([evidence.good[index] for index in train])
    learn, standardise, calibrate = (
        [order[image] for image in part] for part in (parts.train, parts.standardise, parts.calibrate)
    )
    if isinstance(method, Goodpart):
        method.fit(
            select(evidence.train, np.array(learn)),
            seed=seed,
            standardise=select(evidence.train, np.array(standardise)),
        )
    else:
        method.fit(select(evidence.train, np.array(learn + standardise)), seed=seed)
    return method.judge(select(evidence.train, np.array(calibrate))).scores.double().numpy()


def figures(judged: Judged, evidence: Evidence) -> Row:
    """Metrics of raw scores and of maps at 256 x 256."""
    scores, defective = judged.scores.double().numpy(), evidence.defective
    found: Row = asdict(image_metrics(scores, defective))
    found["recall_at_1_percent"] = float((scores[defective] > np.quantile(scores[~defective], 0.99)).mean())
    if evidence.masks is not None:
        maps = enlarge(judged.maps, size=MASK_SIZE).numpy()
        found |= asdict(pixel_metrics(list(maps), list(evidence.masks)))
        found["first_region_hit"] = compute_first_region_hit(judged, evidence)
    return found


def compute_first_region_hit(judged: Judged, evidence: Evidence) -> float | None:
    """Return the share of rightly rejected parts whose strongest region touches the defect, at 1 % false alarms.

    A region is a connected piece of the map above the threshold of the score. None for methods whose score and map have
    no scale in common.
    """
    scores, maps = judged.scores.numpy(), judged.maps.numpy()
    threshold = np.quantile(scores[~evidence.defective], 0.99)
    hits = []
    for image in np.flatnonzero(evidence.defective & (scores > threshold)):
        pieces, _ = label(maps[image] > threshold)
        highest = pieces[np.unravel_index(maps[image].argmax(), maps[image].shape)]
        if highest == 0:
            return None
        region = enlarge(torch.from_numpy((pieces == highest).astype(np.float32))[None], size=MASK_SIZE)[0].numpy() > 0
        hits.append(bool((region & evidence.masks[image]).any()))
    return float(np.mean(hits)) if hits else None


def rates(calibration: np.ndarray, judged: Judged, defective: np.ndarray) -> list[Row]:
    """For each requested rate: the promised and the measured one, with 95 % intervals."""
    rows = []
    for asked in ASKED:
        made = compute_promise(calibration, asked=asked)
        is_ng = judged.scores.double().numpy() > made.threshold
        rows.append(
            {
                "asked": asked,
                "supported": made.supported,
                "num_calibration": made.num_calibration,
                "parts_needed": min_calibration_parts(asked),
                "good_images_needed": min_good_images(min_calibration_parts(asked)),
                "false_alarms": share_with_interval(is_ng[~defective]),
                "recall": share_with_interval(is_ng[defective]),
            }
        )
    return rows


def share_with_interval(hits: np.ndarray) -> Row:
    """A share and its exact 95 % interval (Clopper and Pearson, 1934)."""
    k, n = int(hits.sum()), len(hits)
    low = 0.0 if k == 0 else float(beta.ppf(0.025, k, n - k + 1))
    high = 1.0 if k == n else float(beta.ppf(0.975, k + 1, n - k))
    return {"share": k / n, "low": low, "high": high, "count": k, "of": n}


def judging_ms(method: Method, evidence: Evidence) -> float:
    """Median milliseconds of judging one image's features in torch, the teacher not counted."""
    spent = []
    for index in range(min(NUM_TIMED, len(evidence.defective))):
        one = select(evidence.test, np.array([index]))
        began = time.perf_counter()
        method.judge(one)
        spent.append((time.perf_counter() - began) * 1000)
    return statistics.median(spent)


def keep(out: Path, row: Row) -> None:
    """Add a row to the file as it is now; several runs may write to it."""
    with out.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        beside = out.with_suffix(".new")
        beside.write_text(json.dumps({"rows": [*read_rows(out), row]}, indent=1) + "\n")
        beside.replace(out)


def read_rows(out: Path) -> list[Row]:
    """Return the rows in a file."""
    rows: list[Row] = json.loads(out.read_text())["rows"] if out.is_file() else []
    return rows


def table(rows: list[Row], *, split: str) -> str:
    """Mean and spread over the seeds, as Markdown: a row a data set and method."""
    names = [HEADINGS.get(name, name) for name in (*SHOWN, *COSTS)]
    lines = [f"| data | role | method | teacher, px | seeds | {' | '.join(names)} |", "| --- " * (len(names) + 5) + "|"]
    for (dataset, role, method, teacher, size, _), some in group_rows([r for r in rows if r["split"] == split]).items():
        figures = [
            mean_and_spread([row[name] for row in some]) if some[0].get(name) is not None else "" for name in SHOWN
        ]
        costs = [f"{statistics.mean(row[name] for row in some):.1f}" for name in COSTS]
        taught_by = f"{teacher.removeprefix('efficientnet_')}, {size}"
        lines.append(
            f"| {dataset} | {role} | {method} | {taught_by} | {len(some)} | {' | '.join([*figures, *costs])} |"
        )
    return "\n".join(lines)


def group_rows(rows: list[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Group rows that differ by their seed alone, in the order of the data sets' names."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["dataset"], row["method"], row["seed"])):
        same = ("dataset", "role", "method", "teacher", "size", "max_train")
        groups[tuple(row[name] for name in same)].append(row)
    return groups


def rates_table(rows: list[Row]) -> str:
    """What was promised on the shipped split and what the test set says of it, all seeds, as Markdown."""
    lines = [
        "| data | method | seed | asked | supported by | promised | false alarms on test/good | recall |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: (row["dataset"], row["method"], row["seed"])):
        for rate in row["rates"]:
            promised = f"{rate['supported']:.2%}"
            if rate["supported"] > rate["asked"]:
                promised += f" (as asked from {rate['good_images_needed']} good images)"
            found = f"{in_words(rate['false_alarms'])} | {in_words(rate['recall'])}"
            lines.append(
                f"| {row['dataset']} | {row['method']} | {row['seed']} | {rate['asked']:.1%} "
                f"| {rate['num_calibration']} | {promised} | {found} |"
            )
    return "\n".join(lines)


def in_words(share: Row) -> str:
    """``1.1 % (0.1 to 3.7)``."""
    return f"{100 * share['share']:.1f} % ({100 * share['low']:.1f} to {100 * share['high']:.1f})"


def mean_and_spread(values: list[float]) -> str:
    """``.982 ± .003``."""
    spread = f" ± {statistics.stdev(values):.3f}".replace("0.", ".") if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}".replace("0.", ".") + spread


if __name__ == "__main__":
    main()
