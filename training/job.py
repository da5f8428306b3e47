"""The training job, in the order in which it happens.

data -> teacher features -> memory filled and taught -> learning -> standardise -> export -> parity -> calibrate ->
evaluate -> publish -> activate. Nothing is written before everything has held.
"""

import getpass
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor

from app.engine.decode import Image
from app.engine.detector import Comparison, Detector, Floats, batch_of
from app.engine.explain import packed_patches
from app.engine.guard import measured
from app.engine.sessions import Device, available_cpus
from app.engine.version import Loader, Version
from app.store.state import State
from app.store.store import Store
from model.bundle import ExpectsRecord, InputRecord, sha256_hex
from model.student import Student
from model.teacher import Teacher
from training.calibrate import calibrate
from training.data import Dataset, Split, channels_of, decoded, find_images, refuse_odd_sizes, split
from training.errors import BadSettings, DeviceMissing, NotLearned
from training.evaluate import evaluate, opened_mask
from training.expects import expects_of
from training.export import Parity, check_parity, export, network_comparison
from training.features import pixels_of, teacher_features, valid_at_scales, valid_of
from training.interest import region_of_interest
from training.learn import Lesson, LossParts, learn, num_steps_for
from training.memory import Exemplars, Origins, fill_memory, recalled_by, teach_memory, tell_usual_distances
from training.networks import Networks, new_networks
from training.patches import patch_pictures
from training.progress import Narrator
from training.report import data_in_words, promise_in_words
from training.sensitivity import Cell, num_defects, sensitivity
from training.settings import TrainSettings
from training.standardise import fit_comparison
from training.write import Draft, Looks, fingerprint, golden_files, metrics_files, training_files

# The exporter must see more than one image, or it takes the batch for fixed.
NUM_TRACED = 2


@dataclass(frozen=True)
class Order:
    """What is to be trained and where it goes. ``sign_key``: what the version is signed with, None where by nothing."""

    data: Path
    product: str
    store: Store
    state: State
    activates: bool
    sign_key: Ed25519PrivateKey | None = None


@dataclass(frozen=True)
class Published:
    """What a training made. ``metrics``: as in ``metrics.json``."""

    version: str
    is_active: bool
    metrics: dict[str, object]


@dataclass(frozen=True)
class Verified:
    """Calibration parts on which graphs and networks agree. ``features``: the teacher's, scales 1..K."""

    comparisons: list[Comparison]
    valid: list[Floats]
    features: tuple[Tensor, ...]
    parity: Parity

    @classmethod
    def joined(cls, parts: Sequence["Verified"]) -> "Verified":
        """Many as one; the parity is that of the worst."""
        return cls(
            comparisons=[comparison for part in parts for comparison in part.comparisons],
            valid=[valid for part in parts for valid in part.valid],
            features=tuple(torch.cat(scale) for scale in zip(*(part.features for part in parts), strict=True)),
            parity=Parity(
                num_images=sum(part.parity.num_images for part in parts),
                score=max(part.parity.score for part in parts),
                map=max(part.parity.map for part in parts),
            ),
        )


