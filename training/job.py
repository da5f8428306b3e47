"""The training job, in order.

data -> teacher features -> memory -> distillation -> statistics -> export -> parity -> calibration -> evaluation ->
gate -> publish -> activate. Nothing is published before every step has succeeded.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from app.inference.detector import Detector, Graphs
from app.inference.explain import pack_patches
from app.inference.sessions import Device, available_cpus
from app.inference.version import Loader
from app.store.labels import LabelStore
from model.teacher_specs import get_teacher_spec
from training.data.images import ImageFile
from training.data.prepare import DataPreparation, PreparedData
from training.errors import AlreadyRunning, BadCheckpoint, TrainingError
from training.export.bundle import NUM_GOLDEN, Appearance, BundleBuilder, build_training_files
from training.export.calibrate import calibrate
from training.export.onnx import NUM_TRACED, Parity, export_graphs
from training.export.parity import ParityResult, verify_parity
from training.export.patches import render_patches
from training.export.teachers import compute_teacher_key, find_exported_teacher
from training.fit.memory import ItemOrigins
from training.fit.networks import Networks
from training.fit.run_directory import RunDirectory, get_run_path, open_run_directory
from training.fit.trainer import Curves, Trainer
from training.progress import ProgressReporter
from training.release.publish import EvaluationImages, Published, Publisher, PublishRequest, TrainedVersion
from training.report.report import describe_data, describe_promise
from training.settings import TrainSettings
from training.tracking import check_tracking, track
from training.version_metrics import TrainingMetrics

# How torch's messages name a lack of memory, on the CPU and on CUDA.
MEMORY_MESSAGES = ("allocate memory", "out of memory", "ALLOC_FAILED")


@dataclass(frozen=True)
class RunOptions:
    """``resume``: continue from a checkpoint; ``skip_bad``: leave bad images out."""

    resume: bool = False
    skip_bad: bool = False


@dataclass(frozen=True)
class ExportedGraphs:
    """The graphs of a version, and the key by which another training finds its teacher's."""

    graphs: Graphs
    teacher_key: str


@dataclass(frozen=True)
class TrainingJob:
    """One training on the images in the folder ``data``: ``prepare()`` checks them, ``train()`` does the rest."""

    data: Path
    request: PublishRequest
    settings: TrainSettings
    reporter: ProgressReporter
    options: RunOptions = RunOptions()  # frozen

    def run(self) -> Published:
        """Train, publish, and activate if the gate passes. Raises GoodpartError; then nothing was published."""
        return self.train(self.prepare())

    def prepare(self) -> PreparedData:
        """Check machine, settings and store; then find, split and check the images. Raises GoodpartError."""
        choose_torch_device(self.settings.device)
        limit_threads()
        check_tracking(self.settings)
        self.request.check_writable()
        labels = LabelStore(self.request.state)
        skip_bad = self.options.skip_bad
        return DataPreparation(
            self.data, self.request.product, labels, self.settings, self.reporter, skip_bad=skip_bad
        ).run()

    def train(self, prepared: PreparedData) -> Published:
        """Train on prepared data, publish, and activate if the gate passes. Raises as ``run``."""
        self.reporter.print_line(describe_data(prepared.dataset, prepared.split))
        with self.open_run(prepared.key) as run_directory:
            data = copy_confirmed(prepared, run_directory)
            trained = self.build_version(data, run_directory)
            publisher = Publisher(self.request, prepared.settings, self.reporter)
            published = publisher.publish(trained, select_images(data))
        self.track_run(published, prepared.settings)
        return published

    @contextmanager
    def open_run(self, key: str) -> Iterator[RunDirectory]:
        """Open the directory of this run; where it ends early, say whether a checkpoint is kept."""
        folder = get_run_path(self.request.store.local_folder, self.request.product, key)
        resume = self.options.resume
        with (
            self.mention_checkpoint(folder),
            translate_memory_errors(),
            open_run_directory(folder, resume=resume) as run_directory,
        ):
            if resume and not run_directory.has_checkpoint:
                self.reporter.print_line(
                    "there is no checkpoint of these data and settings: beginning at the beginning"
                )
            yield run_directory

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

    def track_run(self, published: Published, settings: TrainSettings) -> None:
        """Log the run to MLflow if configured; an error there does not affect the version."""
        try:
            track(published, self.request, settings)
        except Exception as error:  # noqa: BLE001  # a dozen classes of its own, and of the network's
            self.reporter.print_line(f"this run could not be logged to MLflow: {str(error).splitlines()[0]}")

    def build_version(self, data: PreparedData, run_directory: RunDirectory) -> TrainedVersion:
        """Train, export, check parity and calibrate."""
        settings = data.settings
        device = choose_torch_device(settings.device)
        trained = Trainer(settings, data.split, data.reader, self.reporter, run_directory, device).train()
        networks = trained.networks
        exported = self.export(networks, data)
        detector = Loader(Device("cpu", available_cpus())).open_detector(exported.graphs)
        agreed = self.verify(networks, detector, data)
        calibration = calibrate(agreed.comparisons, asked=settings.false_alarm_rate)
        self.reporter.print_line(describe_promise(calibration.promise))
        builder = BundleBuilder(
            product=self.request.product,
            created=datetime.now(UTC),
            rule=data.reader.rule,
            roi=data.reader.roi,
            settings=settings,
            graphs=exported.graphs,
            appearance=Appearance(data.expects, self.render_patches(trained.origins, data)),
            map_weights=tuple(networks.compare.map_weights.tolist()),
            calibration=calibration,
            fingerprint=data.digest,
        )
        kept = agreed.to_calibration_features(num_items=networks.student.recall.num_items)
        return TrainedVersion(
            builder=builder,
            detector=detector,
            metrics=collect_metrics(
                builder, data, curves=trained.curves, parity=agreed.parity, teacher_key=exported.teacher_key
            ),
            training=build_training_files(networks.student, networks.compare, settings, kept),
            facts=collect_facts(builder, data),
        )

    def export(self, networks: Networks, data: PreparedData) -> ExportedGraphs:
        """Export the networks; the teacher's graph is that of a version in service, if one has the same."""
        with self.reporter.step("export", total=1) as advance:
            images = [data.reader.decode(image) for image in data.split.train[:NUM_TRACED]]
            pixels = data.reader.to_pixels(images)
            key = compute_teacher_key(networks.teacher, pixels)
            teacher = find_exported_teacher(self.request.store, self.request.state, key=key)
            graphs = export_graphs(
                networks.teacher, networks.student, networks.compare, pixels, exported_teacher=teacher
            )
            advance(1)
        return ExportedGraphs(graphs, key)

    def verify(self, networks: Networks, detector: Detector, data: PreparedData) -> ParityResult:
        """Compare each calibration part by the graphs and by the networks. Raises TrainingError."""
        calibrate_with = data.split.calibrate
        with self.reporter.step("parity and calibration", total=len(calibrate_with)) as advance:
            images = data.reader.decode_all(calibrate_with)
            return verify_parity(images, networks, detector, reader=data.reader, on_image=advance)

    def render_patches(self, origins: ItemOrigins, data: PreparedData) -> bytes:
        """Render pictures of the memory's items, for explanations."""
        images = data.split.remembered
        with self.reporter.step("pictures of the memory", total=len(images)) as advance:
            pictures = render_patches(
                images, origins, reader=data.reader, stride=data.settings.strides[0], on_images=advance
            )
        return pack_patches(pictures)


