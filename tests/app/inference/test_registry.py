import shutil
from datetime import UTC, datetime

import pytest

from app.errors import ModelError
from app.inference.registry import RETRY_AFTER_S, ModelRegistry
from app.inference.sessions import Device
from app.inference.version import Loader
from app.store.errors import UnknownProduct
from app.store.state import Decision, Override, ShadowDecision, State
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
def registry_over():
    def make(root, **limits):
        registry = ModelRegistry(
            store=Store(root),
            state=State(root / "state"),
            prepare=Loader(Device("cpu", 1)).load,
            clock=Clock(),
            **limits,
        )
        registry.refresh()
        return registry

    return make


@pytest.fixture
def three_products(store_folder):
    """The product under three names; a manifest names its product, so each is published anew."""
    store, state = Store(store_folder), State(store_folder / "state")
    bundle = store.load_bundle("disc", store.list_versions("disc")[0])
    for name in ("bolt", "cone"):
        manifest = bundle.manifest.model_copy(update={"product": name}).model_dump_json().encode()
        version = store.publish(name, manifest=manifest, files=bundle.files, training={})
        state.activate(name, version, **BY)
    return store_folder


def test_a_rate_is_applied_to_the_calibration_of_each_version(registry_over, store_folder, tiny_version):
    registry = registry_over(store_folder)
    standing = registry.set_override("disc", Override(**BY, false_alarm_rate=0.5))
    version = standing.serving
    assert version.threshold < tiny_version.threshold
    assert (version.threshold_from, version.promise.asked) == ("rate", 0.5)
    above = (version.calibration > version.threshold).mean()
    assert above <= 0.5
    assert version.detector is registry.get_serving("disc").detector


def test_a_value_lapses_with_its_version(registry_over, store_folder, republished, tiny_version):
    registry = registry_over(store_folder)
    override = Override(**BY, threshold=1.25, version=tiny_version.name)
    version = registry.set_override("disc", override).serving
    assert (version.threshold, version.threshold_from) == (1.25, "value")
    expected = (1 + (version.calibration > 1.25).sum()) / (len(version.calibration) + 1)
    assert version.promise.supported == pytest.approx(expected)
    after = registry.activate("disc", republished(), by="ann", why="").serving
    assert (after.threshold, after.threshold_from) == (tiny_version.threshold, "calibration")


def test_an_override_outlives_a_restart_and_can_be_lifted(registry_over, store_folder, tiny_version):
    registry_over(store_folder).set_override("disc", Override(**BY, threshold=9.0, version=tiny_version.name))
    registry = registry_over(store_folder)
    assert registry.get_serving("disc").threshold == 9.0
    assert registry.clear_override("disc", Decision(**BY)).serving.threshold == tiny_version.threshold
    assert registry_over(store_folder).get_serving("disc").threshold == tiny_version.threshold


def test_a_damaged_override_leaves_the_threshold_that_held_and_after_a_restart_nothing_serves(
    registry_over, store_folder, tiny_version
):
    registry = registry_over(store_folder)
    registry.set_override("disc", Override(**BY, threshold=9.0, version=tiny_version.name))
    (store_folder / "state/disc/override.json").write_text('{"threshold": ')
    registry.refresh()
    assert registry.get_serving("disc").threshold == 9.0
    assert "override.json is damaged" in registry.get_status("disc").error
    with pytest.raises(ModelError, match=r"override\.json is damaged"):
        registry_over(store_folder).get_serving("disc")


def test_the_least_recently_used_product_is_evicted_and_reloaded_on_demand(registry_over, three_products):
    registry = registry_over(three_products, max_loaded=2)
    resting = [standing.product for standing in registry.list_statuses() if standing.is_evicted]
    assert resting == ["disc"]
    with pytest.raises(ModelError, match="can't serve"):
        registry.get_serving("disc")
    registry.get_serving("cone")
    registry.get_serving("bolt")
    assert registry.reload("disc").product == "disc"
    assert [standing.product for standing in registry.list_statuses() if standing.is_evicted] == ["cone"]
    registry.refresh()
    assert [standing.product for standing in registry.list_statuses() if standing.is_evicted] == ["cone"]


def test_an_evicted_product_follows_activations(registry_over, three_products, republished):
    registry = registry_over(three_products, max_loaded=2)
    second = republished()
    registry.state.activate("disc", second, **BY)
    registry.refresh()
    assert registry.reload("disc").name == second


def test_a_candidate_stands_beside_the_serving_version_and_goes(registry_over, store_folder, republished, tiny_version):
    registry = registry_over(store_folder)
    candidate = republished()
    shadow = registry.set_shadow("disc", ShadowDecision(**BY, version=candidate, share=0.5)).shadow
    assert (shadow.candidate.name, shadow.share, shadow.error) == (candidate, 0.5, None)
    assert registry.get_serving("disc").name == tiny_version.name
    assert registry_over(store_folder).get_status("disc").shadow.candidate.name == candidate
    assert registry.clear_shadow("disc", Decision(**BY)).shadow is None
    registry.refresh()
    assert registry.get_status("disc").shadow is None


