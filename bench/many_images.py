"""How much memory a training of many images takes: ``goodpart train`` on variations of the good images of a data set.

Each variation is a crop under a little other light, so that no two files are alike; what they show does not matter.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from training.data.dataset import find_images
from training.data.images import ImageFile

GOODPART = Path(sys.executable).with_name("goodpart")
GIB_OF_KIB = 2**20


def main() -> None:
    """Make the images, train, tell the peak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder whose good images are varied")
    parser.add_argument("--work", type=Path, required=True, help="where images and store go")
    parser.add_argument("--num", type=int, default=20_000, help="how many images")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a training setting")
    parser.add_argument("--json", type=Path, default=Path("bench/results/many_images.json"))
    given = parser.parse_args()
    images = given.work / "images"
    if not images.exists():
        vary(find_images(given.data).good, images, given.num)
    chosen = [word for setting in given.set for word in ("--set", setting)]
    command = [GOODPART, "train", "--data", images, "--product", "many", "--store", given.work / "store", *chosen]
    began = time.monotonic()
    done = subprocess.run([*map(str, command), "--no-activate"], check=False)
    row = {
        "num_images": given.num,
        "exit_code": done.returncode,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / GIB_OF_KIB, 2),
        "settings": given.set,
    }
    print(json.dumps(row))
    given.json.write_text(json.dumps(row, indent=1) + "\n")


def vary(images: Sequence[ImageFile], folder: Path, num_images: int) -> None:
    """So many crops of the images under other light, as JPEG of 256 x 256 pixels."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    pictures = [Pillow.open(image.path).convert("L").resize((288, 288)) for image in images]
    for number in range(num_images):
        left, top = (int(one) for one in generator.integers(0, 33, 2))
        piece = np.asarray(pictures[number % len(pictures)].crop((left, top, left + 256, top + 256)), np.float32)
        lit = np.clip(piece * generator.uniform(0.9, 1.1), 0, 255).astype(np.uint8)
        Pillow.fromarray(lit).save(folder / f"{number:05}.jpg", quality=92)


if __name__ == "__main__":
    main()
