"""Adaptation of the version in service to a few new good parts, in less than a minute and without gradient steps.

Features of the new parts that the memory does not explain are added to it; the comparison's constants and the threshold
are then fitted again on the calibration parts of training and on the new ones, each of which is compared without its
own items (`docs/decisions/009-adapting-checks-each-part-without-its-own-items.md`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from app.imaging.input_check import measure
from app.imaging.roi import region_from_png
from app.inference.detector import Comparison, Detector, Graphs, to_comparisons
from app.inference.explain import pack_patches, unpack_patches
from app.inference.sessions import Device, available_cpus
from app.inference.version import Loader
from app.store import paths
from app.store.errors import StoreError, nothing_active_error
from app.store.store import Bundle
from model.bundle import FORMAT, MEASURES, METRICS, PATCHES, REGION, ExpectsRecord, RangeRecord, sha256_hex
from training.data.dataset import find_images, index_by_digest
from training.data.images import ImageFile
from training.data.input_ranges import widen
from training.data.reader import ImageReader
from training.errors import TrainingError
from training.export.bundle import NUM_GOLDEN, Appearance, BundleBuilder, build_training_files
from training.export.calibrate import Calibration, calibrate
from training.export.calibration_features import CALIBRATION_FEATURES, CalibrationFeatures, read_calibration_features
from training.export.onnx import NUM_TRACED, Parity, export_graphs
from training.export.parity import MAX_KEPT_PARTS, verify_parity
from training.export.patches import render_patch
from training.fit.features import resize_valid
from training.fit.memory import ItemOrigins, extend_memory
from training.fit.networks import Networks, create_networks
from training.fit.statistics import ComparedImages, fit_comparison
from training.progress import ProgressReporter
from training.release.gate import GOOD_GOLDEN
from training.release.publish import EvaluationImages, Published, Publisher, PublishRequest, TrainedVersion
from training.report.report import describe_promise
from training.settings import TrainSettings
from training.version_metrics import TrainingMetrics, read_keys

# With fewer there is nothing to say; more are a training.
MIN_IMAGES, MAX_IMAGES = 4, 200
# Items added at a time, as a share of those that training trained, and how many times these there may be in all.
MAX_ADDED_SHARE, MAX_MEMORY_GROWTH = 0.5, 3
STUDENT_WEIGHTS, COMPARE_WEIGHTS, SETTINGS = "student.safetensors", "compare.safetensors", "settings.json"


@dataclass(frozen=True)
class BaseVersion:
    """The version to adapt, with the files of its training."""

    bundle: Bundle
    settings: TrainSettings
    networks: Networks
    calibration_features: CalibrationFeatures

    @property
    def golden(self) -> list[tuple[str, bytes]]:
        """Suffix and bytes of its golden good parts."""
        files = sorted(self.bundle.files.items())
        return [(Path(name).suffix, data) for name, data in files if name.startswith(GOOD_GOLDEN)]


@dataclass(frozen=True)
class Adaptation:
    """One adaptation: its inputs, and the steps. ``new_parts``: without identical copies."""

    base: BaseVersion
    new_parts: tuple[ImageFile, ...]
    reader: ImageReader
    request: PublishRequest
    reporter: ProgressReporter

    def run(self) -> Published:
        """Extend the memory, fit constants and threshold, publish, and activate if the gate passes."""
        began = time.monotonic()
        base, networks = self.base, self.base.networks
        self.reporter.print_line(f"adapting {base.bundle.version} to {len(self.new_parts)} new good parts")
        kept, added = self.extend_memory()
        self.fit_statistics(kept)
        graphs, detector, parity = self.export_graphs()
        calibrated = self.fit_threshold(kept)
        promise_in_words = describe_promise(calibrated.promise)
        self.reporter.print_line(f"{len(added.images)} items added; {promise_in_words}")
        trained = TrainedVersion(
            builder=self.make_builder(graphs, calibrated, added),
            detector=detector,
            metrics=TrainingMetrics(
                promise_in_words=promise_in_words,
                parity=parity,
                adapted_from=base.bundle.version,
                num_new_parts=len(self.new_parts),
                num_added_items=len(added.images),
                num_calibrate=calibrated.promise.num_calibration,
                settings=base.settings.to_report(),
                curves={},
                teacher_key=read_keys(base.bundle.files.get(METRICS, b"{}")).teacher,
                training_s=round(time.monotonic() - began, 1),
            ),
            training=build_training_files(
                networks.student, networks.compare, base.settings, kept.take_newest(MAX_KEPT_PARTS)
            ),
            facts={"adapted from": base.bundle.version, "new good parts": str(len(self.new_parts))},
        )
        return Publisher(self.request, base.settings, self.reporter).publish(trained, self.select_images())

    @torch.no_grad()
    def extend_memory(self) -> tuple[CalibrationFeatures, ItemOrigins]:
        """Add the new parts' features to the memory, and the parts to the calibration features."""
        student, settings = self.base.networks.student, self.base.settings
        most = min(
            round(MAX_ADDED_SHARE * settings.num_recall_items),
            MAX_MEMORY_GROWTH * settings.num_recall_items - student.recall.num_items,
        )
        with self.reporter.step("remembering", total=len(self.new_parts)) as advance:
            features = self.compute_features()
            valid = self.reader.compute_valid(self.new_parts)
            standard = student.standardise(features)
            added = extend_memory(student, standard, resize_valid(valid, features)[0], max_items=max(0, most))
            advance(len(self.new_parts))
        return self.base.calibration_features.extend(features, valid, owners=added.images), added

    @torch.no_grad()
    def compute_features(self) -> tuple[Tensor, ...]:
        """Return teacher features of the new parts, scales 1..K. Raises BadImage."""
        teacher, images = self.base.networks.teacher, self.reader.decode_all(self.new_parts)
        seen = [teacher(self.reader.to_pixels([image])) for image in images]
        return tuple(torch.cat(scale) for scale in zip(*seen, strict=True))

    def fit_statistics(self, kept: CalibrationFeatures) -> None:
        """Fit the comparison's constants on as many old parts as new ones, so that both count as ordinary."""
        num_new, num_old = len(self.new_parts), len(kept) - len(self.new_parts)
        rows = [*range(min(num_new, num_old)), *range(num_old, len(kept))]
        fit_comparison(
            self.base.networks.compare,
            self.base.networks.student,
            ComparedImages(
                tuple(torch.from_numpy(scale[rows].astype(np.float32)) for scale in kept.features),
                torch.from_numpy(kept.valid[rows]),
                torch.from_numpy(np.stack([kept.owners == row for row in rows])),
            ),
        )

    def export_graphs(self) -> tuple[Graphs, Detector, Parity]:
        """Export the graphs and check their parity on the new parts. Raises TrainingError."""
        networks = self.base.networks
        images = list(self.reader.decode_all(self.new_parts))
        with self.reporter.step("export", total=1) as advance:
            graphs = export_graphs(
                networks.teacher,
                networks.student,
                networks.compare,
                self.reader.to_pixels(images[:NUM_TRACED]),
                exported_teacher=self.base.bundle.teacher,
            )
            advance(1)
        detector = Loader(Device("cpu", available_cpus())).open_detector(graphs)
        with self.reporter.step("parity", total=len(images)) as advance:
            agreed = verify_parity(images, networks, detector, reader=self.reader, on_image=advance)
        return graphs, detector, agreed.parity

    def fit_threshold(self, kept: CalibrationFeatures) -> Calibration:
        """Calibrate on the old and the new parts, none of which recalls its own items."""
        with self.reporter.step("calibration", total=len(kept)) as advance:
            found = []
            for row in range(len(kept)):
                found.append(self.compare_part(kept, row))
                advance(1)
        return calibrate(found, asked=self.base.settings.false_alarm_rate)

    @torch.no_grad()
    def compare_part(self, kept: CalibrationFeatures, row: int) -> Comparison:
        """Return the networks' comparison of one part."""
        features = tuple(torch.from_numpy(scale[row : row + 1].astype(np.float32)) for scale in kept.features)
        hidden = torch.from_numpy(kept.owners == row)[None]
        valid = torch.from_numpy(kept.valid[row : row + 1])
        answer = self.base.networks.compare(features, self.base.networks.student(*features, hidden_items=hidden), valid)
        (comparison,) = to_comparisons({name: one.numpy() for name, one in answer._asdict().items()}, {}, 1)
        return comparison

    def make_builder(self, graphs: Graphs, calibrated: Calibration, added: ItemOrigins) -> BundleBuilder:
        """Return the version, before its metrics are known."""
        parent = self.base
        digests = sorted(part.read_digest() for part in self.new_parts)
        return BundleBuilder(
            product=self.request.product,
            created=datetime.now(UTC),
            rule=self.reader.rule,
            roi=self.reader.roi,
            settings=parent.settings,
            graphs=graphs,
            appearance=Appearance(self.widen_input_ranges(), self.render_patches(added)),
            map_weights=tuple(self.base.networks.compare.map_weights.tolist()),
            calibration=calibrated,
            fingerprint=sha256_hex("\n".join([parent.bundle.manifest.fingerprint, *digests]).encode()),
        )

    def widen_input_ranges(self) -> ExpectsRecord | None:
        """Return the input ranges, widened by the new parts."""
        before = self.base.bundle.manifest.expects
        if before is None:
            return None
        looks = [measure(image) for image in self.reader.decode_all(self.new_parts)]
        ranges = {}
        for name in MEASURES:
            old: RangeRecord = getattr(before, name)
            new = widen(name, min(look[name] for look in looks), max(look[name] for look in looks))
            ranges[name] = RangeRecord(low=min(old.low, new.low), high=max(old.high, new.high))
        return ExpectsRecord(**ranges)

    def render_patches(self, added: ItemOrigins) -> bytes:
        """Render pictures of the memory's items, those of the new items last."""
        pictures = []
        if PATCHES in self.base.bundle.files:
            before = unpack_patches(self.base.bundle.files[PATCHES])
            pictures = [before.jpeg(item) for item in range(len(before.ends))]
        shown = [image.pixels for image in self.reader.decode_all(self.new_parts)]
        stride = self.base.settings.strides[0]
        for image, position in zip(added.images.tolist(), added.positions.tolist(), strict=True):
            pictures.append(render_patch(shown[image], position, stride=stride))
        return pack_patches(pictures)

    def select_images(self) -> EvaluationImages:
        """Return the images for evaluation: golden parts of both kinds, and synthetic defects on the old ones."""
        golden = self.base.golden
        new = [(part.path.suffix.lower(), part.read_bytes()) for part in self.new_parts[:1]]
        return EvaluationImages(
            held_out=self.new_parts,
            good=self.new_parts,
            golden=[*golden[: NUM_GOLDEN - 1], *new],
            synthetic=[data for _, data in golden],
            is_shift_confirmed=True,
        )


