"""Goodpart through ``app.inference``, as one process of the speed bench; runs in the project's own environment.

A form is an entry in ``FORMS``: which files of a version it takes, and how they are opened.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.imaging.decode import Box, Image
from app.imaging.heatmap import enlarge
from app.inference.detector import Detector, Graphs, make_batch
from app.inference.sessions import Device
from app.inference.version import Loader
from app.store.store import Bundle
from model.bundle import COMPARE, MANIFEST, STUDENT, read_manifest
from peers.timing import Floats, Judge, Pixels, Turn, main

TEACHER = "teacher.onnx"


@dataclass(frozen=True)
class Form:
    """``lay`` writes what is deployed into a folder, ``open`` makes a detector of it on so many threads."""

    lay: Callable[[Bundle, Path], None]
    open: Callable[[Path, int], Detector]


def lay_graphs(bundle: Bundle, folder: Path) -> None:
    """The three graphs as they were trained, and the manifest."""
    (folder / TEACHER).write_bytes(bundle.teacher)
    (folder / STUDENT).write_bytes(bundle.files[STUDENT])
    (folder / COMPARE).write_bytes(bundle.files[COMPARE])
    (folder / MANIFEST).write_text(bundle.manifest.model_dump_json())


def open_graphs(folder: Path, threads: int) -> Detector:
    """As the service opens them."""
    teacher, student, compare = ((folder / name).read_bytes() for name in (TEACHER, STUDENT, COMPARE))
    return Loader(Device("cpu", threads)).open_detector(Graphs(teacher, student, compare))


FORMS = {"float32": Form(lay_graphs, open_graphs)}


def open_runner(turn: Turn) -> Judge:
    """Open pixels to comparisons, with maps at the size of the image, as the peers' are."""
    manifest = read_manifest((turn.folder / MANIFEST).read_bytes())
    detector = FORMS[turn.form].open(turn.folder, turn.threads)

    def judge(pixels: Pixels) -> tuple[Floats, Floats]:
        images = [as_decoded(one) for one in pixels]
        found = detector.run(make_batch(images, map_size=manifest.map_size))
        maps = np.stack([over(one.map, image) for one, image in zip(found, images, strict=True)])
        return maps, np.array([one.score for one in found], np.float32)

    return judge


def as_decoded(pixels: Pixels) -> Image:
    """What the decoder makes of an image that has the model's size."""
    height, width = pixels.shape[:2]
    return Image(pixels, content=Box(0, 0, width, height), width=width, height=height, sha256="")


def over(map_: Floats, image: Image) -> Floats:
    """The map at the size of the image."""
    return enlarge(map_, image.content, canvas=image.pixels.shape[:2], size=(image.width, image.height))


if __name__ == "__main__":
    main(open_runner)
