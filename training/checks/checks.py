"""Checks of a folder of good images, before training."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from rich.table import Table
from rich.text import Text

from app.errors import ImageError
from app.imaging.decode import decode, load_image
from app.imaging.input_check import measure
from app.inference.calibration import min_calibration_parts
from model.bundle import MeasureName
from model.standardise import Standardiser
from training.checks.duplicates import ImageFingerprint, compute_fingerprint, find_duplicates
from training.checks.outliers import SPREAD_OF_DEVIATION, OutlierScores, score_outliers
from training.data.dataset import (
    GREY_MODES,
    MIN_GOOD,
    Dataset,
    Sample,
    count_held_out,
    detect_channels,
    find_images,
    find_odd_sizes,
    min_good_images,
)
from training.data.images import ImageFile
from training.data.reader import ImageReader
from training.data.roi import read_region_of_interest
from training.errors import BadImage
from training.evaluation.evaluate import open_mask
from training.fit.feature_store import GIB, MemoryLimit, StandardisedRows
from training.fit.features import extract_features, resize_valid
from training.fit.trainer import MAX_FOR_STATISTICS
from training.fit.weights import load_teacher
from training.progress import ProgressReporter
from training.settings import TrainSettings

Level = Literal["bad", "look"]
WATCHED: tuple[MeasureName, ...] = ("brightness", "contrast", "sharpness")
# Beyond so many robust spreads from the median, an image's light or focus is odd.
ODD_SPREADS = 6.0
# Independent of the teacher of the training: of the packaged teachers this one detects outliers best
# (`docs/history/log-2026-11-25.md`).
TEACHER, STRIDE = "efficientnet_lite2", 16
# Above this share of suspects there are more than good data have.
MAX_SUSPECT_SHARE = 0.15


@dataclass(frozen=True)
class Finding:
    """One finding about one image. ``bad`` stops a training, ``look`` needs a review."""

    path: Path
    kind: str
    says: str
    level: Level = "look"


@dataclass(frozen=True)
class ImageSummary:
    """One decoded good image: its measures, mode and fingerprint."""

    image: ImageFile
    measures: dict[MeasureName, float]
    mode: str
    fingerprint: ImageFingerprint


@dataclass(frozen=True)
class DataReport:
    """All findings. ``suspects``: good parts that are probably defective, the oddest first."""

    dataset: Dataset
    findings: tuple[Finding, ...]
    suspects: tuple[Finding, ...]
    summaries: tuple[ImageSummary, ...]
    promise: Finding | None

    @property
    def exit_code(self) -> int:
        """1 where images would stop a training, 3 where a review is needed, else 0."""
        if any(finding.level == "bad" for finding in self.findings):
            return 1
        has_many = len(self.suspects) > MAX_SUSPECT_SHARE * max(1, len(self.summaries))
        return 3 if self.findings or has_many or self.promise else 0

    def make_tables(self) -> Iterator[Table]:
        """Yield the findings as tables."""
        yield self._numbers()
        if self.findings or self.promise:
            rows = [*self.findings, *([self.promise] if self.promise else [])]
            yield make_table("To be mended", [(one.path.name, one.kind, one.says) for one in rows])
        if self.suspects:
            title = (
                f"Suspects: probably defective, most anomalous first ({len(self.suspects)} of {len(self.summaries)})"
            )
            yield make_table(title, [(one.path.name, one.kind, one.says) for one in self.suspects])

    def _numbers(self) -> Table:
        rows = [
            ("good images", str(len(self.dataset.good)), f"{len(self.summaries)} can be read"),
            ("test images", str(len(self.dataset.test)), ""),
        ]
        for name in WATCHED:
            values = sorted(one.measures[name] for one in self.summaries)
            if values:
                middle = values[len(values) // 2]
                rows.append((name, f"{middle:.1f}", f"{values[0]:.1f} to {values[-1]:.1f}"))
        return make_table("Data", rows)


def make_table(title: str, rows: Sequence[tuple[str, str, str]]) -> Table:
    """Return a table of three columns without a head."""
    made = Table(title=title, title_justify="left", show_header=False)
    for row in rows:
        made.add_row(*map(Text, row))
    return made


@dataclass(frozen=True)
class DataCheck:
    """The checks of a folder, in order."""

    folder: Path
    settings: TrainSettings
    reporter: ProgressReporter

    def run(self, *, looks_for_outliers: bool) -> DataReport:
        """Run every check. Raises TrainingError where the others are impossible."""
        dataset = find_images(self.folder)
        looks, findings = self.read_all(dataset)
        good = [one.image for one in looks]
        findings += self.find_odd_sizes(good)
        findings += find_odd_modes(looks)
        findings += find_odd_measures(looks)
        findings += self.find_copies(looks, dataset.test)
        suspects: list[Finding] = []
        if looks_for_outliers and len(good) >= MIN_GOOD:
            suspects = self.find_outliers(good)
        return DataReport(dataset, tuple(findings), tuple(suspects), tuple(looks), self.check_promise(len(good)))

    def read_all(self, dataset: Dataset) -> tuple[list[ImageSummary], list[Finding]]:
        """Decode all images; return summaries of the good ones, and a finding for each that can't be decoded."""
        looks, findings = [], []
        with self.reporter.step("reading", total=len(dataset.good) + len(dataset.test)) as advance:
            for image in dataset.good:
                try:
                    looks.append(self.read_image(image))
                except (ImageError, OSError) as error:
                    findings.append(Finding(image.path, "unreadable", str(error), "bad"))
                advance(1)
            for sample in dataset.test:
                try:
                    self.read_sample(sample)
                except BadImage as error:
                    findings.append(Finding(sample.path, "unreadable", str(error), "bad"))
                advance(1)
        return looks, findings

    def read_image(self, image: ImageFile) -> ImageSummary:
        """Summarise one image. Raises ImageError, OSError."""
        data, max_pixels = image.read_bytes(), self.settings.max_pixels
        picture = load_image(data, max_pixels=max_pixels)
        rule = self.settings.input_record(channels="grey" if picture.mode in GREY_MODES else "rgb")
        measures = measure(decode(data, rule, max_pixels=max_pixels))
        return ImageSummary(image, measures, picture.mode, compute_fingerprint(image.path, picture))

    def read_sample(self, sample: Sample) -> None:
        """Decode a test image and its mask. Raises BadImage."""
        rule = self.settings.input_record(channels="rgb")
        image = sample.image.decode(rule, max_pixels=self.settings.max_pixels)
        if sample.mask is not None:
            open_mask(sample.mask, size=(image.width, image.height))

    def find_odd_sizes(self, good: Sequence[ImageFile]) -> list[Finding]:
        """Find images of another size than the rest."""
        found = None if self.settings.allow_odd_sizes else find_odd_sizes(good, max_pixels=self.settings.max_pixels)
        if found is None:
            return []
        usual = f"{found.usual[0]} x {found.usual[1]}"
        return [
            Finding(image.path, "odd size", f"{width} x {height} pixels, the rest have {usual}", "bad")
            for image, (width, height) in found.odd.items()
        ]

    def find_copies(self, looks: Sequence[ImageSummary], samples: Sequence[Sample]) -> list[Finding]:
        """Find near duplicates among the good images, and between those and the test images."""
        good = [one.fingerprint for one in looks]
        test = []
        for sample in samples:
            try:
                picture = load_image(sample.image.read_bytes(), max_pixels=self.settings.max_pixels)
            except (ImageError, OSError):
                continue
            test.append(compute_fingerprint(sample.path, picture))
        within = [
            Finding(pair.first, "near twin", f"shows nearly what {pair.second.name} does ({pair.num_bits} of 256 bits)")
            for pair in find_duplicates(good)
        ]
        across = [
            Finding(
                pair.second,
                "test twin",
                f"shows nearly what the good {pair.first.name} does ({pair.num_bits} of 256 bits); figures flatter",
            )
            for pair in find_duplicates(good, test)
        ]
        return [*within, *across]

    def find_outliers(self, good: Sequence[ImageFile]) -> list[Finding]:
        """Find good parts that the others do not explain, by the teacher's features."""
        odd = self.score_outliers(good)
        return [
            Finding(good[part].path, "suspect", f"{odd.oddness[part]:.1f} spreads above the median part")
            for part in odd.suspects
        ]

    def score_outliers(self, good: Sequence[ImageFile]) -> OutlierScores:
        """Return how odd each good part is."""
        settings = self.settings
        rule = settings.input_record(channels=detect_channels(good, max_pixels=settings.max_pixels))
        interest = read_region_of_interest(self.folder, settings)
        reader = ImageReader(rule, settings.max_pixels, settings.map_size, interest, settings.num_workers)
        with TemporaryDirectory(prefix="goodpart-") as folder:
            bound = MemoryLimit(settings.feature_memory_gib * GIB, Path(folder))
            with self.reporter.step("features", total=len(good)) as advance:
                teacher = load_teacher(TEACHER, weights=None, sha256=None, strides=(STRIDE,), taps={})
                features = extract_features(teacher, good, reader=reader, limit=bound, on_images=advance)
            (valid,) = resize_valid(reader.compute_valid(good), features)
            some = torch.arange(min(len(good), MAX_FOR_STATISTICS))
            standard = StandardisedRows(features[0], Standardiser.fit(features[0][some], valid[some]))
            with self.reporter.step("outliers", total=3 * len(good)) as advance:
                return score_outliers(standard, valid, settings, on_images=advance)

    def check_promise(self, num_good: int) -> Finding | None:
        """Check whether the number of images supports the requested false-alarm rate."""
        rate = self.settings.false_alarm_rate
        num_calibrate, needed = count_held_out(num_good)[1], min_calibration_parts(rate)
        if num_calibrate >= needed:
            return None
        says = (
            f"{num_good} good images leave {num_calibrate} to calibrate, which support {1 / (num_calibrate + 1):.2%}; "
            f"{rate:.2%} takes {needed}, of {min_good_images(needed)} good images in all"
        )
        return Finding(self.folder, "too few", says)


def find_odd_modes(looks: Sequence[ImageSummary]) -> list[Finding]:
    """Find images of another mode than most."""
    counts = Counter(one.mode for one in looks)
    if len(counts) < 2:
        return []
    usual = counts.most_common(1)[0][0]
    return [
        Finding(one.image.path, "odd mode", f"mode {one.mode}, most have {usual}") for one in looks if one.mode != usual
    ]


def find_odd_measures(looks: Sequence[ImageSummary]) -> list[Finding]:
    """Find images whose brightness, contrast or sharpness is far from the median."""
    findings = []
    for name in WATCHED:
        values = np.array([one.measures[name] for one in looks])
        if not len(values):
            continue
        middle = float(np.median(values))
        spread = SPREAD_OF_DEVIATION * float(np.median(np.abs(values - middle)))
        for one, value in zip(looks, values, strict=True):
            if abs(value - middle) > ODD_SPREADS * max(spread, 1e-3 * abs(middle)):
                findings.append(Finding(one.image.path, f"odd {name}", f"{value:.1f}, the median is {middle:.1f}"))
    return findings
