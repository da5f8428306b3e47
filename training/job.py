"""The training job, in the order in which it happens.

data -> teacher features -> memory filled and taught -> learning -> standardise -> export -> parity -> calibrate ->
figures -> gate -> publish -> activate. Nothing is published before everything has held.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from app.imaging.input_check import measure
from app.inference.explain import pack_patches
from app.inference.sessions import Device, available_cpus
from app.inference.version import Loader
from app.store.labels import LabelStore
from model.bundle import ExpectsRecord, MeasureName, sha256_hex
from model.teacher import teacher_spec
from training.data.dataset import Dataset, Sample, Split, channels_of, find_images, odd_sizes, sound, split
from training.data.input_ranges import expects_of
from training.data.roi import region_of_interest
from training.errors import AlreadyRunning, BadCheckpoint, BadImage, DeviceMissing, OutOfMemory
from training.evaluation.evaluate import opened_mask
from training.export.bundle import NUM_GOLDEN, Draft, Looks, fingerprint, training_files
from training.export.calibrate import calibrate
from training.export.onnx import export
from training.export.parity import verified
from training.export.patches import patch_pictures
from training.fit.features import Reader
from training.fit.memory import ItemOrigins
from training.fit.run_directory import Workplace, opened_workplace, workplace_of
from training.fit.trainer import TrainedNetworks, Trainer
from training.progress import Narrator
from training.release.publish import Made, Order, Parts, Published, Publisher
from training.report.report import data_in_words, promise_in_words
from training.settings import TrainSettings
from training.tracking import check_tracking, tracked

# What a version's metrics call all that it was made from.
KEY = "training_key"
# The exporter must see more than one image, or it takes the batch for fixed.
NUM_TRACED = 2
# How torch's messages name a lack of memory, on the CPU and on CUDA.
LACKS = ("allocate memory", "out of memory", "ALLOC_FAILED")
Measures = dict[MeasureName, float]


@dataclass(frozen=True)
class Manner:
    """How a training deals with trouble. ``resume``: go on from a checkpoint; ``skip_bad``: leave bad images out."""

    resume: bool = False
    skip_bad: bool = False


@dataclass(frozen=True)
class Checked:
    """What is known of the images once each has been decoded. ``digest``: of good ones and settings.

    ``key``: of all else, too, that the result depends on.
    """

    expects: ExpectsRecord | None
    digest: str
    key: str


class Job:
    """One training: what is fixed from its start, and the steps, each of which tells what it does."""

    def __init__(
        self,
        data: Path,
        order: Order,
        settings: TrainSettings,
        narrator: Narrator,
        *,
        manner: Manner = Manner(),  # frozen
    ) -> None:
        self.data = data
        self.order = order
        self.settings = settings
        self.narrator = narrator
        self.manner = manner
        self.device = torch_device(settings.device)
        check_tracking(settings)
        order.check_writable()
        self.dataset = self.found()
        self.split = self.split_of()
        self.reader = Reader(
            rule=settings.input_record(channels=channels_of(self.dataset.good, max_pixels=settings.max_pixels)),
            max_pixels=settings.max_pixels,
            map_size=settings.map_size,
            interest=region_of_interest(data, settings),
            num_workers=settings.num_workers,
        )

    def run(self) -> Published:
        """Train, publish, and activate if it may be. Raises GoodpartError; then nothing was published."""
        began = time.monotonic()
        checked = self.checked
        self.narrator.say(data_in_words(self.dataset, self.split))
        folder = workplace_of(self.order.store.local_folder, self.order.product, checked.key)
        with (
            self.telling_of_checkpoint(folder),
            reporting_lack_of_memory(),
            opened_workplace(folder, resume=self.manner.resume) as place,
        ):
            if self.manner.resume and not place.has_checkpoint:
                self.narrator.say("there is no checkpoint of these data and settings: beginning at the beginning")
            self.take_confirmed(place)
            made = self.made(place, checked.expects, checked.digest)
            told = {"training_s": round(time.monotonic() - began, 1), KEY: checked.key}
            made = replace(made, metrics={**made.metrics, **told})
            done = Publisher(self.order, self.settings, self.narrator).published(made, self.parts())
        self.track(done)
        return done

    @cached_property
    def checked(self) -> Checked:
        """Every image checked, once, and before any is copied. Raises as ``check_images``."""
        expects = self.check_images()
        digest = fingerprint((*self.dataset.good, *self.split.confirmed), self.settings)
        return Checked(expects, digest, self.key(digest))

    @contextmanager
    def telling_of_checkpoint(self, folder: Path) -> Iterator[None]:
        """Say so where a run that ends badly can be gone on with."""
        try:
            yield
        except (AlreadyRunning, BadCheckpoint):
            raise
        except BaseException:
            if Workplace(folder).has_checkpoint:
                self.narrator.say("a checkpoint is kept: the same command with --resume goes on from it")
            raise

    def key(self, digest: str) -> str:
        """What a checkpoint is of: the fingerprint, and all else that what is learned depends on."""
        region = self.reader.interest.to_png() if self.reader.interest else b""
        weights = Path(self.settings.teacher_weights or "")
        own = weights.read_bytes() if weights.is_file() else b""
        roles = [sha256_hex(path.read_bytes()) for path in (*self.split.train, *self.split.standardise)]
        return sha256_hex("\n".join([digest, sha256_hex(region), sha256_hex(own), *roles]).encode())

    def take_confirmed(self, place: Workplace) -> None:
        """Copy what people have confirmed: they may take it back while the training runs."""
        copies = {path: place.copied(path) for path in self.split.confirmed}
        self.split = replace(
            self.split,
            train=tuple(copies.get(path, path) for path in self.split.train),
            confirmed=tuple(copies.values()),
        )

    def track(self, done: Published) -> None:
        """Tell MLflow, if that is wanted; what is published and serves does so whatever MLflow says."""
        try:
            tracked(done, self.order, self.settings)
        except Exception as error:  # noqa: BLE001  # a dozen classes of its own, and of the network's
            self.narrator.say(f"MLflow was not told of this run: {str(error).splitlines()[0]}")

    def found(self) -> Dataset:
        """The images; raises OddSizes, BadImage, or leaves such images out where that is wanted."""
        dataset, settings = find_images(self.data), self.settings
        if self.manner.skip_bad:
            dataset, skipped = sound(dataset, max_pixels=settings.max_pixels, is_size_free=settings.allow_odd_sizes)
            for line in skipped:
                self.narrator.say(f"left out: {line}")
        elif not settings.allow_odd_sizes:
            trouble = odd_sizes(dataset.good, max_pixels=settings.max_pixels)
            if trouble is not None:
                raise trouble
        return dataset

    def split_of(self, *, without: Sequence[Path] = ()) -> Split:
        """Good images by what they are for, with what people have confirmed."""
        feedback, product = LabelStore(self.order.state), self.order.product
        ok = [path for path in feedback.image_paths(product, "ok") if path not in without]
        return split(self.dataset.good, ok=ok, ng=feedback.image_paths(product, "ng"))

    def check_images(self) -> ExpectsRecord | None:
        """Decode every image once, before anything is learned, and say what good ones look like.

        Raises BadImage, or leaves bad images out where that is wanted; a confirmed one that does not fit any more, the
        camera being another, is left out in any case.
        """
        good, test, confirmed = self.dataset.good, self.dataset.test, self.split.confirmed
        with self.narrator.step("checking images", total=len(good) + len(test) + len(confirmed)) as advance:
            looks = dict(zip(good, self.looked_at(good, advance), strict=True))
            known = dict(zip(confirmed, self.looked_at(confirmed, advance), strict=True))
            samples = {sample: self.look_at_sample(sample, advance) for sample in test}
        trouble = [*looks.values(), *samples.values()]
        first = next((one for one in trouble if isinstance(one, BadImage)), None)
        if first is not None and not self.manner.skip_bad:
            raise first
        for one in (*trouble, *known.values()):
            if isinstance(one, BadImage):
                self.narrator.say(f"left out: {one}")
        self.dataset = Dataset(
            good=tuple(path for path, look in looks.items() if not isinstance(look, BadImage)),
            test=tuple(sample for sample, look in samples.items() if look is None),
        )
        self.split = self.split_of(without=[path for path, look in known.items() if isinstance(look, BadImage)])
        return expects_of([look for look in looks.values() if not isinstance(look, BadImage)])

    def looked_at(self, paths: Sequence[Path], advance: Callable[[int], None]) -> Iterator[Measures | BadImage]:
        """What each image looks like, or what is wrong with it."""
        for look in self.reader.made(self.look, paths):
            advance(1)
            yield look

    def look(self, path: Path) -> Measures | BadImage:
        """What an image looks like, or what is wrong with it."""
        try:
            return measure(self.reader.decoded(path))
        except BadImage as error:
            return error

    def look_at_sample(self, sample: Sample, advance: Callable[[int], None]) -> BadImage | None:
        """What is wrong with a test image or its mask, if anything."""
        advance(1)
        try:
            image = self.reader.decoded(sample.path)
            if sample.mask is not None:
                opened_mask(sample.mask, size=(image.width, image.height))
        except BadImage as error:
            return error
        return None

    def made(self, place: Workplace, expects: ExpectsRecord | None, digest: str) -> Made:
        """Learn -> export -> parity -> calibrate: a version that judges."""
        trained = Trainer(self.settings, self.split, self.reader, self.narrator, place, self.device).train()
        networks, calibration = trained.networks, self.split.calibrate
        with self.narrator.step("export", total=1) as advance:
            pixels = self.reader.to_pixels([self.reader.decoded(path) for path in self.split.train[:NUM_TRACED]])
            graphs = export(networks.teacher, networks.student, networks.compare, pixels)
            advance(1)
        detector = Loader(Device("cpu", available_cpus())).open_detector(graphs)
        with self.narrator.step("parity and calibration", total=len(calibration)) as advance:
            images = self.reader.all_decoded(calibration)
            agreed = verified(images, networks, detector, reader=self.reader, on_image=advance)
        calibrated = calibrate(agreed.comparisons, asked=self.settings.false_alarm_rate)
        self.narrator.say(promise_in_words(calibrated.promise))
        draft = Draft(
            product=self.order.product,
            created=datetime.now(UTC),
            rule=self.reader.rule,
            interest=self.reader.interest,
            settings=self.settings,
            graphs=graphs,
            looks=Looks(expects, self.patches(trained.origins)),
            map_weights=tuple(networks.compare.map_weights.tolist()),
            calibrated=calibrated,
            fingerprint=digest,
        )
        return Made(
            draft=draft,
            detector=detector,
            metrics=self.metrics(trained, draft, asdict(agreed.parity)),
            training=training_files(
                networks.student,
                networks.compare,
                self.settings,
                agreed.kept(num_items=networks.student.recall.num_items),
            ),
            facts=self.facts(draft),
        )

    def metrics(self, trained: TrainedNetworks, draft: Draft, parity: dict[str, Any]) -> dict[str, Any]:
        """What is known before a test part was judged."""
        return {
            "promise_in_words": promise_in_words(draft.calibrated.promise),
            "parity": parity,
            "num_train": len(self.split.train),
            "num_confirmed": len(self.split.confirmed),
            "num_standardise": len(self.split.standardise),
            "num_calibrate": len(self.split.calibrate),
            "settings": self.settings.shown(),
            "curves": trained.curves,
            "map_weights": list(draft.map_weights),
            "share_weights": trained.networks.compare.share_weights.tolist(),
        }

    def facts(self, draft: Draft) -> dict[str, str]:
        """Where the version comes from, for the report."""
        tools = draft.manifest({}).tools
        return {
            "good images": data_in_words(self.dataset, self.split),
            "licence of the images": self.settings.data_licence or "not said (setting data_licence)",
            "teacher": f"{self.settings.teacher}, {teacher_spec(self.settings.teacher).licence}",
            "fingerprint": draft.fingerprint,
            "made with": ", ".join(f"{tool} {version}" for tool, version in tools.items()),
        }

    def patches(self, origins: ItemOrigins) -> bytes:
        """Pictures of what the memory holds, for explanations."""
        paths = (*self.split.train, *self.split.standardise)
        with self.narrator.step("pictures of the memory", total=len(paths)) as advance:
            pictures = patch_pictures(
                paths,
                origins,
                rule=self.reader.rule,
                stride=self.settings.strides[0],
                max_pixels=self.settings.max_pixels,
                on_images=advance,
            )
        return pack_patches(pictures)

    def parts(self) -> Parts:
        """What the version is shown with and held to."""
        golden = [(path.suffix.lower(), path.read_bytes()) for path in self.split.calibrate[:NUM_GOLDEN]]
        # Those that were not learned from first: the version in service may have learned from the same.
        good = (*self.split.calibrate, *self.split.standardise, *self.split.train)
        return Parts(
            held_out=self.split.calibrate,
            good=[path for path in good if path not in self.split.confirmed],
            golden=golden,
            test=self.dataset.test,
            folder=self.data,
        )


@contextmanager
def reporting_lack_of_memory() -> Iterator[None]:
    """Turn what Python and torch raise for want of memory into OutOfMemory."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfMemory(str(error).splitlines()[0] if str(error) else "Python could not allocate") from error
    except RuntimeError as error:
        if not any(lack in str(error) for lack in LACKS):
            raise
        raise OutOfMemory(str(error).splitlines()[0]) from error


def torch_device(asked: str) -> torch.device:
    """The device to train on; raises DeviceMissing."""
    has_cuda = torch.cuda.is_available()
    if asked == "cuda" and not has_cuda:
        raise DeviceMissing
    return torch.device("cuda" if has_cuda and asked != "cpu" else "cpu")
