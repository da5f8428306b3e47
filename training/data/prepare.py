"""The data of a training, prepared: images found, split by their use, and every one of them checked."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.imaging.input_check import measure
from app.store.labels import Label, LabelStore
from model.bundle import ExpectsRecord, MeasureName, sha256_hex
from training.data.dataset import (
    Dataset,
    Sample,
    Split,
    compute_median_size,
    detect_channels,
    drop_bad_images,
    find_images,
    find_odd_sizes,
    split_images,
)
from training.data.images import ImageFile, ImageSource, open_files
from training.data.input_ranges import compute_input_ranges
from training.data.reader import ImageReader
from training.data.roi import read_region_of_interest
from training.errors import BadImage
from training.evaluation.evaluate import open_mask
from training.progress import ProgressReporter
from training.settings import TrainSettings

Measures = dict[MeasureName, float]


@dataclass(frozen=True)
class PreparedData:
    """The checked images of a training. ``settings``: with the input size for them.

    ``expects``: the input ranges of the good images, None for too few. ``digest``: of good images and settings;
    ``key``: of everything that the result depends on. ``began_s``: when the preparation began, by
    ``time.monotonic()``.
    """

    folder: Path
    dataset: Dataset
    split: Split
    reader: ImageReader
    settings: TrainSettings
    expects: ExpectsRecord | None
    digest: str
    key: str
    began_s: float

    def replace_confirmed(self, copies: Mapping[ImageFile, ImageFile]) -> "PreparedData":
        """Return the same data with copies of the labelled images."""
        train = tuple(copies.get(image, image) for image in self.split.train)
        confirmed = tuple(copies[image] for image in self.split.confirmed)
        return replace(self, split=replace(self.split, train=train, confirmed=confirmed))


@dataclass(frozen=True)
class CheckedImages:
    """The images that can be decoded, the measures of the good ones, and labelled images that no longer fit."""

    dataset: Dataset
    measures: Sequence[Measures]
    unfit: Sequence[ImageFile]


@dataclass(frozen=True)
class DataPreparation:
    """Prepares the images of a folder, with those of the product that users have labelled.

    ``skip_bad``: leave bad images out, each with a line that says why.
    """

    folder: Path
    product: str
    labels: LabelStore
    settings: TrainSettings
    reporter: ProgressReporter
    skip_bad: bool

    def run(self) -> PreparedData:
        """Find, split and check the images. Raises GoodpartError."""
        began_s = time.monotonic()
        source = ImageSource()
        found = self.find_dataset(source)
        ok, ng = self.find_labelled("ok", source), self.find_labelled("ng", source)
        confirmed = split_images(found.good, ok=ok, ng=ng).confirmed  # raises where there are too few to check
        size = compute_median_size(found.good, max_pixels=self.settings.max_pixels)
        settings = self.settings.fit_to_images(size)
        reader = self.make_reader(found.good, settings)
        checked = self.check_images(found, confirmed, reader)
        split = split_images(checked.dataset.good, ok=[one for one in ok if one not in checked.unfit], ng=ng)
        digest = compute_fingerprint((*checked.dataset.good, *split.confirmed), settings)
        return PreparedData(
            folder=self.folder,
            dataset=checked.dataset,
            split=split,
            reader=reader,
            settings=settings,
            expects=compute_input_ranges(checked.measures),
            digest=digest,
            key=compute_key(digest, split, reader, settings),
            began_s=began_s,
        )

    def find_dataset(self, source: ImageSource) -> Dataset:
        """Find the images, and compare their sizes. Raises TrainingError, or leaves bad images out."""
        dataset, settings = find_images(self.folder, source), self.settings
        if self.skip_bad:
            dataset, skipped = drop_bad_images(
                dataset, max_pixels=settings.max_pixels, is_size_free=settings.allow_odd_sizes
            )
            for line in skipped:
                self.reporter.print_line(f"left out: {line}")
        elif not settings.allow_odd_sizes:
            odd = find_odd_sizes(dataset.good, max_pixels=settings.max_pixels)
            if odd is not None:
                raise odd.to_error()
        return dataset

    def find_labelled(self, label: Label, source: ImageSource) -> tuple[ImageFile, ...]:
        """Return the product's images of a label. Raises StoreError."""
        return open_files(self.labels.image_paths(self.product, label), source)

    def make_reader(self, good: Sequence[ImageFile], settings: TrainSettings) -> ImageReader:
        """Return the reader of the product's images. Raises BadImage, SettingsError."""
        return ImageReader(
            rule=settings.input_record(channels=detect_channels(good, max_pixels=settings.max_pixels)),
            max_pixels=settings.max_pixels,
            map_size=settings.map_size,
            roi=read_region_of_interest(self.folder, settings),
            num_workers=settings.num_workers,
        )

    def check_images(self, dataset: Dataset, confirmed: Sequence[ImageFile], reader: ImageReader) -> CheckedImages:
        """Decode every image once, before training. Raises BadImage, or leaves bad images out.

        A labelled image that no longer fits, since the camera has changed, is left out in any case.
        """
        total = len(dataset.good) + len(dataset.test) + len(confirmed)
        with self.reporter.step("checking images", total=total) as advance:
            good = dict(zip(dataset.good, measure_all(reader, dataset.good, advance), strict=True))
            labelled = dict(zip(confirmed, measure_all(reader, confirmed, advance), strict=True))
            test = {sample: check_sample(reader, sample, advance) for sample in dataset.test}
        bad = [one for one in (*good.values(), *test.values()) if isinstance(one, BadImage)]
        if bad and not self.skip_bad:
            raise bad[0]
        for error in (*bad, *(one for one in labelled.values() if isinstance(one, BadImage))):
            self.reporter.print_line(f"left out: {error}")
        return CheckedImages(
            dataset=Dataset(
                good=tuple(image for image, found in good.items() if not isinstance(found, BadImage)),
                test=tuple(sample for sample, error in test.items() if error is None),
            ),
            measures=[found for found in good.values() if not isinstance(found, BadImage)],
            unfit=[image for image, found in labelled.items() if isinstance(found, BadImage)],
        )


