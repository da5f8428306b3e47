"""What is wrong with a folder of good images, before an hour is spent on it."""

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
from app.imaging.decode import load_upright, open_image
from app.imaging.input_check import measure
from app.inference.calibration import min_calibration_parts
from model.bundle import InputRecord, MeasureName
from model.standardise import Standardiser
from training.checks.duplicates import Look, look_of, twins
from training.checks.outliers import SPREAD_OF_DEVIATION, Suspicion, suspicion
from training.data.dataset import (
    FEWEST_GOOD,
    GREY_MODES,
    Dataset,
    Sample,
    channels_of,
    find_images,
    good_images_needed,
    held_out,
    odd_sizes,
)
from training.data.roi import region_of_interest
from training.errors import BadImage
from training.evaluation.evaluate import opened_mask
from training.fit.feature_store import GIB, Bound, Standardised
from training.fit.features import Reader, teacher_features, valid_at_scales
from training.fit.trainer import MAX_FOR_STATISTICS
from training.fit.weights import load_teacher
from training.progress import Narrator
from training.settings import TrainSettings

Level = Literal["bad", "look"]
WATCHED: tuple[MeasureName, ...] = ("brightness", "contrast", "sharpness")
# Beyond so many robust spreads from the median, an image's light or focus is odd.
ODD_SPREADS = 6.0
# Whatever teacher the training takes: this one sees outliers best of those that come as packages (`docs/log.md`).
TEACHER, STRIDE = "efficientnet_lite2", 16
# Above this share of suspects there are more than good data have.
MOST_SUSPECTS = 0.15


@dataclass(frozen=True)
class Finding:
    """One thing about one image. ``bad`` stops a training, ``look`` is for somebody to look at."""

    path: Path
    kind: str
    says: str
    level: Level = "look"


@dataclass(frozen=True)
class Looks:
    """One good image as it was decoded: its measures, its mode and its hash."""

    path: Path
    measures: dict[MeasureName, float]
    mode: str
    look: Look


