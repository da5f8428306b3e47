"""The release gate: whether a new version may serve, compared with the one in service.

A version that fails is published with the reasons and not activated; a person decides.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

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
from training.data.images import ImageFile
from training.errors import BadImage
from training.evaluation.sensitivity import Cell, compute_recall
from training.export.calibration_features import (
    CALIBRATION_FEATURES,
    CalibrationFeatures,
    compare_part,
    read_calibration_features,
)
from training.settings import GateSettings

# Good parts of new data above this share of the old version's calibration scores are a jump, if half of them are.
JUMP_QUANTILE = 0.95
GOOD_GOLDEN = f"{GOLDEN}/good_"


@dataclass(frozen=True)
class Check:
    """One condition. ``says``: the result as a sentence with its figures."""

    name: str
    passed: bool
    says: str


@dataclass(frozen=True)
class GateResult:
    """The result of the gate. ``beside``: the version in service that was compared, or None."""

    checks: tuple[Check, ...]
    beside: str | None

    @property
    def passed(self) -> bool:
        """Whether the version may serve."""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The findings of the failed checks."""
        return tuple(check.says for check in self.checks if not check.passed)

    def to_dict(self) -> dict[str, object]:
        """Return the result for ``metrics.json``."""
        return {"passed": self.passed, "beside": self.beside, "checks": [asdict(check) for check in self.checks]}


@dataclass(frozen=True)
class Incumbent:
    """The version in service, with good parts of its training. ``features``: its calibration features, or None."""

    version: Version
    golden: tuple[bytes, ...]
    features: CalibrationFeatures | None


def load_incumbent(store: Store, orders: ProductState, product: str) -> Incumbent | None:
    """Load the version in service, or None. Raises StoreError, BundleError, ModelError."""
    if orders.current is None:
        return None
    bundle = store.load_bundle(product, orders.current.version)
    folder = store.training_folder(product, bundle.version)
    return Incumbent(
        version=Loader(Device("cpu", available_cpus())).load(bundle).with_override(orders.override),
        golden=tuple(data for name, data in sorted(bundle.files.items()) if name.startswith(GOOD_GOLDEN)),
        features=read_calibration_features(folder / CALIBRATION_FEATURES, num_scales=bundle.manifest.num_features),
    )


@dataclass(frozen=True)
class Evidence:
    """What a candidate is evaluated on. ``good``: good parts of the new data.

    ``is_shift_confirmed``: whether a person confirms that they are good however odd they look. ``cells``: sensitivity
    of the candidate, and ``cells_before`` of the version in service, on the same synthetic defects.
    """

    good: Sequence[ImageFile]
    confirmed_ng: Sequence[ImageFile]
    cells: Sequence[Cell]
    cells_before: Sequence[Cell]
    is_shift_confirmed: bool = False


