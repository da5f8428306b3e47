"""The end of a training: figures, the gate, the report, the version written, and activated if it may be."""

import getpass
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
from training.errors import BadImage
from training.evaluation.evaluate import evaluate, image_level
from training.evaluation.repeatability import NUM_PARTS, num_repeats, repeatability
from training.evaluation.sensitivity import Cell, num_defects, sensitivity
from training.export.bundle import Draft, golden_files, metrics_files
from training.progress import Narrator
from training.release.gate import (
    NOT_COMPARABLE,
    Check,
    Evidence,
    Gate,
    Incumbent,
    Ruling,
    incumbent_of,
    not_comparable,
    recall_of,
)
from training.report.examples import NUM_SHOWN, exhibits
from training.report.report import Findings
from training.settings import TrainSettings

# Good parts that the version in service is asked about, and among which the report looks for the oddest.
MOST_LOOKED_AT = 400
# How long a version that took an hour waits for a storage that does not answer.
PATIENCE_S = 600.0


@dataclass(frozen=True)
class Order:
    """What is to be made and where it goes.

    ``sign_key``: what the version is signed with, None where by nothing. ``force``: why it serves even if the gate
    refuses, None where it then does not. ``why``: for the audit.
    """

    product: str
    store: Store
    state: State
    activates: bool = True
    sign_key: Ed25519PrivateKey | None = None
    force: str | None = None
    why: str = "trained"

    def be_patient(self) -> None:
        """Let what was learned wait for object storage that is away for some minutes."""
        for place in (self.store.root, self.state.root):
            set_write_patience(place, for_s=PATIENCE_S)

    def check_writable(self) -> None:
        """Raise StoreUnusable where this user could not publish, or activate if that is wanted."""
        self.store.check_writable(self.product)
        if self.activates:
            self.state.check_writable(self.product)


@dataclass(frozen=True)
class Published:
    """What came of it. ``metrics``: as in ``metrics.json``."""

    version: str
    is_active: bool
    ruling: Ruling
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Parts:
    """Images that a version is shown with and held to. ``held_out``: good parts that it has not learned from.

    ``good``: all good parts, which must look ordinary to the version in service. ``golden``: suffix and bytes of good
    parts for its golden images. ``tried``: good parts for synthetic defects, where not the held-out ones. ``folder``:
    where the test images lie. ``is_shift_confirmed``: whether a person vouches for the good parts, however odd.
    """

    held_out: Sequence[Path]
    good: Sequence[Path]
    golden: Sequence[tuple[str, bytes]]
    tried: Sequence[bytes] = ()
    test: Sequence[Sample] = ()
    folder: Path = Path()
    is_shift_confirmed: bool = False


@dataclass(frozen=True)
class Made:
    """A version before it is published: what judges, what is known of it, and what only the trainer keeps."""

    draft: Draft
    detector: Detector
    metrics: Mapping[str, Any]
    training: Mapping[str, bytes]
    facts: Mapping[str, str]

    @property
    def version(self) -> Version:
        """It, ready to judge."""
        return Version(
            name="draft",
            manifest=self.draft.manifest(self.draft.files()),
            detector=self.detector,
            calibration=self.draft.calibrated.scores,
            roi=self.draft.interest,
        )


@dataclass(frozen=True)
class Before:
    """How the version in service fares on a candidate's test parts, and what it finds of the synthetic defects."""

    figures: dict[str, object]
    cells: tuple[Cell, ...]