def prepare_adaptation(images: Path, request: PublishRequest, reporter: ProgressReporter) -> Adaptation:
    """Check the store, find the new parts, and load the version in service. Raises GoodpartError."""
    request.check_writable()
    new_parts = deduplicate(find_images(images).good)
    base = load_base_version(request)
    manifest, region = base.bundle.manifest, base.bundle.files.get(REGION)
    reader = ImageReader(
        rule=manifest.input,
        max_pixels=base.settings.max_pixels,
        map_size=manifest.map_size,
        roi=region_from_png(region, is_blanked=True) if region else None,
        num_workers=base.settings.num_workers,
    )
    return Adaptation(base, new_parts, reader, request, reporter)


def deduplicate(good: Sequence[ImageFile]) -> tuple[ImageFile, ...]:
    """Return the parts without identical copies, by the hash of their bytes. Raises TrainingError."""
    by_hash = index_by_digest(good)
    if len(by_hash) > MAX_IMAGES:
        raise adapt_error(f"{len(by_hash)} images are too many to adapt to: train, or use at most {MAX_IMAGES}")
    if len(by_hash) < MIN_IMAGES:
        raise adapt_error(
            f"{len(by_hash)} different images are too few to adapt to: at least {MIN_IMAGES} are required"
        )
    return tuple(by_hash[digest] for digest in sorted(by_hash))


