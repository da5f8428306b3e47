"""The training job, in order.

data -> teacher features -> memory -> distillation -> statistics -> export -> parity -> calibration -> evaluation ->
gate -> publish -> activate. Nothing is published before every step has succeeded.
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
from app.inference.detector import Graphs
from app.inference.explain import pack_patches
from app.inference.sessions import Device, available_cpus
from app.inference.version import Loader
from app.store.labels import LabelStore
from model.bundle import ExpectsRecord, MeasureName, sha256_hex
from model.teacher_specs import get_teacher_spec
from training.data.dataset import (
    Dataset,
    Sample,
    Split,
    detect_channels,
    drop_bad_images,
    find_images,
    find_odd_sizes,
    split_images,
)
from training.data.input_ranges import compute_input_ranges
from training.data.roi import read_region_of_interest
from training.errors import AlreadyRunning, BadCheckpoint, BadImage, TrainingError
from training.evaluation.evaluate import open_mask
from training.export.bundle import NUM_GOLDEN, Appearance, BundleBuilder, build_training_files, compute_fingerprint
from training.export.calibrate import calibrate
from training.export.onnx import export_graphs
from training.export.parity import verify_parity
from training.export.patches import render_patches
from training.export.teachers import TEACHER_KEY, compute_teacher_key, find_exported_teacher
from training.fit.features import ImageReader
from training.fit.memory import ItemOrigins
from training.fit.networks import Networks
from training.fit.run_directory import RunDirectory, get_run_path, open_run_directory
from training.fit.trainer import TrainedNetworks, Trainer
from training.progress import ProgressReporter
from training.release.publish import EvaluationImages, Published, Publisher, PublishRequest, TrainedVersion
from training.report.report import describe_data, describe_promise
from training.settings import TrainSettings
from training.tracking import check_tracking, track

# What a version's metrics call all that it was trained from.
KEY = "training_key"
# With a single image the exporter would make the batch size fixed.
NUM_TRACED = 2
# How torch's messages name a lack of memory, on the CPU and on CUDA.
MEMORY_MESSAGES = ("allocate memory", "out of memory", "ALLOC_FAILED")
Measures = dict[MeasureName, float]


@dataclass(frozen=True)
class RunOptions:
    """``resume``: continue from a checkpoint; ``skip_bad``: leave bad images out."""

    resume: bool = False
    skip_bad: bool = False


@dataclass(frozen=True)
class CheckedImages:
    """Facts about the decoded images. ``digest``: of good images and settings.

    ``key``: of everything that the result depends on.
    """

    expects: ExpectsRecord | None
    digest: str
    key: str


class TrainingJob:
    """One training: its fixed inputs, and the steps."""

    def __init__(
        self,
        data: Path,
        request: PublishRequest,
        settings: TrainSettings,
        reporter: ProgressReporter,
        *,
        options: RunOptions = RunOptions(),  # frozen
    ) -> None:
        self.data = data
        self.request = request
        self.settings = settings
        self.reporter = reporter
        self.options = options
        self.device = choose_torch_device(settings.device)
        limit_threads()
        check_tracking(settings)
        request.check_writable()
        self.dataset = self.find_dataset()
        self.split = self.split_dataset()
        self.reader = ImageReader(
            rule=settings.input_record(channels=detect_channels(self.dataset.good, max_pixels=settings.max_pixels)),
            max_pixels=settings.max_pixels,
            map_size=settings.map_size,
            roi=read_region_of_interest(data, settings),
            num_workers=settings.num_workers,
        )

    def run(self) -> Published:
        """Train, publish, and activate if the gate passes. Raises GoodpartError; then nothing was published."""
        began = time.monotonic()
        checked = self.checked_images
        self.reporter.print_line(describe_data(self.dataset, self.split))
        folder = get_run_path(self.request.store.local_folder, self.request.product, checked.key)
        with (
            self.mention_checkpoint(folder),
            translate_memory_errors(),
            open_run_directory(folder, resume=self.options.resume) as run_directory,
        ):
            if self.options.resume and not run_directory.has_checkpoint:
                self.reporter.print_line(
                    "there is no checkpoint of these data and settings: beginning at the beginning"
                )
            self.copy_confirmed(run_directory)
            trained = self.build_version(run_directory, checked.expects, checked.digest)
            added = {"training_s": round(time.monotonic() - began, 1), KEY: checked.key}
            trained = replace(trained, metrics={**trained.metrics, **added})
            done = Publisher(self.request, self.settings, self.reporter).publish(trained, self.select_images())
        self.track_run(done)
        return done

    @cached_property
    def checked_images(self) -> CheckedImages:
        """All images checked, once, and before any is copied. Raises as ``check_images``."""
        expects = self.check_images()
        digest = compute_fingerprint((*self.dataset.good, *self.split.confirmed), self.settings)
        return CheckedImages(expects, digest, self.compute_key(digest))

    @contextmanager
    def mention_checkpoint(self, folder: Path) -> Iterator[None]:
        """Mention the checkpoint where the run ends early."""
        try:
            yield
        except (AlreadyRunning, BadCheckpoint):
            raise
        except BaseException:
            if RunDirectory(folder).has_checkpoint:
                self.reporter.print_line("a checkpoint is kept: the same command with --resume goes on from it")
            raise

    def compute_key(self, digest: str) -> str:
        """Return a digest of the fingerprint and of everything else that training depends on."""
        region = self.reader.roi.to_png() if self.reader.roi else b""
        weights = Path(self.settings.teacher_weights or "")
        own = weights.read_bytes() if weights.is_file() else b""
        roles = [sha256_hex(path.read_bytes()) for path in (*self.split.train, *self.split.standardise)]
        return sha256_hex("\n".join([digest, sha256_hex(region), sha256_hex(own), *roles]).encode())

    def copy_confirmed(self, run_directory: RunDirectory) -> None:
        """Copy the labelled images, which may be removed while the training runs."""
        copies = {path: run_directory.copy_file(path) for path in self.split.confirmed}
        self.split = replace(
            self.split,
            train=tuple(copies.get(path, path) for path in self.split.train),
            confirmed=tuple(copies.values()),
        )

    def track_run(self, done: Published) -> None:
        """Log the run to MLflow if configured; an error there does not affect the version."""
        try:
            track(done, self.request, self.settings)
        except Exception as error:  # noqa: BLE001  # a dozen classes of its own, and of the network's
            self.reporter.print_line(f"this run could not be logged to MLflow: {str(error).splitlines()[0]}")

    def find_dataset(self) -> Dataset:
        """Find the images. Raises TrainingError, or leaves such images out with ``skip_bad``."""
        dataset, settings = find_images(self.data), self.settings
        if self.options.skip_bad:
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

    def split_dataset(self, *, without: Sequence[Path] = ()) -> Split:
        """Split the good images by their use, with the labelled ones."""
        feedback, product = LabelStore(self.request.state), self.request.product
        ok = [path for path in feedback.image_paths(product, "ok") if path not in without]
        return split_images(self.dataset.good, ok=ok, ng=feedback.image_paths(product, "ng"))

    def check_images(self) -> ExpectsRecord | None:
        """Decode every image once, before training, and return the input ranges of the good ones.

        Raises BadImage, or leaves bad images out with ``skip_bad``. A labelled image that no longer fits, since the
        camera has changed, is left out in any case.
        """
        good, test, confirmed = self.dataset.good, self.dataset.test, self.split.confirmed
        with self.reporter.step("checking images", total=len(good) + len(test) + len(confirmed)) as advance:
            looks = dict(zip(good, self.measure_all(good, advance), strict=True))
            known = dict(zip(confirmed, self.measure_all(confirmed, advance), strict=True))
            samples = {sample: self.check_sample(sample, advance) for sample in test}
        checked = [*looks.values(), *samples.values()]
        first = next((one for one in checked if isinstance(one, BadImage)), None)
        if first is not None and not self.options.skip_bad:
            raise first
        for one in (*checked, *known.values()):
            if isinstance(one, BadImage):
                self.reporter.print_line(f"left out: {one}")
        self.dataset = Dataset(
            good=tuple(path for path, look in looks.items() if not isinstance(look, BadImage)),
            test=tuple(sample for sample, look in samples.items() if look is None),
        )
        self.split = self.split_dataset(without=[path for path, look in known.items() if isinstance(look, BadImage)])
        return compute_input_ranges([look for look in looks.values() if not isinstance(look, BadImage)])

    def measure_all(self, paths: Sequence[Path], advance: Callable[[int], None]) -> Iterator[Measures | BadImage]:
        """Yield each image's measures, or its error."""
        for look in self.reader.map(self.measure_image, paths):
            advance(1)
            yield look

    def measure_image(self, path: Path) -> Measures | BadImage:
        """Return an image's measures, or its error."""
        try:
            return measure(self.reader.decode(path))
        except BadImage as error:
            return error

    def check_sample(self, sample: Sample, advance: Callable[[int], None]) -> BadImage | None:
        """Return the error of a test image or its mask, or None."""
        advance(1)
        try:
            image = self.reader.decode(sample.path)
            if sample.mask is not None:
                open_mask(sample.mask, size=(image.width, image.height))
        except BadImage as error:
            return error
        return None

    def build_version(self, run_directory: RunDirectory, expects: ExpectsRecord | None, digest: str) -> TrainedVersion:
        """Train, export, check parity and calibrate."""
        trained = Trainer(self.settings, self.split, self.reader, self.reporter, run_directory, self.device).train()
        networks, calibration = trained.networks, self.split.calibrate
        with self.reporter.step("export", total=1) as advance:
            graphs, teacher_key = self.export_graphs(networks)
            advance(1)
        detector = Loader(Device("cpu", available_cpus())).open_detector(graphs)
        with self.reporter.step("parity and calibration", total=len(calibration)) as advance:
            images = self.reader.decode_all(calibration)
            agreed = verify_parity(images, networks, detector, reader=self.reader, on_image=advance)
        calibrated = calibrate(agreed.comparisons, asked=self.settings.false_alarm_rate)
        self.reporter.print_line(describe_promise(calibrated.promise))
        builder = BundleBuilder(
            product=self.request.product,
            created=datetime.now(UTC),
            rule=self.reader.rule,
            roi=self.reader.roi,
            settings=self.settings,
            graphs=graphs,
            appearance=Appearance(expects, self.render_patches(trained.origins)),
            map_weights=tuple(networks.compare.map_weights.tolist()),
            calibration=calibrated,
            fingerprint=digest,
        )
        return TrainedVersion(
            builder=builder,
            detector=detector,
            metrics=self.collect_metrics(trained, builder, asdict(agreed.parity), teacher_key),
            training=build_training_files(
                networks.student,
                networks.compare,
                self.settings,
                agreed.to_calibration_features(num_items=networks.student.recall.num_items),
            ),
            facts=self.collect_facts(builder),
        )

    def export_graphs(self, networks: Networks) -> tuple[Graphs, str]:
        """Export the networks; return the key of the teacher's graph as well, which a version in service may have."""
        pixels = self.reader.to_pixels([self.reader.decode(path) for path in self.split.train[:NUM_TRACED]])
        key = compute_teacher_key(networks.teacher, pixels)
        exported = find_exported_teacher(self.request.store, self.request.state, name=self.settings.teacher, key=key)
        graphs = export_graphs(networks.teacher, networks.student, networks.compare, pixels, exported_teacher=exported)
        return graphs, key

    def collect_metrics(
        self, trained: TrainedNetworks, builder: BundleBuilder, parity: dict[str, Any], teacher_key: str
    ) -> dict[str, Any]:
        """Return the metrics that are known before the evaluation."""
        return {
            "promise_in_words": describe_promise(builder.calibration.promise),
            "parity": parity,
            "num_train": len(self.split.train),
            "num_confirmed": len(self.split.confirmed),
            "num_standardise": len(self.split.standardise),
            "num_calibrate": len(self.split.calibrate),
            "settings": self.settings.to_report(),
            "curves": trained.curves,
            "map_weights": list(builder.map_weights),
            TEACHER_KEY: teacher_key,
        }

    def collect_facts(self, builder: BundleBuilder) -> dict[str, str]:
        """Return the origin of the version, for the report."""
        tools = builder.build_manifest({}).tools
        return {
            "good images": describe_data(self.dataset, self.split),
            "licence of the images": self.settings.data_licence or "not said (setting data_licence)",
            "teacher": f"{self.settings.teacher}, {get_teacher_spec(self.settings.teacher).licence}",
            "fingerprint": builder.fingerprint,
            "trained with": ", ".join(f"{tool} {version}" for tool, version in tools.items()),
        }

    def render_patches(self, origins: ItemOrigins) -> bytes:
        """Render pictures of the memory's items, for explanations."""
        paths = (*self.split.train, *self.split.standardise)
        with self.reporter.step("pictures of the memory", total=len(paths)) as advance:
            pictures = render_patches(
                paths,
                origins,
                rule=self.reader.rule,
                stride=self.settings.strides[0],
                max_pixels=self.settings.max_pixels,
                on_images=advance,
            )
        return pack_patches(pictures)

    def select_images(self) -> EvaluationImages:
        """Return the images for evaluation, golden images and the gate."""
        golden = [(path.suffix.lower(), path.read_bytes()) for path in self.split.calibrate[:NUM_GOLDEN]]
        # Those that were not learned from first: the version in service may have learned from the same.
        good = (*self.split.calibrate, *self.split.standardise, *self.split.train)
        return EvaluationImages(
            held_out=self.split.calibrate,
            good=[path for path in good if path not in self.split.confirmed],
            golden=golden,
            test=self.dataset.test,
            folder=self.data,
        )


@contextmanager
def translate_memory_errors() -> Iterator[None]:
    """Translate Python's and torch's out-of-memory errors to TrainingError."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise memory_error(str(error).splitlines()[0] if str(error) else "Python could not allocate") from error
    except RuntimeError as error:
        if not any(lack in str(error) for lack in MEMORY_MESSAGES):
            raise
        raise memory_error(str(error).splitlines()[0]) from error


def memory_error(why: str) -> TrainingError:
    """Return the error of a training that needs more memory than there is."""
    return TrainingError(
        f"out of memory: {why}; lower feature_memory_gib, learning.batch_size or num_candidates", kind="out-of-memory"
    )


def limit_threads() -> None:
    """Use no more threads than the container's quota has processors; torch counts those of the machine."""
    torch.set_num_threads(min(torch.get_num_threads(), available_cpus()))


def choose_torch_device(asked: str) -> torch.device:
    """Return the device to train on. Raises TrainingError."""
    has_cuda = torch.cuda.is_available()
    if asked == "cuda" and not has_cuda:
        raise TrainingError("torch finds no CUDA device; set device to 'cpu' or 'auto'", kind="device-missing")
    return torch.device("cuda" if has_cuda and asked != "cpu" else "cpu")
