"""The end of a training: evaluation, gate, report, publication, and activation if the gate passes."""

import getpass
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.errors import ImageError
from app.inference.detector import Detector
from app.inference.version import Version
from app.inspection.pipeline import inspect
from app.store.errors import Conflict
from app.store.labels import LabelStore
from app.store.paths import set_write_patience
from app.store.state import ANY_VERSION, ProductState, State
from app.store.store import Store
from model.bundle import sha256_hex
from training.data.dataset import Sample
from training.data.images import ImageFile, ImageSource, open_files
from training.errors import BadImage
from training.evaluation.evaluate import EvaluationMetrics, evaluate, evaluate_images
from training.evaluation.repeatability import NUM_PARTS, Repeat, count_repeats, measure_repeatability
from training.evaluation.sensitivity import Cell, count_defects, measure_sensitivity
from training.export.bundle import BundleBuilder, build_golden_files, build_metrics_files
from training.progress import ProgressReporter
from training.release.gate import (
    NOT_COMPARABLE,
    Check,
    Evidence,
    Gate,
    GateResult,
    Incumbent,
    fail_comparison,
    load_incumbent,
)
from training.report.examples import NUM_SHOWN, render_examples
from training.report.report import ReportContent
from training.settings import TrainSettings
from training.version_metrics import IncumbentMetrics, TrainingMetrics, VersionMetrics

# Good parts that the version in service inspects, and from which the report selects the oddest.
MAX_COMPARED_PARTS = 400
# How long a version that took an hour waits for a storage that does not answer.
WRITE_PATIENCE_S = 600.0


@dataclass(frozen=True)
class PublishRequest:
    """What to publish and where.

    ``sign_key``: signs the version, or None. ``force``: the reason to activate even if the gate fails, or None.
    ``why``: for the audit.
    """

    product: str
    store: Store
    state: State
    activates: bool = True
    sign_key: Ed25519PrivateKey | None = None
    force: str | None = None
    why: str = "trained"

    def set_write_patience(self) -> None:
        """Let writes wait some minutes for object storage that does not answer."""
        for place in (self.store.root, self.state.root):
            set_write_patience(place, for_s=WRITE_PATIENCE_S)

    def check_writable(self) -> None:
        """Raise StoreUnusable where this user can't publish, or activate if that is requested."""
        self.store.check_writable(self.product)
        if self.activates:
            self.state.check_writable(self.product)


@dataclass(frozen=True)
class Published:
    """A published version."""

    version: str
    is_active: bool
    gate_result: GateResult
    metrics: VersionMetrics


@dataclass(frozen=True)
class EvaluationImages:
    """Images for evaluation, golden images and the gate. ``held_out``: good parts that were not trained on.

    ``good``: all good parts, which must look ordinary to the version in service. ``golden``: suffix and bytes of good
    parts for the golden images. ``synthetic``: good parts for synthetic defects, if not the held-out ones. ``folder``:
    of the test images. ``is_shift_confirmed``: whether a person confirms that the good parts are good, however odd.
    """

    held_out: Sequence[ImageFile]
    good: Sequence[ImageFile]
    golden: Sequence[tuple[str, bytes]]
    synthetic: Sequence[bytes] = ()
    test: Sequence[Sample] = ()
    folder: Path = Path()
    is_shift_confirmed: bool = False


@dataclass(frozen=True)
class TrainedVersion:
    """A version before it is published: its graphs, its metrics, and the trainer's own files."""

    builder: BundleBuilder
    detector: Detector
    metrics: TrainingMetrics
    training: Mapping[str, bytes]
    facts: Mapping[str, str]

    @property
    def version(self) -> Version:
        """The version, ready to inspect."""
        return Version(
            name="draft",
            manifest=self.builder.build_manifest(self.builder.build_files()),
            detector=self.detector,
            calibration=self.builder.calibration.scores,
            roi=self.builder.roi,
        )


