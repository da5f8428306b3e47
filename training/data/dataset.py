"""Images on disk: which there are, what they show, and which part of the training each is for."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from PIL import Image as Pillow

from app.errors import ImageError
from app.imaging.decode import SUFFIXES, Image, decode, open_image
from model.bundle import InputRecord
from training.errors import BadImage, MisplacedImages, NoImages, OddSizes, TooFewImages

# Pictures of where to look, beside the data; see training.data.roi.
INSPECT_FILE, IGNORE_FILE = "region.png", "ignore.png"
GREY_MODES = {"1", "L", "LA", "I;16", "I;16B", "I;16L"}
USUAL_SHARE = 0.8
FEWEST_GOOD = 12
STANDARDISE_SHARE, FEWEST_STANDARDISE = 0.10, 8
CALIBRATE_SHARE, FEWEST_CALIBRATE, ENOUGH_TO_CALIBRATE = 0.20, 20, 60


@dataclass(frozen=True)
class Sample:
    """An image of the test set. ``mask`` is where its defect is marked, None if it is good or nobody has."""

    path: Path
    kind: str
    mask: Path | None = None

    @property
    def is_defective(self) -> bool:
        """Whether the part should be judged ng."""
        return self.kind != "good"


@dataclass(frozen=True)
class Dataset:
    """Good images to learn from, and a test set, which may be empty."""

    good: tuple[Path, ...]
    test: tuple[Sample, ...]


@dataclass(frozen=True)
class Split:
    """Good images by what they are for; every image is in one of the three.

    ``confirmed``: those to train on that people have confirmed. They are mostly false alarms: held out, they would bend
    the promise.
    """

    train: tuple[Path, ...]
    standardise: tuple[Path, ...]
    calibrate: tuple[Path, ...]
    confirmed: tuple[Path, ...] = ()


def find_images(folder: Path) -> Dataset:
    """The images of a plain folder, or of MVTec layout (``train/good``, ``test/<kind>``).

    Raises NoImages and MisplacedImages.
    """
    is_mvtec = (folder / "train" / "good").is_dir()
    if is_mvtec:
        refuse_misplaced(folder)
    good_folder = folder / "train" / "good" if is_mvtec else folder
    good = images_in(good_folder)
    if not good:
        below = [path.name for path in sorted(good_folder.glob("*")) if images_in(path)]
        raise NoImages(good_folder, suffixes=SUFFIXES, below=below)
    return Dataset(good=good, test=test_samples(folder) if is_mvtec else ())


def refuse_misplaced(folder: Path) -> None:
    """Raise MisplacedImages where images lie beside ``train/good`` that nobody would look at."""
    for place in (folder, folder / "train"):
        stray = images_in(place)
        if stray:
            raise MisplacedImages(
                f"{place} holds {len(stray)} images of its own ({stray[0].name}) beside train/good: move good ones to "
                "train/good and defective ones to test/<kind>"
            )
    for other in sorted((folder / "train").iterdir()):
        if other.name != "good" and images_in(other):
            raise MisplacedImages(
                f"{other} holds images, but only good parts are learned from: move them to test/{other.name}"
            )


def odd_sizes(paths: Sequence[Path], *, max_pixels: int) -> OddSizes | None:
    """What is wrong where most images have one size and a few another: they are of something else, or cut.

    Where sizes vary throughout, that is the product's way. Reads headers alone. Raises BadImage.
    """
    sizes = {path: header_of(path, max_pixels=max_pixels).size for path in paths}
    if not sizes:
        return None
    usual, count = Counter(sizes.values()).most_common(1)[0]
    odd = {path: size for path, size in sizes.items() if size != usual}
    return OddSizes(odd=odd, usual=usual) if odd and count >= USUAL_SHARE * len(sizes) else None


def sound(dataset: Dataset, *, max_pixels: int, is_size_free: bool) -> tuple[Dataset, list[str]]:
    """The data set without images whose header can't be read or whose size is odd, and what was left out and why."""
    skipped = []
    kept = []
    for path in dataset.good:
        try:
            header_of(path, max_pixels=max_pixels)
            kept.append(path)
        except BadImage as error:
            skipped.append(str(error))
    odd = None if is_size_free else odd_sizes(kept, max_pixels=max_pixels)
    if odd is not None:
        skipped += [f"{path}: {width} x {height} pixels, unlike the rest" for path, (width, height) in odd.odd.items()]
        kept = [path for path in kept if path not in odd.odd]
    return replace(dataset, good=tuple(kept)), skipped


