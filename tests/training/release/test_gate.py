from dataclasses import replace

import numpy as np
import pytest
from conftest import FIXTURE, PRODUCT
from drawing import defective_part, encode, good_part

from app.inference.sessions import Device
from app.inference.version import Loader
from app.store.state import Activation, ProductState
from app.store.store import Store
from training.data.images import ImageSource, open_files
from training.evaluation.sensitivity import Cell
from training.export.calibration_features import CalibrationFeatures
from training.release.gate import Evidence, Gate, Incumbent, compute_scores, load_incumbent
from training.settings import GateSettings


@pytest.fixture(scope="module")
def version():
    store = Store(FIXTURE)
    (name,) = store.list_versions(PRODUCT)
    return Loader(Device("cpu", 1)).load(store.load_bundle(PRODUCT, name))


def at(version, threshold, *, supported=None, asked=None):
    """The version under another threshold, and maybe another promise."""
    own = version.promise
    changes = {"threshold": threshold, "supported": supported or own.supported, "asked": asked or own.asked}
    return replace(version, chosen=own.model_copy(update=changes))


@pytest.fixture
def images(tmp_path):
    """Makes image files of parts."""

    def make(draw, count, *, first=500):
        folder = tmp_path / draw.__name__
        folder.mkdir(exist_ok=True)
        paths = [folder / f"{index}.png" for index in range(count)]
        for index, path in enumerate(paths):
            path.write_bytes(encode(draw(first + index)))
        return open_files(paths, ImageSource())

    return make


def evidence(good, *, ng=(), now=(), before=(), is_shift_confirmed=False):
    return Evidence(good, ng, now, before, is_shift_confirmed)


def ruling(candidate, incumbent, found):
    made = Gate(candidate, incumbent, GateSettings()).evaluate(found)
    return made, {check.name: check.passed for check in made.checks}


def incumbent(version, *, golden=(), kept=None):
    return Incumbent(version, tuple(golden), kept)


def test_a_version_like_the_one_in_service_passes(version, images):
    candidate = at(version, version.threshold, supported=0.06, asked=0.06)
    found = evidence(images(good_part, 12), now=[Cell("spot", 0.1, 1.0, 5, 6)], before=[Cell("spot", 0.1, 1.0, 5, 6)])
    made, checks = ruling(candidate, incumbent(candidate, golden=[encode(good_part(7))]), found)
    assert made.passed, made.reasons
    assert made.beside == version.name
    assert set(checks) == {
        "parity", "promise", "golden parts", "calibration parts", "new parts look ordinary", "synthetic defects",
    }  # fmt: skip


def test_the_first_version_of_a_product_needs_a_promise_alone(version):
    made, checks = ruling(at(version, 1.0, supported=0.05, asked=0.05), None, evidence([]))
    assert (made.passed, made.beside, set(checks)) == (True, None, {"parity", "promise"})


def test_a_promise_that_the_calibration_parts_do_not_support_fails(version):
    made, _ = ruling(at(version, 1.0, supported=0.05, asked=0.01), None, evidence([]))
    assert not made.passed
    assert "support a false-alarm rate of 5.00%, 1.00% was requested" in made.reasons[0]


def test_old_golden_parts_that_would_be_ng_fail(version):
    golden = [encode(good_part(seed)) for seed in range(3)]
    _, checks = ruling(at(version, -100.0), incumbent(at(version, 100.0), golden=golden), evidence([]))
    assert not checks["golden parts"]


def test_golden_parts_that_were_ng_before_do_not_count(version):
    golden = [encode(good_part(seed)) for seed in range(3)]
    _, checks = ruling(at(version, -100.0), incumbent(at(version, -100.0), golden=golden), evidence([]))
    assert checks["golden parts"]


def make_calibration_features(version, pictures):
    """Features of parts as a training keeps them."""
    from app.imaging.decode import decode
    from app.inference.detector import make_batch

    rows, valid = [], []
    for picture in pictures:
        image = decode(encode(picture), version.manifest.input, max_pixels=10**6)
        batch = make_batch([image], map_size=version.manifest.map_size)
        features = version.detector.extract(batch)
        rows.append([features[f"t{k + 1}"].astype(np.float16) for k in range(len(features))])
        valid.append(batch.valid)
    features = tuple(np.concatenate(scale) for scale in zip(*rows, strict=True))
    return CalibrationFeatures(features, np.concatenate(valid), np.full(1, -1))


def test_kept_features_score_as_the_images_do(version):
    from app.inspection.pipeline import inspect

    pictures = [good_part(seed) for seed in range(4)] + [defective_part(4)]
    expected = [inspect(encode(picture), version, max_pixels=10**6).score for picture in pictures]
    found = compute_scores(version, make_calibration_features(version, pictures))
    assert np.abs(found - expected).max() < 0.05, "half precision moves a score by no more"


def test_old_calibration_parts_that_would_be_ng_fail(version):
    kept = make_calibration_features(version, [good_part(seed) for seed in range(12)])
    _, checks = ruling(at(version, -100.0), incumbent(version, kept=kept), evidence([]))
    assert not checks["calibration parts"]
    _, checks = ruling(at(version, 100.0), incumbent(version, kept=kept), evidence([]))
    assert checks["calibration parts"]


def test_defects_among_the_new_good_parts_fail(version, images):
    mixed = [*images(good_part, 16), *images(defective_part, 4)]
    old = incumbent(at(version, version.threshold, supported=0.02))
    made, checks = ruling(at(version, 100.0), old, evidence(mixed))
    assert not checks["new parts look ordinary"]
    assert "defects among the good parts, or a change that must be confirmed" in " ".join(made.reasons)
    _, checks = ruling(at(version, 100.0), old, evidence(mixed, is_shift_confirmed=True))
    assert checks["new parts look ordinary"]


def test_a_confirmed_defect_that_would_be_lost_fails(version, images):
    found = evidence([], ng=images(defective_part, 2))
    made, checks = ruling(at(version, 1e6), incumbent(version), found)
    assert not checks["confirmed defects"]
    assert "2 that the version in service catches would be lost: 0.png, 1.png" in " ".join(made.reasons)
    _, checks = ruling(version, incumbent(version), found)
    assert checks["confirmed defects"]


def test_a_confirmed_defect_that_neither_catches_is_no_reason(version, images):
    _, checks = ruling(at(version, 1e6), incumbent(at(version, 1e6)), evidence([], ng=images(defective_part, 2)))
    assert checks["confirmed defects"]


@pytest.mark.parametrize(("now", "passed"), [(96, True), (95, True), (94, False)])
def test_synthetic_recall_may_fall_by_the_margin(version, now, passed):
    found = evidence([], now=[Cell("spot", 0.1, 1.0, now, 100)], before=[Cell("spot", 0.1, 1.0, 100, 100)])
    _, checks = ruling(version, incumbent(version), found)
    assert checks["synthetic defects"] is passed


def test_nothing_in_service_is_no_incumbent_and_the_active_version_is_one(store):
    assert load_incumbent(store, ProductState(None, None, None), PRODUCT) is None
    (name,) = store.list_versions(PRODUCT)
    current = Activation(version=name, previous=None, at="2026-01-01T00:00:00Z", by="ann", why="")
    found = load_incumbent(store, ProductState(current, None, None), PRODUCT)
    assert (found.version.name, found.features) == (name, None)
