import shutil
from datetime import UTC, datetime

import pytest

from app.inference.registry import RETRY_AFTER_S, Catalogue, VersionUnusable
from app.inference.sessions import Device
from app.inference.version import Loader
from app.store.errors import UnknownProduct
from app.store.state import Decided, Override, ShadowOrder, State
from app.store.store import Store

NOW = datetime(2026, 11, 25, tzinfo=UTC)
BY = {"at": NOW, "by": "ann", "why": "a test"}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture
def catalogue_over():
    def make(root, **limits):
        catalogue = Catalogue(
            store=Store(root),
            state=State(root / "state"),
            prepare=Loader(Device("cpu", 1)).load,
            clock=Clock(),
            **limits,
        )
        catalogue.refresh()
        return catalogue

    return make


@pytest.fixture
def three_products(store_folder):
    """The product under three names; a manifest names its product, so each is published anew."""
    store, state = Store(store_folder), State(store_folder / "state")
    bundle = store.bundle("disc", store.versions("disc")[0])
    for name in ("bolt", "cone"):
        manifest = bundle.manifest.model_copy(update={"product": name}).model_dump_json().encode()
        version = store.publish(name, manifest=manifest, files=bundle.files, training={})
        state.activate(name, version, **BY)
    return store_folder


def test_a_rate_is_derived_anew_for_each_version_and_named(catalogue_over, store_folder, tiny_version):
    catalogue = catalogue_over(store_folder)
    standing = catalogue.override("disc", Override(**BY, false_alarm_rate=0.5))
    version = standing.serving
    assert version.threshold < tiny_version.threshold
    assert (version.threshold_from, version.promise.asked) == ("rate", 0.5)
    above = (version.calibration > version.threshold).mean()
    assert above <= 0.5
    assert version.detector is catalogue.serving("disc").detector


def test_a_value_lapses_with_its_version(catalogue_over, store_folder, republished, tiny_version):
    catalogue = catalogue_over(store_folder)
    override = Override(**BY, threshold=1.25, version=tiny_version.name)
    version = catalogue.override("disc", override).serving
    assert (version.threshold, version.threshold_from) == (1.25, "value")
    expected = (1 + (version.calibration > 1.25).sum()) / (len(version.calibration) + 1)
    assert version.promise.supported == pytest.approx(expected)
    after = catalogue.activate("disc", republished(), by="ann", why="").serving
    assert (after.threshold, after.threshold_from) == (tiny_version.threshold, "calibration")


def test_an_override_outlives_a_restart_and_can_be_lifted(catalogue_over, store_folder, tiny_version):
    catalogue_over(store_folder).override("disc", Override(**BY, threshold=9.0, version=tiny_version.name))
    catalogue = catalogue_over(store_folder)
    assert catalogue.serving("disc").threshold == 9.0
    assert catalogue.lift_override("disc", Decided(**BY)).serving.threshold == tiny_version.threshold
    assert catalogue_over(store_folder).serving("disc").threshold == tiny_version.threshold


def test_a_damaged_override_leaves_the_threshold_that_held_and_after_a_restart_nothing_serves(
    catalogue_over, store_folder, tiny_version
):
    catalogue = catalogue_over(store_folder)
    catalogue.override("disc", Override(**BY, threshold=9.0, version=tiny_version.name))
    (store_folder / "state/disc/override.json").write_text('{"threshold": ')
    catalogue.refresh()
    assert catalogue.serving("disc").threshold == 9.0
    assert "override.json is damaged" in catalogue.standing("disc").fault
    with pytest.raises(VersionUnusable, match=r"override\.json is damaged"):
        catalogue_over(store_folder).serving("disc")


def test_the_product_asked_for_least_recently_rests_and_wakes_when_asked(catalogue_over, three_products):
    catalogue = catalogue_over(three_products, most_loaded=2)
    resting = [standing.product for standing in catalogue.standings() if standing.is_resting]
    assert resting == ["disc"]
    with pytest.raises(VersionUnusable):
        catalogue.serving("disc")
    catalogue.serving("cone")
    catalogue.serving("bolt")
    assert catalogue.woken("disc").product == "disc"
    assert [standing.product for standing in catalogue.standings() if standing.is_resting] == ["cone"]
    catalogue.refresh()
    assert [standing.product for standing in catalogue.standings() if standing.is_resting] == ["cone"]


def test_a_resting_product_follows_what_is_activated_meanwhile(catalogue_over, three_products, republished):
    catalogue = catalogue_over(three_products, most_loaded=2)
    second = republished()
    catalogue.state.activate("disc", second, **BY)
    catalogue.refresh()
    assert catalogue.woken("disc").name == second


def test_a_candidate_stands_beside_the_serving_version_and_goes(
    catalogue_over, store_folder, republished, tiny_version
):
    catalogue = catalogue_over(store_folder)
    candidate = republished()
    shadow = catalogue.shadow("disc", ShadowOrder(**BY, version=candidate, share=0.5)).shadow
    assert (shadow.candidate.name, shadow.share, shadow.fault) == (candidate, 0.5, None)
    assert catalogue.serving("disc").name == tiny_version.name
    assert catalogue_over(store_folder).standing("disc").shadow.candidate.name == candidate
    assert catalogue.end_shadow("disc", Decided(**BY)).shadow is None
    catalogue.refresh()
    assert catalogue.standing("disc").shadow is None