@dataclass(frozen=True)
class Gate:
    """Evaluates a candidate. ``candidate``: the new version under the threshold that it would serve with."""

    candidate: Version
    incumbent: Incumbent | None
    settings: GateSettings

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Run every check. Raises BadImage."""
        parity = Check("parity", passed=True, says="the exported graphs judge as the network")
        checks = [parity, check_promise(self.promise)]
        if self.incumbent is None:
            checks += self.check_confirmed_defects(evidence.confirmed_ng)
            return GateResult(tuple(checks), None)
        checks += self.check_old_parts(self.incumbent)
        checks += self.check_new_parts(self.incumbent, evidence)
        checks += self.check_confirmed_defects(evidence.confirmed_ng)
        checks += self.check_synthetic_defects(evidence)
        return GateResult(tuple(checks), self.incumbent.version.name)

    @property
    def promise(self) -> PromiseRecord:
        """The candidate's promise."""
        return self.candidate.promise

    def check_old_parts(self, incumbent: Incumbent) -> Iterator[Check]:
        """Check that good parts of the version in service are still ok, at the candidate's rate."""
        golden = [data for data in incumbent.golden if self._verdict(data, incumbent.version) == "ok"]
        num_lost = sum(self._verdict(data, self.candidate) == "ng" for data in golden)
        yield Check(
            "golden parts",
            self._is_within_rate(num_lost, len(golden)),
            f"{num_lost} of {len(golden)} golden good parts of the version in service would be ng",
        )
        if incumbent.features is None or not have_same_inputs(self.candidate, incumbent.version):
            why = "keeps no features" if incumbent.features is None else "has another teacher, input or region"
            says = f"the version in service {why}: its golden parts alone were compared"
            yield Check("calibration parts", passed=True, says=says)
            return
        scores = compute_scores(self.candidate, incumbent.features)
        num_ng = int((scores > self.candidate.threshold).sum())
        yield Check(
            "calibration parts",
            self._is_within_rate(num_ng, len(scores)),
            f"{num_ng} of {len(scores)} calibration parts of the version in service would be ng; "
            f"{self.promise.supported:.2%} is promised",
        )

    def check_new_parts(self, incumbent: Incumbent, evidence: Evidence) -> Iterator[Check]:
        """Check that good parts of the new data are ok for the version in service, with ordinary scores."""
        old = incumbent.version
        found = [score_image(image, old) for image in evidence.good]
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
            says += ": another product, defects among the good parts, or a change that must be confirmed"
        yield Check("new parts look ordinary", is_ordinary or evidence.is_shift_confirmed, says)

    def check_confirmed_defects(self, images: Sequence[ImageFile]) -> Iterator[Check]:
        """Check that no labelled defective part that the version in service catches is lost."""
        if not images:
            return
        caught_now = [score_image(image, self.candidate) > self.candidate.threshold for image in images]
        old = self.incumbent.version if self.incumbent else None
        caught_before = [old is not None and score_image(image, old) > old.threshold for image in images]
        both = zip(images, caught_now, caught_before, strict=True)
        lost = [image.path.name for image, now, before in both if before and not now]
        named = f": {', '.join(name[:12] for name in lost[:3])}" if lost else ""
        yield Check(
            "confirmed defects",
            not lost,
            f"of {len(images)} confirmed defective parts {sum(caught_now)} are caught; {len(lost)} that the version in "
            f"service catches would be lost{named}",
        )

    def check_synthetic_defects(self, evidence: Evidence) -> Iterator[Check]:
        """Check that synthetic defects are found as well as before, within a margin."""
        if not evidence.cells or not evidence.cells_before:
            says = "not compared: no good 8-bit part is available that both versions judge ok"
            yield Check("synthetic defects", passed=True, says=says)
            return
        now, before = compute_recall(evidence.cells), compute_recall(evidence.cells_before)
        yield Check(
            "synthetic defects",
            now >= before - self.settings.synthetic_margin,
            f"{now:.1%} of synthetic defects are found, {before:.1%} by the version in service; "
            f"{self.settings.synthetic_margin:.1%} less may be",
        )

    def _is_within_rate(self, num_ng: int, num_parts: int) -> bool:
        return self._is_within(num_ng, num_parts, rate=self.promise.supported)

    def _is_within(self, num_ng: int, num_parts: int, *, rate: float) -> bool:
        """Whether ``num_ng`` is no more than chance explains at this rate."""
        return bool(binom.sf(num_ng - 1, num_parts, rate) >= self.settings.significance)

    def _verdict(self, data: bytes, version: Version) -> str:
        try:
            return inspect(data, version, max_pixels=MAX_PIXELS).verdict
        except ImageError:
            return "ng"  # of another depth or colour than the version takes


def check_promise(promise: PromiseRecord) -> Check:
    """Check whether the calibration parts support the requested false-alarm rate."""
    return Check(
        "promise",
        promise.supported <= promise.asked,
        f"{promise.num_calibration} calibration parts support a false-alarm rate of {promise.supported:.2%}, "
        f"{promise.asked:.2%} was requested",
    )


def have_same_inputs(one: Version, other: Version) -> bool:
    """Whether features and positions of one version are valid for the other."""
    first, second = (
        (manifest.teacher.sha256, manifest.input, manifest.map_size, manifest.files.get(REGION))
        for manifest in (one.manifest, other.manifest)
    )
    return first == second


def compute_scores(version: Version, calibration_features: CalibrationFeatures) -> NDArray[np.float64]:
    """Return a version's scores of parts by their calibration features, on its absolute scale (parts)."""
    comparisons = (
        compare_part(version.detector, calibration_features, row) for row in range(len(calibration_features))
    )
    return np.array([version.manifest.score.standardise(comparison.score) for comparison in comparisons])


def score_image(image: ImageFile, version: Version) -> float:
    """Return an image's score; infinite where the version refuses the image. Raises BadImage."""
    try:
        return inspect(image.read_bytes(), version, max_pixels=MAX_PIXELS).score
    except ImageError:
        return float("inf")
    except OSError as error:
        raise BadImage(image.path, error.strerror or str(error)) from error


NOT_COMPARABLE: tuple[type[GoodpartError], ...] = (StoreError, BundleError, ModelError)


def fail_comparison(error: GoodpartError, version: str) -> GateResult:
    """Return the result where the version in service can't be loaded."""
    says = f"the version in service, {version}, can't be compared with: {error}"
    return GateResult((Check("version in service", passed=False, says=says),), version)