@dataclass(frozen=True)
class Checked:
    """All that was found. ``suspects``: good parts that are probably none, the oddest first."""

    dataset: Dataset
    findings: tuple[Finding, ...]
    suspects: tuple[Finding, ...]
    looks: tuple[Looks, ...]
    promise: Finding | None

    @property
    def exit_code(self) -> int:
        """1 where images would stop a training, 3 where somebody should look, else 0."""
        if any(finding.level == "bad" for finding in self.findings):
            return 1
        has_many = len(self.suspects) > MOST_SUSPECTS * max(1, len(self.looks))
        return 3 if self.findings or has_many or self.promise else 0

    def tables(self) -> Iterator[Table]:
        """What was found, for people."""
        yield self._numbers()
        if self.findings or self.promise:
            rows = [*self.findings, *([self.promise] if self.promise else [])]
            yield table("To be mended", [(one.path.name, one.kind, one.says) for one in rows])
        if self.suspects:
            title = f"Suspects: probably defective, the oddest first ({len(self.suspects)} of {len(self.looks)})"
            yield table(title, [(one.path.name, one.kind, one.says) for one in self.suspects])

    def _numbers(self) -> Table:
        rows = [
            ("good images", str(len(self.dataset.good)), f"{len(self.looks)} can be read"),
            ("test images", str(len(self.dataset.test)), ""),
        ]
        for name in WATCHED:
            values = sorted(one.measures[name] for one in self.looks)
            if values:
                middle = values[len(values) // 2]
                rows.append((name, f"{middle:.1f}", f"{values[0]:.1f} to {values[-1]:.1f}"))
        return table("Data", rows)


def table(title: str, rows: Sequence[tuple[str, str, str]]) -> Table:
    """Three columns without a head."""
    made = Table(title=title, title_justify="left", show_header=False)
    for row in rows:
        made.add_row(*map(Text, row))
    return made


class DataCheck:
    """The checks, in order."""

    def __init__(self, folder: Path, settings: TrainSettings, narrator: Narrator) -> None:
        self.folder = folder
        self.settings = settings
        self.narrator = narrator
        self.dataset = find_images(folder)

    def found(self, *, looks_for_outliers: bool) -> Checked:
        """Every check; raises TrainingError for what makes all others impossible."""
        looks, findings = self.readable()
        good = [one.path for one in looks]
        findings += self.sizes(good)
        findings += modes(looks)
        findings += odd_looks(looks)
        findings += self.copies(looks)
        suspects: list[Finding] = []
        if looks_for_outliers and len(good) >= FEWEST_GOOD:
            suspects = self.outliers(good)
        return Checked(self.dataset, tuple(findings), tuple(suspects), tuple(looks), self.promise(len(good)))

    def readable(self) -> tuple[list[Looks], list[Finding]]:
        """Every good image that can be decoded, and what is wrong with the others, test images among them."""
        looks, findings = [], []
        with self.narrator.step("reading", total=len(self.dataset.good) + len(self.dataset.test)) as advance:
            for path in self.dataset.good:
                try:
                    looks.append(self.look(path))
                except (ImageError, OSError) as error:
                    findings.append(Finding(path, "unreadable", str(error), "bad"))
                advance(1)
            for sample in self.dataset.test:
                try:
                    self.look_at_sample(sample)
                except (ImageError, BadImage, OSError) as error:
                    findings.append(Finding(sample.path, "unreadable", str(error), "bad"))
                advance(1)
        return looks, findings

    def look(self, path: Path) -> Looks:
        """One image; raises ImageError, BadImage."""
        picture = load_upright(open_image(path.read_bytes(), max_pixels=self.settings.max_pixels))
        try:
            image = self.reader("grey" if picture.mode in GREY_MODES else "rgb").decoded(path)
        except BadImage as error:
            raise OSError(str(error).removeprefix(f"{path}: ")) from error
        return Looks(path, measure(image), picture.mode, look_of(path, picture))

    def look_at_sample(self, sample: Sample) -> None:
        """A test image and its mask; raises ImageError, BadImage, OSError."""
        image = self.reader("rgb").decoded(sample.path)
        if sample.mask is not None:
            opened_mask(sample.mask, size=(image.width, image.height))

    def reader(self, channels: Literal["grey", "rgb"]) -> Reader:
        """As training reads."""
        rule: InputRecord = self.settings.input_record(channels=channels)
        return Reader(rule, self.settings.max_pixels, self.settings.map_size)

    def sizes(self, good: Sequence[Path]) -> list[Finding]:
        """Images of another size than the rest."""
        trouble = None if self.settings.allow_odd_sizes else odd_sizes(good, max_pixels=self.settings.max_pixels)
        if trouble is None:
            return []
        usual = f"{trouble.usual[0]} x {trouble.usual[1]}"
        return [
            Finding(path, "odd size", f"{width} x {height} pixels, the rest have {usual}", "bad")
            for path, (width, height) in trouble.odd.items()
        ]

    def copies(self, looks: Sequence[Looks]) -> list[Finding]:
        """Images that show nearly the same: among the good ones, and between those and the test images."""
        good = [one.look for one in looks]
        test = []
        for sample in self.dataset.test:
            try:
                picture = load_upright(open_image(sample.path.read_bytes(), max_pixels=self.settings.max_pixels))
            except (ImageError, OSError):
                continue
            test.append(look_of(sample.path, picture))
        within = [
            Finding(pair.first, "near twin", f"shows nearly what {pair.second.name} does ({pair.num_bits} of 256 bits)")
            for pair in twins(good)
        ]
        across = [
            Finding(
                pair.second,
                "test twin",
                f"shows nearly what the good {pair.first.name} does ({pair.num_bits} of 256 bits); figures flatter",
            )
            for pair in twins(good, test)
        ]
        return [*within, *across]

    def outliers(self, good: Sequence[Path]) -> list[Finding]:
        """Good parts that the others do not explain, by the teacher's features."""
        odd = self.suspicion(good)
        return [
            Finding(good[part], "suspect", f"{odd.oddness[part]:.1f} spreads odder than the median part")
            for part in odd.suspects
        ]

    def suspicion(self, good: Sequence[Path]) -> Suspicion:
        """How odd each good part is."""
        settings = self.settings
        rule = settings.input_record(channels=channels_of(good, max_pixels=settings.max_pixels))
        interest = region_of_interest(self.folder, settings)
        reader = Reader(rule, settings.max_pixels, settings.map_size, interest, settings.num_workers)
        with TemporaryDirectory(prefix="goodpart-") as folder:
            bound = Bound(settings.feature_memory_gib * GIB, Path(folder))
            with self.narrator.step("features", total=len(good)) as advance:
                teacher = load_teacher(TEACHER, weights=None, sha256=None, strides=(STRIDE,), taps={})
                features = teacher_features(teacher, good, reader=reader, bound=bound, on_images=advance)
            (valid,) = valid_at_scales(reader.valid(good), features)
            some = torch.arange(min(len(good), MAX_FOR_STATISTICS))
            standard = Standardised(features[0], Standardiser.fitted(features[0][some], valid[some]))
            with self.narrator.step("outliers", total=3 * len(good)) as advance:
                return suspicion(standard, valid, settings, on_images=advance)

    def promise(self, num_good: int) -> Finding | None:
        """Whether so many images support the false-alarm rate that is asked."""
        asked = self.settings.false_alarm_rate
        num_calibrate, needed = held_out(num_good)[1], min_calibration_parts(asked)
        if num_calibrate >= needed:
            return None
        says = (
            f"{num_good} good images leave {num_calibrate} to calibrate, which support {1 / (num_calibrate + 1):.2%}; "
            f"{asked:.2%} takes {needed}, of {good_images_needed(needed)} good images in all"
        )
        return Finding(self.folder, "too few", says)


def modes(looks: Sequence[Looks]) -> list[Finding]:
    """Images of another mode than most."""
    counts = Counter(one.mode for one in looks)
    if len(counts) < 2:
        return []
    usual = counts.most_common(1)[0][0]
    return [Finding(one.path, "odd mode", f"mode {one.mode}, most have {usual}") for one in looks if one.mode != usual]


def odd_looks(looks: Sequence[Looks]) -> list[Finding]:
    """Images whose light or focus lies far from the others'."""
    findings = []
    for name in WATCHED:
        values = np.array([one.measures[name] for one in looks])
        if not len(values):
            continue
        middle = float(np.median(values))
        spread = SPREAD_OF_DEVIATION * float(np.median(np.abs(values - middle)))
        for one, value in zip(looks, values, strict=True):
            if abs(value - middle) > ODD_SPREADS * max(spread, 1e-3 * abs(middle)):
                findings.append(Finding(one.path, f"odd {name}", f"{value:.1f}, the median is {middle:.1f}"))
    return findings