def images_in(folder: Path) -> tuple[Path, ...]:
    """The image files directly in a folder, by name."""
    if not folder.is_dir():
        return ()
    return tuple(
        sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and path.name not in (INSPECT_FILE, IGNORE_FILE) and path.is_file()
        )
    )


def test_samples(folder: Path) -> tuple[Sample, ...]:
    """Every image under ``test/<kind>``, with its mask where there is one."""
    kinds = sorted(path for path in (folder / "test").glob("*") if path.is_dir())
    return tuple(Sample(path, kind.name, mask_of(folder, path)) for kind in kinds for path in images_in(kind))


def mask_of(folder: Path, image: Path) -> Path | None:
    """``ground_truth/<kind>/<name>_mask.png`` if it is there."""
    mask = folder / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"
    return mask if mask.is_file() else None


def split(good: Iterable[Path], *, ok: Iterable[Path] = (), ng: Iterable[Path] = ()) -> Split:
    """Split by the hash of the bytes, so that a rerun splits alike; of twins only the first counts.

    ``ok`` and ``ng`` are what people have confirmed: the former train and nothing else, the latter are no good parts,
    wherever they lie. Raises TooFewImages.
    """
    confirmed, defective = by_digest(ok), by_digest(ng)
    by_hash = {digest: path for digest, path in by_digest(good).items() if digest not in confirmed | defective}
    ordered = [by_hash[digest] for digest in sorted(by_hash)]
    if len(ordered) < FEWEST_GOOD:
        raise TooFewImages(found=len(ordered), needed=FEWEST_GOOD)
    num_standardise, num_calibrate = held_out(len(ordered))
    first = len(ordered) - num_standardise - num_calibrate
    second = first + num_standardise
    known = tuple(confirmed[digest] for digest in sorted(confirmed))
    return Split((*ordered[:first], *known), tuple(ordered[first:second]), tuple(ordered[second:]), known)


def by_digest(paths: Iterable[Path]) -> dict[str, Path]:
    """Files by the hash of their bytes; of twins the first. Raises BadImage."""
    found: dict[str, Path] = {}
    for path in paths:
        try:
            found.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
        except OSError as error:
            raise BadImage(path, error.strerror or str(error)) from error
    return found


def held_out(num_good: int) -> tuple[int, int]:
    """How many images standardise and how many calibrate; at least half are left to train on."""
    standardise = max(FEWEST_STANDARDISE, round(STANDARDISE_SHARE * num_good))
    fewest = FEWEST_CALIBRATE if num_good >= ENOUGH_TO_CALIBRATE else 0
    calibrate = max(fewest, round(CALIBRATE_SHARE * num_good))
    return min(standardise, num_good // 4), calibrate


def good_images_needed(num_calibrate: int) -> int:
    """How many good images a training needs so that this many are held out to calibrate."""
    number = max(FEWEST_GOOD, num_calibrate)
    while held_out(number)[1] < num_calibrate:
        number += 1
    return number


def channels_of(paths: Iterable[Path], *, max_pixels: int) -> Literal["grey", "rgb"]:
    """``grey`` where no image has colour channels. Reads headers alone. Raises BadImage."""
    modes = {header_of(path, max_pixels=max_pixels).mode for path in paths}
    return "grey" if modes <= GREY_MODES else "rgb"


def header_of(path: Path, *, max_pixels: int) -> Pillow.Image:
    """An image with its header read and checked. Raises BadImage."""
    try:
        return open_image(path.read_bytes(), max_pixels=max_pixels)
    except ImageError as error:
        raise BadImage(path, str(error)) from error
    except OSError as error:
        raise BadImage(path, error.strerror or str(error)) from error


def decoded(path: Path, rule: InputRecord, *, max_pixels: int) -> Image:
    """A training image through the service's own decoder. Raises BadImage."""
    try:
        return decode(path.read_bytes(), rule, max_pixels=max_pixels)
    except ImageError as error:
        raise BadImage(path, str(error)) from error