def copy_confirmed(data: PreparedData, run_directory: RunDirectory) -> PreparedData:
    """Copy the labelled images, which may be removed while the training runs."""
    return data.replace_confirmed(
        {image: ImageFile(run_directory.copy_file(image.path), image.source) for image in data.split.confirmed}
    )


def collect_metrics(
    builder: BundleBuilder, data: PreparedData, *, curves: Curves, parity: Parity, teacher_key: str
) -> TrainingMetrics:
    """Return the metrics that are known before the evaluation."""
    return TrainingMetrics(
        promise_in_words=describe_promise(builder.calibration.promise),
        parity=parity,
        num_train=len(data.split.train),
        num_confirmed=len(data.split.confirmed),
        num_standardise=len(data.split.standardise),
        num_calibrate=len(data.split.calibrate),
        settings=builder.settings.to_report(),
        curves=curves,
        map_weights=builder.map_weights,
        teacher_key=teacher_key,
        training_s=round(time.monotonic() - data.began_s, 1),
        training_key=data.key,
    )


def collect_facts(builder: BundleBuilder, data: PreparedData) -> dict[str, str]:
    """Return the origin of the version, for the report."""
    tools, settings = builder.build_manifest({}).tools, builder.settings
    return {
        "good images": describe_data(data.dataset, data.split),
        "licence of the images": settings.data_licence or "not said (setting data_licence)",
        "teacher": f"{settings.teacher}, {get_teacher_spec(settings.teacher).licence}",
        "fingerprint": builder.fingerprint,
        "trained with": ", ".join(f"{tool} {version}" for tool, version in tools.items()),
    }


def select_images(data: PreparedData) -> EvaluationImages:
    """Return the images for evaluation, golden images and the gate."""
    split = data.split
    # Those that were not learned from first: the version in service may have learned from the same.
    good = (*split.calibrate, *split.standardise, *split.train)
    return EvaluationImages(
        held_out=split.calibrate,
        good=[image for image in good if image not in split.confirmed],
        golden=[(image.path.suffix.lower(), image.read_bytes()) for image in split.calibrate[:NUM_GOLDEN]],
        test=data.dataset.test,
        folder=data.folder,
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
