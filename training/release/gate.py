"""The gate before the line: whether a new version may serve, above all beside the one that serves now.

A new version is held to what the one in service could do. What fails is published all the same, with its reasons, and
waits for a person.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from app.errors import ImageError, ModelError
from app.imaging.decode import MAX_PIXELS
from app.inference.sessions import Device, available_cpus
from app.inference.version import Loader, Version
from app.inspection.pipeline import inspect
from app.store.errors import StoreError
from app.store.state import ProductState
from app.store.store import Store
from model.bundle import GOLDEN, REGION, BundleError, GoodpartError, PromiseRecord
from training.errors import BadImage
from training.evaluation.sensitivity import Cell
from training.export.calibration_features import CALIBRATION_FEATURES, Kept, compared_part, kept_parts
from training.settings import GateSettings

# Good parts of new data above this share of the old version's calibration scores are a jump, if half of them are.
JUMP_QUANTILE = 0.95
GOOD_GOLDEN = f"{GOLDEN}/good_"


@dataclass(frozen=True)
class Check:
    """One thing that must hold. ``says``: what was found, as a sentence with its figures."""

    name: str
    passed: bool
    says: str


@dataclass(frozen=True)
class Ruling:
    """The gate's answer. ``beside``: the version in service that was compared, None where none serves."""

    checks: tuple[Check, ...]
    beside: str | None

    @property
    def passed(self) -> bool:
        """Whether the version may serve."""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What was found wrong."""
        return tuple(check.says for check in self.checks if not check.passed)

    def plain(self) -> dict[str, object]:
        """For ``metrics.json``."""
        return {"passed": self.passed, "beside": self.beside, "checks": [asdict(check) for check in self.checks]}


@dataclass(frozen=True)
class Incumbent:
    """The version in service, as it judges, with good parts it was made with. ``kept``: None where it keeps none."""

    version: Version
    golden: tuple[bytes, ...]
    kept: Kept | None


def incumbent_of(store: Store, orders: ProductState, product: str) -> Incumbent | None:
    """The version in service, None where none was activated. Raises StoreError, BundleError, ModelError."""
    if orders.current is None:
        return None
    bundle = store.load_bundle(product, orders.current.version)
    folder = store.training_folder(product, bundle.version)
    return Incumbent(
        version=Loader(Device("cpu", available_cpus())).load(bundle).with_override(orders.override),
        golden=tuple(data for name, data in sorted(bundle.files.items()) if name.startswith(GOOD_GOLDEN)),
        kept=kept_parts(folder / CALIBRATION_FEATURES, num_scales=len(bundle.manifest.strides)),
    )


@dataclass(frozen=True)
class Evidence:
    """What a candidate is judged on beside itself. ``good``: good parts of the new data.

    ``is_shift_confirmed``: whether a person vouches that these are good however odd they look. ``cells``: what
    synthetic defects the candidate finds, and what the version in service finds of the same.
    """

    good: Sequence[Path]
    confirmed_ng: Sequence[Path]
    cells: Sequence[Cell]
    cells_before: Sequence[Cell]
    is_shift_confirmed: bool = False


@dataclass(frozen=True)
class Gate:
    """Rules on a candidate. ``candidate``: the new version under the threshold that it would serve with."""

    candidate: Version
    incumbent: Incumbent | None
    settings: GateSettings

    def ruling(self, evidence: Evidence) -> Ruling:
        """Every check; raises BadImage."""
        parity = Check("parity", passed=True, says="the exported graphs judge as the network")
        checks = [parity, promise_check(self.promise)]
        if self.incumbent is None:
            checks += self.confirmed_checks(evidence.confirmed_ng)
            return Ruling(tuple(checks), None)
        checks += self.old_parts_stay_ok(self.incumbent)
        checks += self.new_parts_look_ordinary(self.incumbent, evidence)
        checks += self.confirmed_checks(evidence.confirmed_ng)
        checks += self.synthetic_recall(evidence)
        return Ruling(tuple(checks), self.incumbent.version.name)

    @property
    def promise(self) -> PromiseRecord:
        """What the candidate promises."""
        return self.candidate.promise

    def old_parts_stay_ok(self, incumbent: Incumbent) -> Iterator[Check]:
        """Good parts that the version in service was made with are still ok, at the candidate's rate."""
        golden = [data for data in incumbent.golden if self._verdict(data, incumbent.version) == "ok"]
        num_lost = sum(self._verdict(data, self.candidate) == "ng" for data in golden)
        yield Check(
            "golden parts",
            self._is_within_rate(num_lost, len(golden)),
            f"{num_lost} of {len(golden)} golden good parts of the version in service would be ng",
        )
        if incumbent.kept is None or not same_teacher(self.candidate, incumbent.version):
            why = "keeps no features" if incumbent.kept is None else "has another teacher, input or region"
            says = f"the version in service {why}: its golden parts alone were compared"
            yield Check("calibration parts", passed=True, says=says)
            return
        scores = scores_of(self.candidate, incumbent.kept)
        num_ng = int((scores > self.candidate.threshold).sum())
        yield Check(
            "calibration parts",
            self._is_within_rate(num_ng, len(scores)),
            f"{num_ng} of {len(scores)} calibration parts of the version in service would be ng; "
            f"{self.promise.supported:.2%} is promised",
        )

    def new_parts_look_ordinary(self, incumbent: Incumbent, evidence: Evidence) -> Iterator[Check]:
        """Good parts of the new data are ok for the version in service too, and score as its own did."""
        old = incumbent.version
        found = [judged(path, old) for path in evidence.good]
        num_ng = sum(score > old.threshold for score in found)
        ordinary = self._is_within(num_ng, len(found), rate=old.promise.supported)
        half = float(np.median(found)) if found else 0.0
        usual = float(np.quantile(old.calibration, JUMP_QUANTILE))
        says = (
            f"{num_ng} of {len(found)} new good parts are ng for the version in service, which promises "
            f"{old.promise.supported:.2%}; half of them score above {half:.2f}, {JUMP_QUANTILE:.0%} of its own below "
            f"{usual:.2f}"
        )
        is_ordinary = ordinary and half <= usual
        if not is_ordinary and evidence.is_shift_confirmed:
            says += "; a person has confirmed that they are good"
        elif not is_ordinary:
            says += ": another product, defects among the good parts, or a change that somebody must confirm"
        yield Check("new parts look ordinary", is_ordinary or evidence.is_shift_confirmed, says)

    def confirmed_checks(self, paths: Sequence[Path]) -> Iterator[Check]:
        """No confirmed defective part that the version in service catches is lost."""
        if not paths:
            return
        caught_now = [judged(path, self.candidate) > self.candidate.threshold for path in paths]
        old = self.incumbent.version if self.incumbent else None
        caught_before = [old is not None and judged(path, old) > old.threshold for path in paths]
        both = zip(paths, caught_now, caught_before, strict=True)
        lost = [path.name for path, now, before in both if before and not now]
        named = f": {', '.join(name[:12] for name in lost[:3])}" if lost else ""
        yield Check(
            "confirmed defects",
            not lost,
            f"of {len(paths)} confirmed defective parts {sum(caught_now)} are caught; {len(lost)} that the version in "
            f"service catches would be lost{named}",
        )

    def synthetic_recall(self, evidence: Evidence) -> Iterator[Check]:
        """Synthetic defects are found as well as before, but for a margin."""
        if not evidence.cells or not evidence.cells_before:
            says = "not compared: no good part of 8 bits at hand that both versions judge ok"
            yield Check("synthetic defects", passed=True, says=says)
            return
        now, before = recall_of(evidence.cells), recall_of(evidence.cells_before)
        yield Check(
            "synthetic defects",
            now >= before - self.settings.synthetic_margin,
            f"{now:.1%} of synthetic defects are found, {before:.1%} by the version in service; "
            f"{self.settings.synthetic_margin:.1%} less may be",
        )

    def _is_within_rate(self, num_ng: int, num_parts: int) -> bool:
        return self._is_within(num_ng, num_parts, rate=self.promise.supported)

    def _is_within(self, num_ng: int, num_parts: int, *, rate: float) -> bool:
        """Whether so many are no more than chance explains at this rate."""
        return bool(binom.sf(num_ng - 1, num_parts, rate) >= self.settings.significance)

    def _verdict(self, data: bytes, version: Version) -> str:
        try:
            return inspect(data, version, max_pixels=MAX_PIXELS).verdict
        except ImageError:
            return "ng"  # of another depth or colour than the version takes