@dataclass(frozen=True)
class Publisher:
    """Evaluates a version, runs the gate, and publishes."""

    request: PublishRequest
    settings: TrainSettings
    reporter: ProgressReporter

    def publish(self, trained: TrainedVersion, images: EvaluationImages) -> Published:
        """Evaluate, gate, report; then write, and activate if allowed.

        Raises GoodpartError; then nothing is written.
        """
        self.request.set_write_patience()
        product_state = self.request.state.read(self.request.product)
        version = trained.version.with_override(product_state.override)  # as it would serve
        metrics = self.evaluate(trained, version, images, product_state)
        files = {
            **trained.builder.build_files(),
            **build_golden_files(images.golden, trained.builder, trained.detector),
            **build_metrics_files(self.collect_report(trained, version, metrics, images)),
        }
        name = self.write(trained, files)
        try:
            is_active = self.activate(name, metrics.gate, product_state)
        except Conflict:
            return Published(name, is_active=False, gate_result=fail_changed(metrics.gate), metrics=metrics)
        return Published(name, is_active, metrics.gate, metrics)

    def evaluate(
        self, trained: TrainedVersion, version: Version, images: EvaluationImages, product_state: ProductState
    ) -> VersionMetrics:
        """Evaluate a version, beside the one in service if there is one, and run the gate."""
        incumbent, failure = self.load_incumbent(product_state)
        both = (version, incumbent.version) if incumbent else (version,)
        plain = select_ok(both, images.synthetic or read_some(images.held_out), max_pixels=self.settings.max_pixels)
        sensitivity = self.measure_sensitivity(version, plain, "synthetic defects")
        before = self.evaluate_incumbent(incumbent.version, images, plain) if incumbent else None
        evaluation = self.evaluate_test_set(version, images)
        repeatability = self.measure_repeatability(version, plain)
        evidence = Evidence(
            good=images.good[:MAX_COMPARED_PARTS],
            confirmed_ng=self.find_defects(),
            cells=sensitivity,
            cells_before=before.sensitivity if before else (),
            is_shift_confirmed=images.is_shift_confirmed,
        )
        with self.reporter.step("gate", total=1) as advance:
            gate_result = failure or Gate(version, incumbent, self.settings.gate).evaluate(evidence)
            gate_result = self.check_unchanged(gate_result, product_state)
            advance(1)
        return VersionMetrics(trained.metrics, evaluation, sensitivity, repeatability, before, gate_result)

    def find_defects(self) -> tuple[ImageFile, ...]:
        """Return the product's images that users have labelled as defective. Raises StoreError."""
        paths = LabelStore(self.request.state).image_paths(self.request.product, "ng")
        return open_files(paths, ImageSource())

    def check_unchanged(self, gate_result: GateResult, product_state: ProductState) -> GateResult:
        """Return the result, failed where another decision was made since the training began."""
        now = self.request.state.read(self.request.product)
        return (
            gate_result
            if (now.current, now.override) == (product_state.current, product_state.override)
            else fail_changed(gate_result)
        )

    def load_incumbent(self, product_state: ProductState) -> tuple[Incumbent | None, GateResult | None]:
        """Return the version in service, or the result that it can't be compared with."""
        try:
            return load_incumbent(self.request.store, product_state, self.request.product), None
        except NOT_COMPARABLE as error:
            return None, fail_comparison(error, product_state.current.version if product_state.current else "")

    def evaluate_test_set(self, version: Version, images: EvaluationImages) -> EvaluationMetrics | None:
        """Return metrics of the test set; None without one."""
        if not images.test:
            return None
        with self.reporter.step("evaluation", total=len(images.test)) as advance:
            return evaluate(
                version, images.test, folder=images.folder, max_pixels=self.settings.max_pixels, on_image=advance
            )

    def measure_repeatability(self, version: Version, plain: Sequence[bytes]) -> tuple[Repeat, ...]:
        """Return how small changes of these good parts change the result."""
        with self.reporter.step("repeatability", total=count_repeats(len(plain))) as advance:
            return measure_repeatability(
                version, plain, seed=self.settings.seed, max_pixels=self.settings.max_pixels, on_part=advance
            )

    def measure_sensitivity(self, version: Version, plain: Sequence[bytes], name: str) -> tuple[Cell, ...]:
        """Return which synthetic defects a version finds on these good parts; every version gets the same ones."""
        with self.reporter.step(name, total=count_defects(len(plain))) as advance:
            return measure_sensitivity(
                version, plain, seed=self.settings.seed, max_pixels=self.settings.max_pixels, on_defect=advance
            )

    def evaluate_incumbent(
        self, incumbent: Version, images: EvaluationImages, plain: Sequence[bytes]
    ) -> IncumbentMetrics:
        """Evaluate the version in service on the same test parts and synthetic defects."""
        sensitivity = self.measure_sensitivity(incumbent, plain, "the same by what serves")
        evaluation = None
        if images.test:
            with self.reporter.step("evaluation of what serves", total=len(images.test)) as advance, suppress(BadImage):
                evaluation = evaluate_images(
                    incumbent,
                    images.test,
                    folder=images.folder,
                    max_pixels=self.settings.max_pixels,
                    on_image=advance,
                )
        return IncumbentMetrics(evaluation, sensitivity)

    def collect_report(
        self, trained: TrainedVersion, version: Version, metrics: VersionMetrics, images: EvaluationImages
    ) -> ReportContent:
        """Return the content of the report."""
        max_pixels = self.settings.max_pixels
        odd = find_oddest(version, images.held_out, max_pixels=max_pixels)
        weak = find_weakest(images.test, metrics.evaluation)
        return ReportContent(
            product=self.request.product,
            metrics=metrics,
            calibration=version.calibration.tolist(),
            threshold=version.threshold,
            oddest_good=render_examples(version, odd, max_pixels=max_pixels),
            weakest_defects=render_examples(version, weak, max_pixels=max_pixels),
            facts=trained.facts,
        )

    def write(self, trained: TrainedVersion, files: Mapping[str, bytes]) -> str:
        """Write the version to the store and return its name. Raises StoreUnusable."""
        request, teacher = self.request, trained.builder.graphs.teacher
        request.store.add_teacher(sha256_hex(teacher), teacher)
        manifest = trained.builder.build_manifest(files).model_dump_json(indent=1).encode() + b"\n"
        return request.store.publish(
            request.product, manifest=manifest, files=files, training=trained.training, sign_key=request.sign_key
        )

    def activate(self, version: str, gate_result: GateResult, product_state: ProductState) -> bool:
        """Activate the version if requested, and the gate passes or is overridden; return whether it serves.

        Raises Conflict.
        """
        request = self.request
        if not request.activates or not (gate_result.passed or request.force):
            return False
        reasons = "; ".join(gate_result.reasons)
        why = request.why if gate_result.passed else f"{request.why}, forced: {request.force}; the gate: {reasons}"
        after = product_state.current if gate_result.passed else ANY_VERSION
        request.state.activate(request.product, version, at=datetime.now(UTC), by=get_user_name(), why=why, after=after)
        return True


