"""Adapting the version in service to a few new good parts, in less than a minute and without learning it anew.

What the new parts have and the memory does not explain is written into it; the comparison's constants and the threshold
are then told again from the calibration parts that training kept and from the new ones, each of which is checked
without the items that it gave itself (`docs/decisions/009-adapting-checks-each-part-without-its-own-items.md`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
from app.store.errors import NothingActive, StoreError
from app.store.store import Bundle
from model.bundle import FORMAT, MEASURES, PATCHES, REGION, ExpectsRecord, RangeRecord, sha256_hex
from training.data.dataset import by_digest, find_images
from training.data.input_ranges import widened
from training.errors import CanNotAdapt
from training.export.bundle import NUM_GOLDEN, Draft, Looks, training_files
from training.export.calibrate import Calibrated, calibrate
from training.export.calibration_features import CALIBRATION_FEATURES, Kept, kept_parts
from training.export.onnx import Parity, export
from training.export.parity import MOST_KEPT, verified
from training.export.patches import patch_picture
from training.fit.features import Reader, valid_at_scales
from training.fit.memory import ItemOrigins, extend_memory
from training.fit.networks import Networks, new_networks
from training.fit.statistics import ComparedImages, fit_comparison
from training.progress import Narrator
from training.release.gate import GOOD_GOLDEN
from training.release.publish import Made, Order, Parts, Published, Publisher
from training.report.report import promise_in_words
from training.settings import TrainSettings

# With fewer there is nothing to say; more are a training.
FEWEST_IMAGES, MOST_IMAGES = 4, 200
# Items added at a time, as a share of those that training made, and how many times these there may be in all.
MOST_ADDED_SHARE, MOST_TIMES = 0.5, 3
NUM_TRACED = 2
STUDENT_WEIGHTS, COMPARE_WEIGHTS, SETTINGS = "student.safetensors", "compare.safetensors", "settings.json"


@dataclass(frozen=True)
class Parent:
    """The version that is adapted, with what its training kept."""

    bundle: Bundle
    settings: TrainSettings
    networks: Networks
    kept: Kept

    @property
    def golden(self) -> list[tuple[str, bytes]]:
        """Suffix and bytes of its golden good parts."""
        files = sorted(self.bundle.files.items())
        return [(Path(name).suffix, data) for name, data in files if name.startswith(GOOD_GOLDEN)]


class Adaptation:
    """One adaptation: what is fixed from its start, and the steps."""

    def __init__(self, images: Path, order: Order, narrator: Narrator) -> None:
        self.order = order
        self.narrator = narrator
        order.check_writable()
        self.new = different(find_images(images).good)
        self.parent = parent_of(order)
        self.networks = self.parent.networks
        manifest = self.parent.bundle.manifest
        region = self.parent.bundle.files.get(REGION)
        self.reader = Reader(
            rule=manifest.input,
            max_pixels=self.parent.settings.max_pixels,
            map_size=manifest.map_size,
            interest=region_from_png(region, is_blanked=True) if region else None,
            num_workers=self.parent.settings.num_workers,
        )

    def run(self) -> Published:
        """Remember, tell constants and threshold anew, publish, and activate if the gate lets it."""
        began = time.monotonic()
        parent, networks = self.parent, self.networks
        self.narrator.say(f"adapting {parent.bundle.version} to {len(self.new)} new good parts")
        kept, added = self.remembered()
        self.standardise(kept)
        graphs, detector, parity = self.exported()
        calibrated = self.calibrated(kept)
        self.narrator.say(f"{len(added.images)} items added; {promise_in_words(calibrated.promise)}")
        made = Made(
            draft=self.draft(graphs, calibrated, added),
            detector=detector,
            metrics={
                "promise_in_words": promise_in_words(calibrated.promise),
                "parity": asdict(parity),
                "adapted_from": parent.bundle.version,
                "num_new_parts": len(self.new),
                "num_added_items": len(added.images),
                "num_calibrate": calibrated.promise.num_calibration,
                "settings": parent.settings.shown(),
                "curves": {},
                "training_s": round(time.monotonic() - began, 1),
            },
            training=training_files(networks.student, networks.compare, parent.settings, kept.newest(MOST_KEPT)),
            facts={"adapted from": parent.bundle.version, "new good parts": str(len(self.new))},
        )
        return Publisher(self.order, parent.settings, self.narrator).published(made, self.parts())

    @torch.no_grad()
    def remembered(self) -> tuple[Kept, ItemOrigins]:
        """Write what is new about the parts into the memory; they join the calibration parts, knowing their items."""
        student, settings = self.networks.student, self.parent.settings
        most = min(
            round(MOST_ADDED_SHARE * settings.num_recall_items),
            MOST_TIMES * settings.num_recall_items - student.recall.num_items,
        )
        with self.narrator.step("remembering", total=len(self.new)) as advance:
            features = self.features()
            valid = self.reader.valid(self.new)
            standard = student.standardise(features)
            added = extend_memory(student, standard, valid_at_scales(valid, features)[0], max_items=max(0, most))
            advance(len(self.new))
        return self.parent.kept.joined(features, valid, owners=added.images), added

    @torch.no_grad()
    def features(self) -> tuple[Tensor, ...]:
        """Teacher features of the new parts, scales 1..K. Raises BadImage."""
        seen = [self.networks.teacher(self.reader.to_pixels([image])) for image in self.reader.all_decoded(self.new)]
        return tuple(torch.cat(scale) for scale in zip(*seen, strict=True))

    def standardise(self, kept: Kept) -> None:
        """The comparison's constants, from as many old parts as new ones: both are to look ordinary."""
        num_new, num_old = len(self.new), len(kept) - len(self.new)
        rows = [*range(min(num_new, num_old)), *range(num_old, len(kept))]
        fit_comparison(
            self.networks.compare,
            self.networks.student,
            ComparedImages(
                tuple(torch.from_numpy(scale[rows].astype(np.float32)) for scale in kept.features),
                torch.from_numpy(kept.valid[rows]),
                torch.from_numpy(np.stack([kept.owners == row for row in rows])),
            ),
        )

    def exported(self) -> tuple[Graphs, Detector, Parity]:
        """Graphs that judge as the networks do, on the new parts. Raises ParityFailed."""
        networks = self.networks
        images = list(self.reader.all_decoded(self.new))
        with self.narrator.step("export", total=1) as advance:
            graphs = export(
                networks.teacher, networks.student, networks.compare, self.reader.to_pixels(images[:NUM_TRACED])
            )
            graphs = Graphs(self.parent.bundle.teacher, graphs.student, graphs.compare)
            advance(1)
        detector = Loader(Device("cpu", available_cpus())).open_detector(graphs)
        with self.narrator.step("parity", total=len(images)) as advance:
            agreed = verified(images, networks, detector, reader=self.reader, on_image=advance)
        return graphs, detector, agreed.parity

    def calibrated(self, kept: Kept) -> Calibrated:
        """Scale and threshold from what training kept and the new parts, none of which recalls its own items."""
        with self.narrator.step("calibration", total=len(kept)) as advance:
            found = []
            for row in range(len(kept)):
                found.append(self.compared(kept, row))
                advance(1)
        return calibrate(found, asked=self.parent.settings.false_alarm_rate)

    @torch.no_grad()
    def compared(self, kept: Kept, row: int) -> Comparison:
        """One kept part by the networks."""
        features = tuple(torch.from_numpy(scale[row : row + 1].astype(np.float32)) for scale in kept.features)
        hidden = torch.from_numpy(kept.owners == row)[None]
        valid = torch.from_numpy(kept.valid[row : row + 1])
        answer = self.networks.compare(features, self.networks.student(*features, hidden_items=hidden), valid)
        (comparison,) = to_comparisons({name: one.numpy() for name, one in answer._asdict().items()}, {}, 1)
        return comparison

    def draft(self, graphs: Graphs, calibrated: Calibrated, added: ItemOrigins) -> Draft:
        """The version, before its metrics are known."""
        parent = self.parent
        digests = sorted(sha256_hex(path.read_bytes()) for path in self.new)
        return Draft(
            product=self.order.product,
            created=datetime.now(UTC),
            rule=self.reader.rule,
            interest=self.reader.interest,
            settings=parent.settings,
            graphs=graphs,
            looks=Looks(self.expects(), self.patches(added)),
            map_weights=tuple(self.networks.compare.map_weights.tolist()),
            calibrated=calibrated,
            fingerprint=sha256_hex("\n".join([parent.bundle.manifest.fingerprint, *digests]).encode()),
        )

    def expects(self) -> ExpectsRecord | None:
        """What images look like, widened by the new ones."""
        before = self.parent.bundle.manifest.expects
        if before is None:
            return None
        looks = [measure(image) for image in self.reader.all_decoded(self.new)]
        ranges = {}
        for name in MEASURES:
            old: RangeRecord = getattr(before, name)
            new = widened(name, min(look[name] for look in looks), max(look[name] for look in looks))
            ranges[name] = RangeRecord(low=min(old.low, new.low), high=max(old.high, new.high))
        return ExpectsRecord(**ranges)

    def patches(self, added: ItemOrigins) -> bytes:
        """Pictures of what the memory holds, the new items' last."""
        pictures = []
        if PATCHES in self.parent.bundle.files:
            before = unpack_patches(self.parent.bundle.files[PATCHES])
            pictures = [before.jpeg(item) for item in range(len(before.ends))]
        shown = [image.pixels for image in self.reader.all_decoded(self.new)]
        stride = self.parent.settings.strides[0]
        for image, position in zip(added.images.tolist(), added.positions.tolist(), strict=True):
            pictures.append(patch_picture(shown[image], position, stride=stride))
        return pack_patches(pictures)

    def parts(self) -> Parts:
        """What the version is shown with and held to: golden parts of both kinds, synthetic defects on the old ones."""
        golden = self.parent.golden
        new = [(path.suffix.lower(), path.read_bytes()) for path in self.new[:1]]
        return Parts(
            held_out=self.new,
            good=self.new,
            golden=[*golden[: NUM_GOLDEN - 1], *new],
            tried=[data for _, data in golden],
            is_shift_confirmed=True,
        )