class Publisher:
    """Takes a version that judges through the gate and into the store."""

    def __init__(self, order: Order, settings: TrainSettings, narrator: Narrator) -> None:
        self.order = order
        self.settings = settings
        self.narrator = narrator

    def published(self, made: Made, parts: Parts) -> Published:
        """Figures, gate, report; then write, and activate if it may be. Raises GoodpartError; then nothing is there."""
        self.order.be_patient()
        orders = self.order.state.read(self.order.product)
        version = made.version.with_override(orders.override)  # as it would serve
        incumbent, trouble = self.in_service(orders)
        both = (version, incumbent.version) if incumbent else (version,)
        plain = judged_ok(both, parts.tried or read_some(parts.held_out), max_pixels=self.settings.max_pixels)
        cells = self.seen(version, plain, "synthetic defects")
        before = self.figures_before(incumbent.version, parts, plain) if incumbent else Before({}, ())
        metrics = {**made.metrics, **self.tested(version, parts), **self.tried(version, plain, cells)}
        evidence = Evidence(
            good=parts.good[:MOST_LOOKED_AT],
            confirmed_ng=LabelStore(self.order.state).image_paths(self.order.product, "ng"),
            cells=cells,
            cells_before=before.cells,
            is_shift_confirmed=parts.is_shift_confirmed,
        )
        with self.narrator.step("gate", total=1) as advance:
            ruling = trouble or Gate(version, incumbent, self.settings.gate).ruling(evidence)
            ruling = self.unless_changed(ruling, orders)
            advance(1)
        metrics |= {"before": before.figures, "gate": ruling.plain()}
        files = {
            **made.draft.files(),
            **golden_files(parts.golden, made.draft, made.detector),
            **metrics_files(self.findings(made, metrics, parts)),
        }
        name = self.written(made, files)
        try:
            is_active = self.activated(name, ruling, orders)
        except Conflict:
            return Published(name, is_active=False, ruling=changed(ruling), metrics=metrics)
        return Published(name, is_active, ruling, metrics)

    def unless_changed(self, ruling: Ruling, orders: ProductState) -> Ruling:
        """The ruling, which fails where something else was decided of the product since it was begun."""
        now = self.order.state.read(self.order.product)
        return ruling if (now.current, now.override) == (orders.current, orders.override) else changed(ruling)

    def in_service(self, orders: ProductState) -> tuple[Incumbent | None, Ruling | None]:
        """The version that serves, if any; or the ruling that it can't be compared with."""
        try:
            return incumbent_of(self.order.store, orders, self.order.product), None
        except NOT_COMPARABLE as error:
            return None, not_comparable(error, orders.current.version if orders.current else "")

    def tested(self, version: Version, parts: Parts) -> dict[str, object]:
        """Figures on the test set, none where there is no test set."""
        if not parts.test:
            return {}
        with self.narrator.step("evaluation", total=len(parts.test)) as advance:
            return evaluate(
                version, parts.test, folder=parts.folder, max_pixels=self.settings.max_pixels, on_image=advance
            )

    def tried(self, version: Version, plain: Sequence[bytes], cells: Sequence[Cell]) -> dict[str, object]:
        """What it can see, and whether it says the same twice."""
        with self.narrator.step("repeatability", total=num_repeats(len(plain))) as advance:
            repeats = repeatability(
                version, plain, seed=self.settings.seed, max_pixels=self.settings.max_pixels, on_part=advance
            )
        return {
            "sensitivity": [asdict(cell) for cell in cells],
            **({"synthetic_recall": recall_of(cells)} if cells else {}),
            "repeatability": [asdict(one) for one in repeats],
        }

    def seen(self, version: Version, plain: Sequence[bytes], name: str) -> tuple[Cell, ...]:
        """Which synthetic defects a version finds on these good parts; every version gets the same ones."""
        with self.narrator.step(name, total=num_defects(len(plain))) as advance:
            return sensitivity(
                version, plain, seed=self.settings.seed, max_pixels=self.settings.max_pixels, on_defect=advance
            )

    def figures_before(self, incumbent: Version, parts: Parts, plain: Sequence[bytes]) -> Before:
        """The version in service on the same test parts, if it takes such images, and on the same synthetic defects."""
        cells = self.seen(incumbent, plain, "the same by what serves")
        figures: dict[str, object] = {"synthetic_recall": recall_of(cells)}
        if parts.test:
            with self.narrator.step("evaluation of what serves", total=len(parts.test)) as advance, suppress(BadImage):
                figures |= image_level(
                    incumbent,
                    parts.test,
                    folder=parts.folder,
                    max_pixels=self.settings.max_pixels,
                    on_image=advance,
                )
        return Before(figures, cells)

    def findings(self, made: Made, metrics: Mapping[str, Any], parts: Parts) -> Findings:
        """What the report shows: parts by their scores, and where the version comes from."""
        version = made.version.with_override(self.order.state.read(self.order.product).override)
        odd = [parts.held_out[index] for index in oddest(version, parts.held_out, self.settings.max_pixels)]
        weak = weakest(metrics, parts.folder)
        return Findings(
            product=self.order.product,
            metrics=metrics,
            calibration=version.calibration.tolist(),
            threshold=version.threshold,
            oddest_good=exhibits(version, odd, max_pixels=self.settings.max_pixels),
            weakest_defects=exhibits(version, weak, max_pixels=self.settings.max_pixels),
            facts=made.facts,
        )

    def written(self, made: Made, files: Mapping[str, bytes]) -> str:
        """The version's name, once it is in the store. Raises StoreUnusable."""
        order, teacher = self.order, made.draft.graphs.teacher
        order.store.add_teacher(sha256_hex(teacher), teacher)
        manifest = made.draft.manifest(files).model_dump_json(indent=1).encode() + b"\n"
        return order.store.publish(
            order.product, manifest=manifest, files=files, training=made.training, sign_key=order.sign_key
        )

    def activated(self, version: str, ruling: Ruling, orders: ProductState) -> bool:
        """Whether it serves now: if it is wanted, and the gate lets it or somebody said why it must not matter.

        Raises ChangedMeanwhile.
        """
        order = self.order
        if not order.activates or not (ruling.passed or order.force):
            return False
        reasons = "; ".join(ruling.reasons)
        why = order.why if ruling.passed else f"{order.why}, forced: {order.force}; the gate: {reasons}"
        after = orders.current if ruling.passed else ANY_VERSION
        order.state.activate(order.product, version, at=datetime.now(UTC), by=user_name(), why=why, after=after)
        return True


