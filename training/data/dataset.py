"""Images on disk: finding them, and splitting them by their use."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from PIL import Image as Pillow

from app.errors import ImageError
from app.imaging.decode import SUFFIXES, Image, decode, open_image
from model.bundle import InputRecord
from training.errors import BadImage, TrainingError

# Image files of the region of interest; see training.data.roi.
INSPECT_FILE, IGNORE_FILE = "region.png", "ignore.png"
GREY_MODES = {"1", "L", "LA", "I;16", "I;16B", "I;16L"}
USUAL_SHARE = 0.8
MIN_GOOD = 12
STANDARDISE_SHARE, MIN_STANDARDISE = 0.10, 8
CALIBRATE_SHARE, MIN_CALIBRATE, ENOUGH_TO_CALIBRATE = 0.20, 20, 60


@dataclass(frozen=True)
class Sample:
    """A test image. ``mask``: of its defect; None if it is good or not annotated."""

    path: Path
    kind: str
    mask: Path | None = None

    @property
    def is_defective(self) -> bool:
        """Whether the part should be judged ng."""
        return self.kind != "good"


@dataclass(frozen=True)
class Dataset:
    """Good images to train on, and a test set, which may be empty."""

    good: tuple[Path, ...]
    test: tuple[Sample, ...]


@dataclass(frozen=True)
class Split:
    """Good images by their use; every image is in one of the three.

    ``confirmed``: images to train on that users have labelled. They are mostly false alarms: held out, they would bias
    the promise.
    """

    train: tuple[Path, ...]
    standardise: tuple[Path, ...]
    calibrate: tuple[Path, ...]
    confirmed: tuple[Path, ...] = ()


def find_images(folder: Path) -> Dataset:
    """Find the images of a plain folder, or of MVTec layout (``train/good``, ``test/<kind>``).

    Raises TrainingError.
    """
    is_mvtec = (folder / "train" / "good").is_dir()
    if is_mvtec:
        refuse_misplaced(folder)
    good_folder = folder / "train" / "good" if is_mvtec else folder
    good = list_images(good_folder)
    if not good:
        below = [path.name for path in sorted(good_folder.glob("*")) if list_images(path)]
        raise no_images_error(good_folder, below=below)
    return Dataset(good=good, test=list_test_images(folder) if is_mvtec else ())


def no_images_error(folder: Path, *, below: Sequence[str]) -> TrainingError:
    """Return the error of a folder without an image. ``below``: folders in it that hold some."""
    hint = f"; its folders {', '.join(below[:3])} do: name the one with good parts" if below else ""
    holds_none = f"{folder} holds no image ({', '.join(SUFFIXES)}){hint}"
    return TrainingError(holds_none if folder.exists() else f"there is no folder {folder}", kind="no-images")


def refuse_misplaced(folder: Path) -> None:
    """Raise TrainingError where images beside ``train/good`` would be ignored."""
    for place in (folder, folder / "train"):
        stray = list_images(place)
        if stray:
            raise TrainingError(
                f"{place} holds {len(stray)} images of its own ({stray[0].name}) beside train/good: move good ones to "
                "train/good and defective ones to test/<kind>",
                kind="misplaced-images",
            )
    for other in sorted((folder / "train").iterdir()):
        if other.name != "good" and list_images(other):
            raise TrainingError(
                f"{other} holds images, but only good parts are learned from: move them to test/{other.name}",
                kind="misplaced-images",
            )


@dataclass(frozen=True)
class OddSizes:
    """A few images of another size than the rest. ``odd``: each with its width and height."""

    odd: Mapping[Path, tuple[int, int]]
    usual: tuple[int, int]

    def to_error(self) -> TrainingError:
        """Return the error that names some of them."""
        some = ", ".join(f"{path.name} ({width} x {height})" for path, (width, height) in list(self.odd.items())[:3])
        return TrainingError(
            f"{len(self.odd)} images are not {self.usual[0]} x {self.usual[1]} pixels like the rest: {some}; "
            "remove them, or use --skip-bad or --set allow_odd_sizes=true",
            kind="odd-sizes",
        )


def find_odd_sizes(paths: Sequence[Path], *, max_pixels: int) -> OddSizes | None:
    """Return the images of another size where most have one, or None.

    Where sizes vary throughout, they are the product's own. Reads headers alone. Raises BadImage.
    """
    sizes = {path: read_header(path, max_pixels=max_pixels).size for path in paths}
    if not sizes:
        return None
    usual, count = Counter(sizes.values()).most_common(1)[0]
    odd = {path: size for path, size in sizes.items() if size != usual}
    return OddSizes(odd=odd, usual=usual) if odd and count >= USUAL_SHARE * len(sizes) else None


def drop_bad_images(dataset: Dataset, *, max_pixels: int, is_size_free: bool) -> tuple[Dataset, list[str]]:
    """Return the data set without images of an unreadable header or an odd size, and the reasons."""
    skipped = []
    kept = []
    for path in dataset.good:
        try:
            read_header(path, max_pixels=max_pixels)
            kept.append(path)
        except BadImage as error:
            skipped.append(str(error))
    odd = None if is_size_free else find_odd_sizes(kept, max_pixels=max_pixels)
    if odd is not None:
        skipped += [f"{path}: {width} x {height} pixels, unlike the rest" for path, (width, height) in odd.odd.items()]
        kept = [path for path in kept if path not in odd.odd]
    return replace(dataset, good=tuple(kept)), skipped


def list_images(folder: Path) -> tuple[Path, ...]:
    """Return the image files directly in a folder, by name."""
    if not folder.is_dir():
        return ()
    return tuple(
        sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and path.name not in (INSPECT_FILE, IGNORE_FILE) and path.is_file()
        )
    )


def list_test_images(folder: Path) -> tuple[Sample, ...]:
    """Return every image under ``test/<kind>``, with its mask if there is one."""
    kinds = sorted(path for path in (folder / "test").glob("*") if path.is_dir())
    return tuple(Sample(path, kind.name, find_mask(folder, path)) for kind in kinds for path in list_images(kind))


def find_mask(folder: Path, image: Path) -> Path | None:
    """Return ``ground_truth/<kind>/<name>_mask.png``, or None."""
    mask = folder / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"
    return mask if mask.is_file() else None


def split_images(good: Iterable[Path], *, ok: Iterable[Path] = (), ng: Iterable[Path] = ()) -> Split:
    """Split by the hash of the bytes, so that a rerun gives the same; identical copies are dropped.

    ``ok`` and ``ng`` are labelled images: the former are for training alone, the latter are excluded. Raises
    TrainingError.
    """
    confirmed, defective = index_by_digest(ok), index_by_digest(ng)
    by_hash = {digest: path for digest, path in index_by_digest(good).items() if digest not in confirmed | defective}
    ordered = [by_hash[digest] for digest in sorted(by_hash)]
    if len(ordered) < MIN_GOOD:
        raise TrainingError(
            f"{len(ordered)} different good images are too few: training requires at least {MIN_GOOD}, "
            "a promise of 1 % 500",
            kind="too-few-images",
        )
    num_standardise, num_calibrate = count_held_out(len(ordered))
    first = len(ordered) - num_standardise - num_calibrate
    second = first + num_standardise
    known = tuple(confirmed[digest] for digest in sorted(confirmed))
    return Split((*ordered[:first], *known), tuple(ordered[first:second]), tuple(ordered[second:]), known)


def index_by_digest(paths: Iterable[Path]) -> dict[str, Path]:
    """Return files by the hash of their bytes; of identical copies the first. Raises BadImage."""
    found: dict[str, Path] = {}
    for path in paths:
        try:
            found.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
        except OSError as error:
            raise BadImage(path, error.strerror or str(error)) from error
    return found


def count_held_out(num_good: int) -> tuple[int, int]:
    """Return the numbers of images to standardise and to calibrate; at least half are left to train on."""
    standardise = max(MIN_STANDARDISE, round(STANDARDISE_SHARE * num_good))
    fewest = MIN_CALIBRATE if num_good >= ENOUGH_TO_CALIBRATE else 0
    calibrate = max(fewest, round(CALIBRATE_SHARE * num_good))
    return min(standardise, num_good // 4), calibrate


def min_good_images(num_calibrate: int) -> int:
    """Return the number of good images that holds out ``num_calibrate`` to calibrate."""
    number = max(MIN_GOOD, num_calibrate)
    while count_held_out(number)[1] < num_calibrate:
        number += 1
    return number


def detect_channels(paths: Iterable[Path], *, max_pixels: int) -> Literal["grey", "rgb"]:
    """Return ``grey`` where no image has colour channels, else ``rgb``. Reads headers alone. Raises BadImage."""
    modes = {read_header(path, max_pixels=max_pixels).mode for path in paths}
    return "grey" if modes <= GREY_MODES else "rgb"


def read_header(path: Path, *, max_pixels: int) -> Pillow.Image:
    """Open an image and check its header. Raises BadImage."""
    try:
        return open_image(path.read_bytes(), max_pixels=max_pixels)
    except ImageError as error:
        raise BadImage(path, str(error)) from error
    except OSError as error:
        raise BadImage(path, error.strerror or str(error)) from error


def decode_image(path: Path, rule: InputRecord, *, max_pixels: int) -> Image:
    """Decode a training image with the service's decoder. Raises BadImage."""
    try:
        return decode(path.read_bytes(), rule, max_pixels=max_pixels)
    except ImageError as error:
        raise BadImage(path, str(error)) from error
