from dataclasses import replace

import pytest

from app.errors import ModelError
from app.inference.arrays import pack_arrays
from app.inference.detector import BUCKETS
from app.inference.sessions import Device
from app.inference.version import Loader
from app.inspection.verification import EXPECTED, load_verified, unpack_expectation, warm_up
from model.bundle import BundleError

LOADER = Loader(Device("cpu", 1))


@pytest.fixture
def bundle(store):
    return store.load_bundle("disc", store.list_versions("disc")[0])


def expecting(bundle, *, scores=lambda scores: scores, maps=lambda maps: maps):
    """The bundle with other expectations of its golden images."""
    before = unpack_expectation(bundle.files[EXPECTED])
    changed = {"scores": scores(before.scores), "maps": maps(before.maps)}
    return replace(bundle, files={**bundle.files, EXPECTED: pack_arrays(**changed)})


def test_a_version_that_judges_as_in_training_is_proven(bundle):
    assert load_verified(bundle, loader=LOADER, max_batch=1).name == bundle.version


@pytest.mark.parametrize("off", [0.05, -0.05, float("nan")])
def test_a_score_that_is_off_by_more_than_the_tolerance_fails(bundle, off):
    with pytest.raises(ModelError, match=r"golden/defect_0\.png differs from its result in training"):
        load_verified(expecting(bundle, scores=lambda scores: scores + off), loader=LOADER, max_batch=1)


def test_a_map_that_is_off_in_one_position_fails(bundle):
    def change_one_position(maps):
        maps = maps.copy()
        maps[-1, 3, 3] += 0.05
        return maps

    with pytest.raises(ModelError, match=r"golden/good_2\.png"):
        load_verified(expecting(bundle, maps=change_one_position), loader=LOADER, max_batch=1)


def test_what_another_machine_may_differ_by_is_allowed(bundle):
    nearly = expecting(bundle, scores=lambda scores: scores + 0.01)
    assert load_verified(nearly, loader=LOADER, max_batch=1).name == bundle.version


def test_expectations_that_can_not_be_read_or_fit_no_image_are_refused(bundle):
    with pytest.raises(BundleError, match="can't be read"):
        load_verified(replace(bundle, files={**bundle.files, EXPECTED: b"PK"}), loader=LOADER, max_batch=1)
    fewer = expecting(bundle, scores=lambda scores: scores[:5], maps=lambda maps: maps[:5])
    with pytest.raises(BundleError, match="6 golden images, but 5"):
        load_verified(fewer, loader=LOADER, max_batch=1)
    with pytest.raises(BundleError, match="can't be inspected"):
        load_verified(replace(bundle, files={**bundle.files, "golden/good_0.png": b"x"}), loader=LOADER, max_batch=1)


def test_a_version_that_answers_nan_is_not_proven(bundle, tiny_version):
    class NaN:
        def run(self, _):
            raise ModelError("compare.onnx returned a score that is not finite")

    class NaNLoader:
        def load(self, _):
            return replace(tiny_version, detector=NaN())

    with pytest.raises(ModelError, match="not finite"):
        load_verified(bundle, loader=NaNLoader(), max_batch=1)


@pytest.mark.parametrize(
    ("max_batch", "sizes"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 4]), (4, [1, 2, 4]), (8, [*BUCKETS])]
)
def test_every_batch_size_that_will_be_met_is_warm(tiny_version, max_batch, sizes):
    class Noting:
        def __init__(self):
            self.sizes = []

        def run(self, batch):
            self.sizes.append(len(batch.pixels))

    noting = Noting()
    warm_up(replace(tiny_version, detector=noting), max_batch=max_batch)
    assert noting.sizes == sizes