class Job:
    """One training: what is fixed from its start, and the steps, each of which tells what it does."""

    def __init__(self, order: Order, settings: TrainSettings, narrator: Narrator) -> None:
        self.order = order
        self.settings = settings
        self.narrator = narrator
        self.device = torch_device(settings.device)
        self.generator = torch.Generator().manual_seed(settings.seed)
        order.store.check_writable(order.product)
        if order.activates:
            order.state.check_writable(order.product)
        self.interest = region_of_interest(order.data, settings)
        self.dataset: Dataset = find_images(order.data)
        if not settings.allow_odd_sizes:
            refuse_odd_sizes(self.dataset.good, max_pixels=settings.max_pixels)
        self.split: Split = split(self.dataset.good)
        self.rule: InputRecord = settings.input_record(
            channels=channels_of(self.dataset.good, max_pixels=settings.max_pixels)
        )

    def run(self) -> Published:
        """Train, publish, and activate if the order says so. Raises GoodpartError; then nothing was written."""
        began = time.monotonic()
        self.narrator.say(data_in_words(self.dataset, self.split))
        expects = self.check_images()
        networks, origins = self.learned()
        draft, detector, verified = self.exported(networks, Looks(expects, self.patches(origins)))
        self.narrator.say(promise_in_words(draft.calibrated.promise))
        metrics = {
            "promise_in_words": promise_in_words(draft.calibrated.promise),
            **self.evaluated(draft, detector),
            "sensitivity": [asdict(cell) for cell in self.seen(draft, detector)],
            "parity": asdict(verified.parity),
            "num_train": len(self.split.train),
            "num_standardise": len(self.split.standardise),
            "num_calibrate": len(self.split.calibrate),
            "training_s": round(time.monotonic() - began, 1),
            "settings": self.settings.model_dump(mode="json"),
        }
        files = {
            **draft.files(),
            **golden_files(self.split.calibrate, draft, detector),
            **metrics_files(self.order.product, metrics),
        }
        training = training_files(networks.student, networks.compare, self.settings, verified.features)
        return Published(*self.published(draft, files, training), metrics)

    def check_images(self) -> ExpectsRecord | None:
        """Decode every image once, before anything is learned, and say what good ones look like. Raises BadImage."""
        good, test = self.dataset.good, self.dataset.test
        looks = []
        with self.narrator.step("checking images", total=len(good) + len(test)) as advance:
            for path in good:
                looks.append(measured(self.decoded(path)))
                advance(1)
            for sample in test:
                image = self.decoded(sample.path)
                if sample.mask is not None:
                    opened_mask(sample.mask, size=(image.width, image.height))
                advance(1)
        return expects_of(looks)

    def learned(self) -> tuple[Networks, Origins]:
        """Teacher features -> memory -> learning -> standardise; the networks end on the CPU."""
        torch.manual_seed(self.settings.seed)
        networks = new_networks(self.settings)
        networks.to(self.device)
        exemplars = self.exemplars(networks)
        networks.to(self.device)
        if not self.settings.quick:
            self.teach(networks.student, exemplars)
        tell_usual_distances(networks.student, exemplars)
        if not self.settings.quick:
            self.learn(networks.student, Lesson(exemplars, recalled_by(networks.student, exemplars)))
        networks.student.eval()
        self.standardise(networks)
        networks.to(torch.device("cpu"))
        return networks, exemplars.origins

    def exemplars(self, networks: Networks) -> Exemplars:
        """What there is to learn from; on the way the student gets its statistics and its memory, on the CPU."""
        paths = self.split.train
        features = self.features(networks.teacher, paths, "features of good parts")
        valid = valid_at_scales(self.valid(paths), features)
        if not all(scale.any() for scale in valid):
            raise BadSettings("the region of interest is thinner than a feature: widen it, or take smaller strides")
        student = networks.student.to("cpu")
        student.fit_statistics(features, valid)
        with torch.no_grad():
            standard = student.standardised(features)
        return Exemplars(standard, valid, self.filled(student, standard[0], valid[0]))

    def features(self, teacher: Teacher, paths: Sequence[Path], name: str) -> tuple[Tensor, ...]:
        """Teacher features of these images, on the CPU."""
        with self.narrator.step(name, total=len(paths)) as advance:
            return teacher_features(
                teacher,
                paths,
                rule=self.rule,
                max_pixels=self.settings.max_pixels,
                on_images=advance,
            )

    def valid(self, paths: Sequence[Path]) -> Tensor:
        """Where each image shows the part, at the size of the map."""
        return valid_of(
            paths,
            rule=self.rule,
            max_pixels=self.settings.max_pixels,
            map_size=self.settings.map_size,
            interest=self.interest,
        )

    def filled(self, student: Student, standard: Tensor, valid: Tensor) -> Origins:
        """The memory, written from a coreset of the first scale."""
        with self.narrator.step("memory", total=student.recall.num_items) as advance:
            origins = fill_memory(
                student,
                standard,
                valid,
                num_candidates=self.settings.num_candidates,
                generator=self.generator,
            )
            advance(student.recall.num_items)
        return origins

    def teach(self, student: Student, exemplars: Exemplars) -> None:
        """The memory's own gradient steps; raises NotLearned."""
        settings = self.settings.memory
        with self.narrator.step("teaching the memory", total=settings.num_steps) as advance:

            def on_step(step: int, loss: float) -> None:
                refuse_infinite(loss, step=step)
                advance(1, note=f"loss {loss:.4f}")

            teach_memory(student, exemplars, settings=settings, generator=self.generator, on_step=on_step)

    def learn(self, student: Student, lesson: Lesson) -> None:
        """The student's gradient steps; raises NotLearned."""
        settings = self.settings.learning
        total = num_steps_for(lesson.exemplars.num_images, settings)
        with self.narrator.step("learning", total=total) as advance:

            def on_step(step: int, parts: LossParts) -> None:
                refuse_infinite(parts.distillation, step=step)
                advance(1, note=f"loss {parts.distillation:.4f}")

            learn(student, lesson, settings=settings, generator=self.generator, on_step=on_step)

    def standardise(self, networks: Networks) -> None:
        """The comparison's constants from good parts that nothing was learned from."""
        paths = self.split.standardise
        fit_comparison(
            networks.compare,
            networks.student,
            self.features(networks.teacher, paths, "standardise"),
            self.valid(paths),
            emphasis=self.settings.emphasis,
        )

    def patches(self, origins: Origins) -> bytes:
        """Pictures of what the memory holds, for explanations."""
        paths = self.split.train
        with self.narrator.step("pictures of the memory", total=len(paths)) as advance:
            pictures = patch_pictures(
                paths,
                origins,
                rule=self.rule,
                stride=self.settings.strides[0],
                max_pixels=self.settings.max_pixels,
                on_images=advance,
            )
        return packed_patches(pictures)

    def exported(self, networks: Networks, looks: Looks) -> tuple[Draft, Detector, Verified]:
        """Export -> parity -> calibrate; what comes back can judge."""
        pixels = pixels_of([self.decoded(path) for path in self.split.train[:NUM_TRACED]])
        with self.narrator.step("export", total=1) as advance:
            graphs = export(networks.teacher, networks.student, networks.compare, pixels)
            advance(1)
        detector = Loader(Device("cpu", available_cpus())).detector(graphs)
        verified = self.verified(networks, detector)
        draft = Draft(
            product=self.order.product,
            created=datetime.now(UTC),
            rule=self.rule,
            interest=self.interest,
            settings=self.settings,
            graphs=graphs,
            looks=looks,
            scale_weights=tuple(networks.compare.score_weights.tolist()),
            calibrated=calibrate(verified.comparisons, verified.valid, asked=self.settings.false_alarm_rate),
            fingerprint=fingerprint(self.dataset.good, self.settings),
        )
        return draft, detector, verified

    def verified(self, networks: Networks, detector: Detector) -> Verified:
        """What the graphs say of the calibration parts, once the networks agree. Raises ParityFailed."""
        paths = self.split.calibrate
        with self.narrator.step("parity and calibration", total=len(paths)) as advance:
            checked = []
            for path in paths:
                checked.append(self.checked(self.decoded(path), networks, detector))
                advance(1)
        return Verified.joined(checked)

    def checked(self, image: Image, networks: Networks, detector: Detector) -> Verified:
        """One calibration part, judged by the graphs as the service will judge it, and by the networks."""
        batch = batch_of([image], map_size=self.settings.map_size, interest=self.interest)
        found = detector.run(batch)
        with torch.no_grad():
            features = networks.teacher(torch.from_numpy(batch.pixels))
        expected = network_comparison(features, networks.student, networks.compare, torch.from_numpy(batch.valid))
        return Verified(found, list(batch.valid), features, check_parity(expected, found))

    def decoded(self, path: Path) -> Image:
        """An image through the service's decoder; raises BadImage."""
        return decoded(path, self.rule, max_pixels=self.settings.max_pixels)

    def evaluated(self, draft: Draft, detector: Detector) -> dict[str, object]:
        """Figures on the test set, none where there is no test set."""
        samples = self.dataset.test
        if not samples:
            return {}
        with self.narrator.step("evaluation", total=len(samples)) as advance:
            return evaluate(
                self.drafted(draft, detector),
                samples,
                folder=self.order.data,
                max_pixels=self.settings.max_pixels,
                on_image=advance,
            )

    def seen(self, draft: Draft, detector: Detector) -> tuple[Cell, ...]:
        """Which synthetic defects on calibration parts the version finds."""
        parts = self.split.calibrate
        with self.narrator.step("synthetic defects", total=num_defects(len(parts))) as advance:
            return sensitivity(
                self.drafted(draft, detector),
                parts,
                seed=self.settings.seed,
                max_pixels=self.settings.max_pixels,
                on_defect=advance,
            )

    def drafted(self, draft: Draft, detector: Detector) -> Version:
        """A version that judges before it is published."""
        return Version(
            name="draft",
            manifest=draft.manifest(draft.files()),
            detector=detector,
            calibration=draft.calibrated.scores,
            interest=self.interest,
        )

    def published(self, draft: Draft, files: Mapping[str, bytes], training: Mapping[str, bytes]) -> tuple[str, bool]:
        """Write the version and, if the order says so, make it serve: its name and whether. Raises StoreUnusable."""
        order, teacher = self.order, draft.graphs.teacher
        order.store.add_teacher(sha256_hex(teacher), teacher)
        manifest = draft.manifest(files).model_dump_json(indent=1).encode() + b"\n"
        version = order.store.publish(
            order.product, manifest=manifest, files=files, training=training, sign_key=order.sign_key
        )
        if order.activates:
            order.state.activate(order.product, version, at=datetime.now(UTC), by=user_name(), why="trained")
        return version, order.activates


def refuse_infinite(loss: float, *, step: int) -> None:
    """Raise NotLearned where a loss is no number any more."""
    if not math.isfinite(loss):
        raise NotLearned(step=step)


def user_name() -> str:
    """Who trains, for the audit; a container's user may have a number and no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "train"


def torch_device(asked: str) -> torch.device:
    """The device to train on; raises DeviceMissing."""
    has_cuda = torch.cuda.is_available()
    if asked == "cuda" and not has_cuda:
        raise DeviceMissing
    return torch.device("cuda" if has_cuda and asked != "cpu" else "cpu")