def measure_all(
    reader: ImageReader, images: Sequence[ImageFile], advance: Callable[[int], None]
) -> Iterator[Measures | BadImage]:
    """Yield each image's measures, or its error."""

    def measure_image(image: ImageFile) -> Measures | BadImage:
        try:
            return measure(reader.decode(image))
        except BadImage as error:
            return error

    for found in reader.map(measure_image, images):
        advance(1)
        yield found


def check_sample(reader: ImageReader, sample: Sample, advance: Callable[[int], None]) -> BadImage | None:
    """Return the error of a test image or its mask, or None."""
    advance(1)
    try:
        image = reader.decode(sample.image)
        if sample.mask is not None:
            open_mask(sample.mask, size=(image.width, image.height))
    except BadImage as error:
        return error
    return None


def compute_fingerprint(images: Iterable[ImageFile], settings: TrainSettings) -> str:
    """Return a digest of a training's inputs: the settings and the bytes of every good image. Raises BadImage."""
    digests = sorted(image.read_digest() for image in images)
    return sha256_hex("\n".join([settings.model_dump_json(), *digests]).encode())


def compute_key(digest: str, split: Split, reader: ImageReader, settings: TrainSettings) -> str:
    """Return a digest of the fingerprint and of everything else that training depends on."""
    region = reader.roi.to_png() if reader.roi else b""
    weights = Path(settings.teacher_weights or "")
    own = weights.read_bytes() if weights.is_file() else b""
    roles = [image.read_digest() for image in split.remembered]
    return sha256_hex("\n".join([digest, sha256_hex(region), sha256_hex(own), *roles]).encode())