def adapt_error(message: str) -> TrainingError:
    """Return the error of a version that nothing can be added to, or of images that it can't be adapted to."""
    return TrainingError(message, kind="can-not-adapt")


def load_base_version(request: PublishRequest) -> BaseVersion:
    """Load the serving version with its training files. Raises TrainingError, StoreError, BundleError."""
    current = request.state.read_current(request.product)
    if current is None:
        raise nothing_active_error(request.product)
    bundle = request.store.load_bundle(request.product, current.version)
    if bundle.manifest.format < FORMAT:
        raise adapt_error(f"version {current.version} was trained by an earlier release; train it anew")
    folder = request.store.training_folder(request.product, current.version)
    kept = read_calibration_features(folder / CALIBRATION_FEATURES, num_scales=bundle.manifest.num_features)
    try:
        settings = TrainSettings.model_validate_json(paths.read_immutable(folder / SETTINGS, SETTINGS))
        student = load(paths.read_immutable(folder / STUDENT_WEIGHTS, STUDENT_WEIGHTS))
        compare = load(paths.read_immutable(folder / COMPARE_WEIGHTS, COMPARE_WEIGHTS))
    except (StoreError, ValidationError, SafetensorError) as error:
        raise adapt_error(f"the stored features of version {current.version} can't be read: {error}") from error
    if kept is None:
        raise adapt_error(f"version {current.version} has no stored features; train it again")
    return BaseVersion(bundle, settings, restore_networks(settings, student, compare), kept)


def restore_networks(settings: TrainSettings, student: Mapping[str, Tensor], compare: Mapping[str, Tensor]) -> Networks:
    """Create the networks with these weights, on the CPU. Raises TrainingError."""
    networks = create_networks(settings)
    networks.student.recall.write(keys=student["recall.keys"], values=student["recall.values"])
    networks.student.load_state_dict(dict(student))
    networks.compare.load_state_dict(dict(compare))
    networks.student.eval()
    return networks