def changed(ruling: Ruling) -> Ruling:
    """The ruling on a version that was held against what does not serve any more."""
    says = "another version or threshold was chosen meanwhile: train again, or activate this one by hand"
    return replace(ruling, checks=(*ruling.checks, Check("in service still", passed=False, says=says)))


def read_some(paths: Sequence[Path]) -> list[bytes]:
    """A few images' bytes, twice as many as are tried, since some may be judged ng."""
    return [path.read_bytes() for path in paths[: 2 * NUM_PARTS]]


def judged_ok(versions: Sequence[Version], parts: Sequence[bytes], *, max_pixels: int) -> list[bytes]:
    """Those that every version judges ok: of a part that is ng anyway, nobody can say that its defect was found."""
    return [data for data in parts if all(is_ok(data, version, max_pixels=max_pixels) for version in versions)]


def is_ok(data: bytes, version: Version, *, max_pixels: int) -> bool:
    """Whether a version judges an image ok; one that it does not take is not."""
    try:
        return inspect(data, version, max_pixels=max_pixels).verdict == "ok"
    except ImageError:
        return False


def oddest(version: Version, paths: Sequence[Path], max_pixels: int) -> list[int]:
    """The good parts of the highest scores, the highest first."""
    scores = [inspect(path.read_bytes(), version, max_pixels=max_pixels).score for path in paths[:MOST_LOOKED_AT]]
    return sorted(range(len(scores)), key=lambda index: -scores[index])[:NUM_SHOWN]


def weakest(metrics: Mapping[str, Any], folder: Path) -> list[Path]:
    """The defective test parts of the lowest scores, the lowest first."""
    defective = [row for row in metrics.get("test_scores", []) if row["kind"] != "good"]
    return [folder / row["path"] for row in sorted(defective, key=lambda row: row["score"])[:NUM_SHOWN]]


def user_name() -> str:
    """Who trains, for the audit; a container's user may have a number and no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "train"