def different(good: Sequence[Path]) -> tuple[Path, ...]:
    """The parts without twins, by the hash of their bytes. Raises CanNotAdapt."""
    by_hash = by_digest(good)
    if len(by_hash) > MOST_IMAGES:
        raise CanNotAdapt(f"{len(by_hash)} images are too many to adapt to: train, or take {MOST_IMAGES} at most")
    if len(by_hash) < FEWEST_IMAGES:
        raise CanNotAdapt(f"{len(by_hash)} different images are too few to adapt to: it takes {FEWEST_IMAGES}")
    return tuple(by_hash[digest] for digest in sorted(by_hash))


def parent_of(order: Order) -> Parent:
    """The version that serves, as its training left it. Raises CanNotAdapt, StoreError, BundleError."""
    current = order.state.read_current(order.product)
    if current is None:
        raise NothingActive(order.product)
    bundle = order.store.load_bundle(order.product, current.version)
    if bundle.manifest.format < FORMAT:
        raise CanNotAdapt(f"version {current.version} was trained by an earlier release; train it anew")
    folder = order.store.training_folder(order.product, current.version)
    kept = kept_parts(folder / CALIBRATION_FEATURES, num_scales=len(bundle.manifest.strides))
    try:
        settings = TrainSettings.model_validate_json(paths.read_immutable(folder / SETTINGS, SETTINGS))
        student = load(paths.read_immutable(folder / STUDENT_WEIGHTS, STUDENT_WEIGHTS))
        compare = load(paths.read_immutable(folder / COMPARE_WEIGHTS, COMPARE_WEIGHTS))
    except (StoreError, ValidationError, SafetensorError) as error:
        raise CanNotAdapt(f"what training kept of version {current.version} can't be read: {error}") from error
    if kept is None:
        raise CanNotAdapt(f"training kept no features of version {current.version}; train it anew")
    return Parent(bundle, settings, networks_of(settings, student, compare), kept)


def networks_of(settings: TrainSettings, student: Mapping[str, Tensor], compare: Mapping[str, Tensor]) -> Networks:
    """The networks with these weights, on the CPU, ready to judge. Raises BadWeights."""
    networks = new_networks(settings)
    networks.student.recall.write(keys=student["recall.keys"], values=student["recall.values"])
    networks.student.load_state_dict(dict(student))
    networks.compare.load_state_dict(dict(compare))
    networks.student.eval()
    return networks