def test_a_candidate_that_breaks_later_says_why_and_is_tried_again(registry_over, store_folder, republished):
    candidate = republished()
    registry_over(store_folder).set_shadow("disc", ShadowDecision(**BY, version=candidate, share=1))
    path = store_folder / "products/disc/versions" / candidate / "student.onnx"
    kept = path.read_bytes()
    path.unlink()
    registry = registry_over(store_folder)
    assert "student.onnx is missing" in registry.get_status("disc").shadow.error
    path.write_bytes(kept)
    registry._clock.now += RETRY_AFTER_S
    registry.refresh()
    assert registry.get_status("disc").shadow.candidate.name == candidate


def test_a_product_whose_folder_goes_is_forgotten(registry_over, three_products):
    registry = registry_over(three_products)
    shutil.move(three_products / "products/disc", three_products / "gone")
    registry.refresh()
    with pytest.raises(UnknownProduct):
        registry.get_serving("disc")


@pytest.mark.parametrize("gone", ["products", "state"])
def test_a_store_or_state_that_is_gone_leaves_everything_as_it_was(registry_over, store_folder, tiny_version, gone):
    """As when a volume is unmounted."""
    registry = registry_over(store_folder)
    shutil.move(store_folder / gone, store_folder / "elsewhere")
    registry.refresh()
    assert registry.get_serving("disc").name == tiny_version.name
    assert "goes on judging" in (registry.error or registry.get_status("disc").error)
    shutil.move(store_folder / "elsewhere", store_folder / gone)
    registry.refresh()
    assert (registry.error, registry.get_status("disc").error) == (None, None)


def test_a_version_that_fails_unexpectedly_stops_no_other_product(three_products):
    def prepare(bundle):
        if bundle.manifest.product == "bolt":
            raise ZeroDivisionError("in a foreign file")
        return Loader(Device("cpu", 1)).load(bundle)

    registry = ModelRegistry(store=Store(three_products), state=State(three_products / "state"), prepare=prepare)
    registry.refresh()
    assert "ZeroDivisionError: in a foreign file" in registry.get_status("bolt").error
    assert registry.get_serving("cone").product == "cone"
    assert registry.get_serving("disc").product == "disc"


def test_a_threshold_holds_for_the_old_version_while_the_new_one_is_broken(registry_over, store_folder, republished):
    registry = registry_over(store_folder)
    broken = republished()
    (store_folder / "products/disc/versions" / broken / "compare.onnx").unlink()
    registry.state.activate("disc", broken, **BY)
    registry.refresh()
    assert registry.get_status("disc").error is not None
    assert registry.set_override("disc", Override(**BY, false_alarm_rate=0.5)).serving.threshold_from == "rate"
    registry.refresh()
    assert registry.get_serving("disc").promise.asked == 0.5
    assert registry.clear_override("disc", Decision(**BY)).serving.threshold_from == "calibration"


def test_a_damaged_order_for_a_candidate_keeps_nothing_from_serving(registry_over, store_folder, republished):
    (store_folder / "state/disc/shadow.json").write_text("")
    registry = registry_over(store_folder)
    second = republished()
    assert registry.activate("disc", second, by="ann", why="").serving.name == second
    assert "shadow.json is damaged" in registry.get_status("disc").shadow.error


def test_a_version_in_memory_is_had_by_name_while_another_is_loaded(
    registry_over, store_folder, republished, tiny_version
):
    registry = registry_over(store_folder)
    extra = registry.get_or_load("disc", republished())
    with registry._change("disc"):  # as while a version is loaded
        assert registry.get_loaded("disc", extra.name) is not None
        assert registry.get_loaded("disc", tiny_version.name) is not None
        assert registry.get_loaded("disc", "20000101t000000z-00000000") is None


def test_a_broken_version_is_not_read_again_for_everybody_who_asks(registry_over, store_folder, republished):
    registry = registry_over(store_folder)
    broken = republished()
    path = store_folder / "products/disc/versions" / broken / "student.onnx"
    kept = path.read_bytes()
    path.unlink()
    for _ in range(2):
        with pytest.raises(Exception, match=r"student\.onnx is missing"):
            registry.get_or_load("disc", broken)
    path.write_bytes(kept)
    with pytest.raises(ModelError, match="can't serve"):
        registry.get_or_load("disc", broken)
    registry._clock.now += RETRY_AFTER_S
    assert registry.get_or_load("disc", broken).name == broken


def test_a_broken_product_without_room_is_faulty_and_not_evicted(registry_over, three_products):
    registry = registry_over(three_products, max_loaded=2)
    registry.get_serving("cone")
    (version,) = Store(three_products).list_versions("disc")
    (three_products / "products/disc/versions" / version / "student.onnx").unlink()
    with pytest.raises(ModelError, match="can't serve"):
        registry.reload("disc")
    registry._clock.now += RETRY_AFTER_S
    registry.refresh()
    assert (registry.get_status("disc").is_evicted, registry.get_status("disc").error is not None) == (False, True)
    assert registry.get_serving("bolt").product == "bolt"  # it was not sent to rest for one that can't be loaded


def test_reloads_are_reported_with_their_outcome(registry_over, store_folder, republished):
    events = []
    registry = registry_over(store_folder, on_reload=lambda product, outcome: events.append((product, outcome)))
    events.clear()
    registry.activate("disc", republished(), by="ann", why="")
    broken = republished(mark="2")
    (store_folder / "products/disc/versions" / broken / "compare.onnx").unlink()
    registry.state.activate("disc", broken, **BY)
    registry.refresh()
    assert events == [("disc", "loaded"), ("disc", "refused")]
