"""What ``goodpart adapt`` gains on good parts under another lamp, and what it costs of the defects that are found.

Of the good training images some are held out before training. Test images, good and defective, and those held out are
then shown as a brighter and warmer lamp would show them: what of the good ones is judged ng, and what of the defective
ones, before and after the version was adapted to twenty of the held-out ones.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow
from scipy.stats import binomtest

from app.imaging.decode import MAX_PIXELS
from app.inference.sessions import Device, available_cpus
from app.inference.version import Loader, Version
from app.inspection.pipeline import inspect
from app.store.state import State
from app.store.store import Store
from training.data.dataset import find_images

GOODPART = Path(sys.executable).with_name("goodpart")
# A brighter, warmer lamp: red, green and blue gain; a grey camera sees their mean.
GAINS = (1.5, 1.3, 1.1)
NUM_HELD_OUT, NUM_ADAPTED = 60, 20
ASKED = 0.05


def main() -> None:
    """Each data set: prepare, train, shift, adapt, judge."""
    given = arguments()
    rows = [measure(folder, given) for folder in given.data]
    given.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


def arguments() -> argparse.Namespace:
    """What is to be measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders in MVTec layout")
    parser.add_argument("--work", type=Path, required=True, help="where shifted images and stores go; kept for a rerun")
    parser.add_argument("--gains", type=float, nargs=3, default=GAINS, help="of red, green and blue")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a training setting")
    parser.add_argument("--json", type=Path, default=Path("bench/results/adapt.json"))
    return parser.parse_args()


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return the row of one data set."""
    work = given.work / folder.name
    prepare(folder, work, given.gains)
    store = Store(work / "store")
    if not (work / "store" / "state").exists():
        train(work, folder.name, given.set)
    state = State(store.root / "state")
    first = store.list_versions(folder.name)[0]
    began = time.monotonic()
    done = goodpart("adapt", "--images", work / "new", "--product", folder.name, "--store", store.root)
    adapting_s = time.monotonic() - began
    if done.returncode not in {0, 3}:
        raise SystemExit(done.stderr)
    adapted = done.stdout.strip()
    before, after = (load_version(store, folder.name, name) for name in (first, adapted))
    row = {
        "dataset": folder.name,
        "gains": list(given.gains),
        "asked": ASKED,
        "num_adapted": NUM_ADAPTED,
        "adapting_s": round(adapting_s, 1),
        "exit_code": done.returncode,
        "is_active": state.read_current(folder.name).version == adapted,
        "gate": done.stderr.splitlines(),
    }
    for name in ("shifted_good", "shifted_defective", "plain_good", "plain_defective"):
        paths = images_in(work / name)
        ng = [sum(judged_ng(version, path) for path in paths) for version in (before, after)]
        row[name] = {"num_parts": len(paths), "num_ng_before": ng[0], "num_ng_after": ng[1]}
    print(json.dumps(row), flush=True)
    return row


def prepare(folder: Path, work: Path, gains: Sequence[float]) -> None:
    """Training data without what is held out, and the images to adapt to and to judge."""
    if (work / "ready").exists():
        return
    shutil.rmtree(work, ignore_errors=True)
    dataset = find_images(folder)
    good = sorted(image.path for image in dataset.good)
    held_out = random.Random(0).sample(good, min(NUM_HELD_OUT, len(good) // 3))  # noqa: S311  # no secret
    copy_files((path for path in good if path not in held_out), work / "train")
    copy_files((one.path for one in dataset.test if not one.is_defective), work / "plain_good")
    copy_files((one.path for one in dataset.test if one.is_defective), work / "plain_defective", named=True)
    shift_colours(held_out[:NUM_ADAPTED], work / "new", gains)
    shift_colours([*held_out[NUM_ADAPTED:], *images_in(work / "plain_good")], work / "shifted_good", gains)
    shift_colours(images_in(work / "plain_defective"), work / "shifted_defective", gains)
    (work / "ready").touch()


def copy_files(paths: Iterable[Path], to: Path, *, named: bool = False) -> None:
    """Copy files into a folder, optionally with their kind in front of their name."""
    to.mkdir(parents=True)
    for path in paths:
        shutil.copy(path, to / (f"{path.parent.name}-{path.name}" if named else path.name))


def shift_colours(paths: Iterable[Path], to: Path, gains: Sequence[float]) -> None:
    """Write the images under the other lamp, as PNG."""
    to.mkdir(parents=True)
    for path in paths:
        with Pillow.open(path) as picture:
            is_grey = picture.mode == "L"
            pixels = np.asarray(picture if is_grey else picture.convert("RGB"), dtype=np.float32)
        lit = pixels * (np.mean(gains) if is_grey else np.array(gains))
        Pillow.fromarray(np.clip(np.rint(lit), 0, 255).astype(np.uint8)).save(
            to / f"{path.parent.name}-{path.stem}.png"
        )


def train(work: Path, product: str, settings: Sequence[str]) -> None:
    """The version to adapt, active whatever its promise."""
    chosen = [word for one in (f"false_alarm_rate={ASKED}", *settings) for word in ("--set", one)]
    command = ["train", "--data", work / "train", "--product", product, "--store", work / "store", *chosen]
    done = goodpart(*command, "--force", "a bench: few images support no better promise")
    if done.returncode:
        raise SystemExit(done.stderr)


def goodpart(*arguments: object) -> subprocess.CompletedProcess[str]:
    """One command of ours."""
    return subprocess.run([GOODPART, *map(str, arguments)], capture_output=True, text=True, check=False)


def load_version(store: Store, product: str, name: str) -> Version:
    """Load a version."""
    return Loader(Device("cpu", available_cpus())).load(store.load_bundle(product, name))


def judged_ng(version: Version, path: Path) -> bool:
    """Whether it is judged ng."""
    return inspect(path.read_bytes(), version, max_pixels=MAX_PIXELS).verdict == "ng"


def images_in(folder: Path) -> list[Path]:
    """A folder's files by name."""
    return sorted(folder.iterdir())


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: shares judged ng, before -> after."""
    lines = [
        "| data set | seconds | good, new lamp | defective, new lamp | good, old lamp | defective, old lamp |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    names = ("shifted_good", "shifted_defective", "plain_good", "plain_defective")
    for row in rows:
        cells = " | ".join(change(row[name]) for name in names)
        lines.append(f"| {row['dataset']} | {row['adapting_s']:.0f} | {cells} |")
    return "\n".join(lines)


def change(cell: dict[str, int]) -> str:
    """One cell, with the exact interval of what is now."""
    parts, before, after = cell["num_parts"], cell["num_ng_before"], cell["num_ng_after"]
    found = binomtest(after, parts).proportion_ci(0.95, method="exact")
    return f"{before / parts:.1%} -> {after / parts:.1%} ({found.low:.1%} to {found.high:.1%}) of {parts}"


if __name__ == "__main__":
    main()