def fail_changed(gate_result: GateResult) -> GateResult:
    """Return the result with a failed check: the version in service has changed since."""
    says = "another version or threshold was chosen meanwhile: train again, or activate this version manually"
    return replace(gate_result, checks=(*gate_result.checks, Check("in service still", passed=False, says=says)))


def read_some(images: Sequence[ImageFile]) -> list[bytes]:
    """Return a few images' bytes, twice as many as are tried, since some may be ng."""
    return [image.read_bytes() for image in images[: 2 * NUM_PARTS]]


def select_ok(versions: Sequence[Version], parts: Sequence[bytes], *, max_pixels: int) -> list[bytes]:
    """Return the parts that every version finds ok: a defect on an ng part could not be attributed."""
    return [data for data in parts if all(is_ok(data, version, max_pixels=max_pixels) for version in versions)]


def is_ok(data: bytes, version: Version, *, max_pixels: int) -> bool:
    """Whether a version finds an image ok; False where it refuses the image."""
    try:
        return inspect(data, version, max_pixels=max_pixels).verdict == "ok"
    except ImageError:
        return False


def find_oddest(version: Version, good: Sequence[ImageFile], *, max_pixels: int) -> list[ImageFile]:
    """Return the good parts of the highest scores, the highest first."""
    scores = {
        image: inspect(image.read_bytes(), version, max_pixels=max_pixels).score for image in good[:MAX_COMPARED_PARTS]
    }
    return sorted(scores, key=lambda image: -scores[image])[:NUM_SHOWN]


def find_weakest(test: Sequence[Sample], evaluation: EvaluationMetrics | None) -> list[ImageFile]:
    """Return the defective test parts of the lowest scores, the lowest first."""
    scores = evaluation.test_scores if evaluation and evaluation.test_scores else ()
    scored = [(score.score, sample.image) for sample, score in zip(test, scores, strict=True) if sample.is_defective]
    return [image for _, image in sorted(scored, key=lambda pair: pair[0])[:NUM_SHOWN]]


def get_user_name() -> str:
    """Return the user's name for the audit; a container's user may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "train"