def test_a_candidate_that_breaks_later_says_why_and_is_tried_again(catalogue_over, store_folder, republished):
    candidate = republished()
    catalogue_over(store_folder).shadow("disc", ShadowOrder(**BY, version=candidate, share=1))
    path = store_folder / "products/disc/versions" / candidate / "student.onnx"
    kept = path.read_bytes()
    path.unlink()
    catalogue = catalogue_over(store_folder)
    assert "student.onnx is missing" in catalogue.standing("disc").shadow.fault
    path.write_bytes(kept)
    catalogue._clock.now += RETRY_AFTER_S
    catalogue.refresh()
    assert catalogue.standing("disc").shadow.candidate.name == candidate


def test_a_product_whose_folder_goes_is_forgotten(catalogue_over, three_products):
    catalogue = catalogue_over(three_products)
    shutil.move(three_products / "products/disc", three_products / "gone")
    catalogue.refresh()
    with pytest.raises(UnknownProduct):
        catalogue.serving("disc")


@pytest.mark.parametrize("gone", ["products", "state"])
def test_a_store_or_state_that_is_gone_leaves_everything_as_it_was(catalogue_over, store_folder, tiny_version, gone):
    """As when a volume is unmounted."""
    catalogue = catalogue_over(store_folder)
    shutil.move(store_folder / gone, store_folder / "elsewhere")
    catalogue.refresh()
    assert catalogue.serving("disc").name == tiny_version.name
    assert "goes on judging" in (catalogue.fault or catalogue.standing("disc").fault)
    shutil.move(store_folder / "elsewhere", store_folder / gone)
    catalogue.refresh()
    assert (catalogue.fault, catalogue.standing("disc").fault) == (None, None)


def test_a_version_that_fails_in_a_way_nobody_thought_of_stops_no_other_product(three_products):
    def prepare(bundle):
        if bundle.manifest.product == "bolt":
            raise ZeroDivisionError("in a foreign file")
        return Loader(Device("cpu", 1)).load(bundle)

    catalogue = Catalogue(store=Store(three_products), state=State(three_products / "state"), prepare=prepare)
    catalogue.refresh()
    assert "ZeroDivisionError: in a foreign file" in catalogue.standing("bolt").fault
    assert catalogue.serving("cone").product == "cone"
    assert catalogue.serving("disc").product == "disc"


def test_a_threshold_holds_for_the_old_version_while_the_new_one_is_broken(catalogue_over, store_folder, republished):
    catalogue = catalogue_over(store_folder)
    broken = republished()
    (store_folder / "products/disc/versions" / broken / "compare.onnx").unlink()
    catalogue.state.activate("disc", broken, **BY)
    catalogue.refresh()
    assert catalogue.standing("disc").fault is not None
    assert catalogue.override("disc", Override(**BY, false_alarm_rate=0.5)).serving.threshold_from == "rate"
    catalogue.refresh()
    assert catalogue.serving("disc").promise.asked == 0.5
    assert catalogue.lift_override("disc", Decided(**BY)).serving.threshold_from == "calibration"


def test_a_damaged_order_for_a_candidate_keeps_nothing_from_serving(catalogue_over, store_folder, republished):
    (store_folder / "state/disc/shadow.json").write_text("")
    catalogue = catalogue_over(store_folder)
    second = republished()
    assert catalogue.activate("disc", second, by="ann", why="").serving.name == second
    assert "shadow.json is damaged" in catalogue.standing("disc").shadow.fault


def test_a_version_in_memory_is_had_by_name_while_another_is_loaded(
    catalogue_over, store_folder, republished, tiny_version
):
    catalogue = catalogue_over(store_folder)
    extra = catalogue.named("disc", republished())
    with catalogue._loading:  # as while a version is loaded
        assert catalogue.known("disc", extra.name) is not None
        assert catalogue.known("disc", tiny_version.name) is not None
        assert catalogue.known("disc", "20000101t000000z-00000000") is None


def test_a_broken_version_is_not_read_again_for_everybody_who_asks(catalogue_over, store_folder, republished):
    catalogue = catalogue_over(store_folder)
    broken = republished()
    path = store_folder / "products/disc/versions" / broken / "student.onnx"
    kept = path.read_bytes()
    path.unlink()
    for _ in range(2):
        with pytest.raises(Exception, match=r"student\.onnx is missing"):
            catalogue.named("disc", broken)
    path.write_bytes(kept)
    with pytest.raises(VersionUnusable):
        catalogue.named("disc", broken)
    catalogue._clock.now += RETRY_AFTER_S
    assert catalogue.named("disc", broken).name == broken


def test_a_broken_product_without_room_is_faulty_and_not_resting(catalogue_over, three_products):
    catalogue = catalogue_over(three_products, most_loaded=2)
    catalogue.serving("cone")
    (version,) = Store(three_products).versions("disc")
    (three_products / "products/disc/versions" / version / "student.onnx").unlink()
    with pytest.raises(VersionUnusable):
        catalogue.woken("disc")
    catalogue._clock.now += RETRY_AFTER_S
    catalogue.refresh()
    assert (catalogue.standing("disc").is_resting, catalogue.standing("disc").fault is not None) == (False, True)
    assert catalogue.serving("bolt").product == "bolt"  # it was not sent to rest for one that can't be loaded


def test_reloads_are_told_with_their_outcome(catalogue_over, store_folder, republished):
    catalogue = catalogue_over(store_folder)
    told = []
    catalogue.on_reload = lambda product, outcome: told.append((product, outcome))
    catalogue.activate("disc", republished(), by="ann", why="")
    broken = republished(mark="2")
    (store_folder / "products/disc/versions" / broken / "compare.onnx").unlink()
    catalogue.state.activate("disc", broken, **BY)
    catalogue.refresh()
    assert told == [("disc", "loaded"), ("disc", "refused")]
