"""The images of a folder: finding them, and splitting them by their use."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

from app.imaging.decode import SUFFIXES
from training.data.images import ImageFile, ImageSource, open_files
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

    image: ImageFile
    kind: str
    mask: ImageFile | None = None

    @property
    def path(self) -> Path:
        """The image's path."""
        return self.image.path

    @property
    def is_defective(self) -> bool:
        """Whether the part should be judged ng."""
        return self.kind != "good"


@dataclass(frozen=True)
class Dataset:
    """Good images to train on, and a test set, which may be empty."""

    good: tuple[ImageFile, ...]
    test: tuple[Sample, ...]


@dataclass(frozen=True)
class Split:
    """Good images by their use; every image is in one of the three.

    ``confirmed``: images to train on that users have labelled. They are mostly false alarms: held out, they would bias
    the promise.
    """

    train: tuple[ImageFile, ...]
    standardise: tuple[ImageFile, ...]
    calibrate: tuple[ImageFile, ...]
    confirmed: tuple[ImageFile, ...] = ()

    @property
    def remembered(self) -> tuple[ImageFile, ...]:
        """Images that the memory holds: those to train on first."""
        return (*self.train, *self.standardise)


def find_images(folder: Path, source: ImageSource | None = None) -> Dataset:
    """Find the images of a plain folder, or of MVTec layout (``train/good``, ``test/<kind>``); nothing is read yet.

    ``source``: reads them; None: one of their own. Raises TrainingError.
    """
    source = source or ImageSource()
    is_mvtec = (folder / "train" / "good").is_dir()
    if is_mvtec:
        refuse_misplaced(folder)
    good_folder = folder / "train" / "good" if is_mvtec else folder
    good = list_images(good_folder)
    if not good:
        below = [path.name for path in sorted(good_folder.glob("*")) if list_images(path)]
        raise no_images_error(good_folder, below=below)
    return Dataset(good=open_files(good, source), test=list_test_images(folder, source) if is_mvtec else ())


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

    odd: Mapping[ImageFile, tuple[int, int]]
    usual: tuple[int, int]

    def to_error(self) -> TrainingError:
        """Return the error that names some of them."""
        first = list(self.odd.items())[:3]
        some = ", ".join(f"{image.path.name} ({width} x {height})" for image, (width, height) in first)
        return TrainingError(
            f"{len(self.odd)} images are not {self.usual[0]} x {self.usual[1]} pixels like the rest: {some}; "
            "remove them, or use --skip-bad or --set allow_odd_sizes=true",
            kind="odd-sizes",
        )


def find_odd_sizes(images: Sequence[ImageFile], *, max_pixels: int) -> OddSizes | None:
    """Return the images of another size where most have one, or None.

    Where sizes vary throughout, they are the product's own. Decodes no pixels. Raises BadImage.
    """
    sizes = {image: image.read_header(max_pixels=max_pixels).size for image in images}
    if not sizes:
        return None
    usual, count = Counter(sizes.values()).most_common(1)[0]
    odd = {image: size for image, size in sizes.items() if size != usual}
    return OddSizes(odd=odd, usual=usual) if odd and count >= USUAL_SHARE * len(sizes) else None


def compute_median_size(images: Sequence[ImageFile], *, max_pixels: int) -> tuple[int, int]:
    """Return the median width and height. Decodes no pixels. Raises BadImage."""
    widths, heights = zip(*(image.read_header(max_pixels=max_pixels).size for image in images), strict=True)
    return int(median(widths)), int(median(heights))


def drop_bad_images(dataset: Dataset, *, max_pixels: int, is_size_free: bool) -> tuple[Dataset, list[str]]:
    """Return the data set without images of an unreadable header or an odd size, and the reasons."""
    skipped = []
    kept = []
    for image in dataset.good:
        try:
            image.read_header(max_pixels=max_pixels)
            kept.append(image)
        except BadImage as error:
            skipped.append(str(error))
    odd = None if is_size_free else find_odd_sizes(kept, max_pixels=max_pixels)
    if odd is not None:
        skipped += [f"{image.path}: {size[0]} x {size[1]} pixels, unlike the rest" for image, size in odd.odd.items()]
        kept = [image for image in kept if image not in odd.odd]
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


def list_test_images(folder: Path, source: ImageSource) -> tuple[Sample, ...]:
    """Return every image under ``test/<kind>``, with its mask if there is one."""
    kinds = sorted(path for path in (folder / "test").glob("*") if path.is_dir())
    return tuple(
        Sample(ImageFile(path, source), kind.name, find_mask(folder, path, source))
        for kind in kinds
        for path in list_images(kind)
    )


def find_mask(folder: Path, image: Path, source: ImageSource) -> ImageFile | None:
    """Return ``ground_truth/<kind>/<name>_mask.png``, or None."""
    mask = folder / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"
    return ImageFile(mask, source) if mask.is_file() else None


def split_images(good: Iterable[ImageFile], *, ok: Iterable[ImageFile] = (), ng: Iterable[ImageFile] = ()) -> Split:
    """Split by the hash of the bytes, so that a rerun gives the same; identical copies are dropped.

    ``ok`` and ``ng`` are labelled images: the former are for training alone, the latter are excluded. Raises
    TrainingError.
    """
    confirmed, defective = index_by_digest(ok), index_by_digest(ng)
    labelled = confirmed | defective
    by_hash = {digest: image for digest, image in index_by_digest(good).items() if digest not in labelled}
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


def index_by_digest(images: Iterable[ImageFile]) -> dict[str, ImageFile]:
    """Return images by the hash of their bytes; of identical copies the first. Raises BadImage."""
    found: dict[str, ImageFile] = {}
    for image in images:
        found.setdefault(image.read_digest(), image)
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


def detect_channels(images: Iterable[ImageFile], *, max_pixels: int) -> Literal["grey", "rgb"]:
    """Return ``grey`` where no image has colour channels, else ``rgb``. Decodes no pixels. Raises BadImage."""
    modes = {image.read_header(max_pixels=max_pixels).mode for image in images}
    return "grey" if modes <= GREY_MODES else "rgb"