def promise_check(promise: PromiseRecord) -> Check:
    """Whether the false-alarm rate that was asked for is one that the calibration parts support."""
    return Check(
        "promise",
        promise.supported <= promise.asked,
        f"{promise.num_calibration} calibration parts support a false-alarm rate of {promise.supported:.2%}, "
        f"{promise.asked:.2%} was asked",
    )


def same_teacher(one: Version, other: Version) -> bool:
    """Whether features and positions of one mean the same to the other."""
    first, second = (
        (manifest.teacher.sha256, manifest.input, manifest.map_size, manifest.files.get(REGION))
        for manifest in (one.manifest, other.manifest)
    )
    return first == second


def scores_of(version: Version, kept: Kept) -> NDArray[np.float64]:
    """A version's scores of parts whose features are kept, on its absolute scale (parts)."""
    comparisons = (compared_part(version.detector, kept, row) for row in range(len(kept)))
    return np.array([version.manifest.score.standardise(comparison.score) for comparison in comparisons])


def judged(path: Path, version: Version) -> float:
    """An image's score; an image that the version takes for none is as wrong as can be. Raises BadImage."""
    try:
        return inspect(path.read_bytes(), version, max_pixels=MAX_PIXELS).score
    except ImageError:
        return float("inf")
    except OSError as error:
        raise BadImage(path, error.strerror or str(error)) from error


def recall_of(cells: Sequence[Cell]) -> float:
    """The share of synthetic defects that is found."""
    return sum(cell.num_found for cell in cells) / max(1, sum(cell.num_drawn for cell in cells))


NOT_COMPARABLE: tuple[type[GoodpartError], ...] = (StoreError, BundleError, ModelError)


def not_comparable(error: GoodpartError, version: str) -> Ruling:
    """The ruling where the version in service can't be loaded to compare with."""
    says = f"the version in service, {version}, can't be compared with: {error}"
    return Ruling((Check("version in service", passed=False, says=says),), version)
