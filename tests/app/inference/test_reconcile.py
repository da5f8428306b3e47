"""What the decisions about a product ask for, case by case."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.inference.reconcile import (
    GONE,
    RETRY_AFTER_S,
    Step,
    apply_override,
    plan_serving,
    plan_shadow,
    replace_shadow,
    set_candidate,
    set_candidate_failed,
    set_failed,
    set_loaded,
)
from app.inference.status import ProductStatus, Shadow
from app.store.state import Activation, Override, ProductState, ShadowDecision

BY = {"at": datetime(2026, 11, 25, tzinfo=UTC), "by": "ann", "why": "a test"}
NOW_S = 1000.0
NEW = "20260102t000000z-00000002"
RATE = Override(**BY, false_alarm_rate=0.5)
ERROR = ValueError("a digest differs")


@pytest.fixture
def version(tiny_version):
    return tiny_version


@pytest.fixture
def serving(version):
    """A product that serves what was activated."""
    return ProductStatus("disc", serving=version, activated=version.name)


def decide(version=None, *, override=None, share=None, shadow_error=None):
    """Decisions: the version to serve, an override, and a candidate of this share of the images."""
    current = Activation(**BY, version=version, previous=None) if version else None
    shadow = ShadowDecision(**BY, version=NEW, share=share) if share else None
    return ProductState(current, override, shadow, shadow_error)


def plan(status, decided, *, now_s=NOW_S, has_room=True):
    return plan_serving(status, decided, now_s=now_s, has_room=has_room)


def test_a_product_that_nothing_was_activated_of_stays_empty():
    old = ProductStatus("disc", error="an old one", activated="x", override=RATE)
    assert plan(old, decide()) == Step(ProductStatus("disc"))


def test_a_version_whose_activation_is_gone_goes_on_serving_and_says_so(serving):
    assert plan(serving, decide()) == Step(replace(serving, error=GONE))


def test_a_version_that_serves_already_is_not_loaded_and_its_error_ends(serving, version):
    broken = replace(serving, activated=NEW, error="the other one was broken")
    assert plan(broken, decide(version.name)) == Step(serving)


def test_another_version_is_loaded_while_the_old_one_serves(serving):
    assert plan(serving, decide(NEW)) == Step(serving, load=NEW)
    assert plan(serving, decide(NEW), has_room=False) == Step(serving, load=NEW)  # it takes the old one's room


def test_the_first_version_is_loaded_where_there_is_room():
    assert plan(ProductStatus("disc"), decide(NEW)) == Step(ProductStatus("disc"), load=NEW)


def test_a_version_without_room_is_evicted_until_it_is_asked_for():
    expected = Step(ProductStatus("disc", activated=NEW, is_evicted=True))
    assert plan(ProductStatus("disc"), decide(NEW), has_room=False) == expected
    assert plan(expected.status, decide(NEW), has_room=False) == expected
    assert plan(expected.status, decide(NEW), has_room=True) == Step(expected.status, load=NEW)


@pytest.mark.parametrize(("waited_s", "load"), [(0.0, None), (29.5, None), (30.0, NEW), (31.0, NEW)])
def test_a_version_that_failed_is_tried_again_after_a_while(serving, waited_s, load):
    failed = set_failed(serving, NEW, ERROR, now_s=NOW_S)
    assert plan(failed, decide(NEW), now_s=NOW_S + waited_s) == Step(failed, load=load)


def test_a_version_that_failed_does_not_delay_another_one(serving):
    failed = set_failed(serving, "another", ERROR, now_s=NOW_S)
    assert plan(failed, decide(NEW)) == Step(failed, load=NEW)


def test_a_failed_version_without_room_keeps_its_error_and_another_one_does_not():
    failed = set_failed(ProductStatus("disc"), NEW, ERROR, now_s=NOW_S)
    later_s = NOW_S + RETRY_AFTER_S
    assert plan(failed, decide(NEW), now_s=later_s, has_room=False) == Step(failed)
    other = plan(failed, decide("another"), now_s=later_s, has_room=False).status
    assert (other.activated, other.is_evicted, other.error) == ("another", True, None)


def test_an_override_holds_at_once_for_what_serves_and_for_what_is_loaded(serving, version):
    found = plan(serving, decide(NEW, override=RATE))
    assert (found.status.override, found.status.serving, found.load) == (RATE, version.with_override(RATE), NEW)
    assert found.status.serving.threshold != version.threshold
    assert apply_override(found.status, decide(NEW)).serving.threshold == version.threshold
    assert apply_override(ProductStatus("disc"), decide(override=RATE)) == ProductStatus("disc", override=RATE)


def test_a_loaded_version_serves_under_the_override_and_ends_error_and_eviction(version):
    status = ProductStatus("disc", activated="x", override=RATE, is_evicted=True, error="old", retry_at_s=5.0)
    expected = ProductStatus("disc", version.with_override(RATE), version.name, RATE)
    assert set_loaded(status, version) == expected


def test_a_version_that_can_not_be_loaded_leaves_what_serves(serving):
    evicted = replace(serving, is_evicted=True)
    expected = replace(serving, activated=NEW, error="a digest differs", retry_at_s=NOW_S + RETRY_AFTER_S)
    assert set_failed(evicted, NEW, ERROR, now_s=NOW_S) == expected


def test_without_a_decision_no_candidate_runs(serving):
    before = replace(serving, shadow=Shadow(NEW, 0.5))
    assert plan_shadow(before, decide(), now_s=NOW_S) == Step(serving)


def test_a_decision_that_can_not_be_read_is_an_error_of_the_candidate_alone(serving):
    found = plan_shadow(serving, decide(shadow_error="shadow.json is damaged"), now_s=NOW_S)
    assert found == Step(replace(serving, shadow=Shadow("?", 0.0, error="shadow.json is damaged")))


def test_a_candidate_waits_for_a_version_that_serves():
    found = plan_shadow(ProductStatus("disc"), decide(share=0.25), now_s=NOW_S)
    assert found == Step(ProductStatus("disc", shadow=Shadow(NEW, 0.25)))


def test_a_new_candidate_is_loaded(serving, version):
    expected = Step(replace(serving, shadow=Shadow(NEW, 0.25)), load=NEW)
    assert plan_shadow(serving, decide(share=0.25), now_s=NOW_S) == expected
    other = replace(serving, shadow=Shadow("another", 1.0, candidate=version, retry_at_s=9e9))
    assert plan_shadow(other, decide(share=0.25), now_s=NOW_S) == expected


def test_a_loaded_candidate_takes_another_share_without_being_loaded_again(serving, version):
    loaded = replace(serving, shadow=Shadow(NEW, 0.25, candidate=version))
    found = plan_shadow(loaded, decide(share=0.5), now_s=NOW_S)
    assert found == Step(replace(serving, shadow=Shadow(NEW, 0.5, candidate=version)))


@pytest.mark.parametrize(("waited_s", "load"), [(29.5, None), (30.0, NEW)])
def test_a_candidate_that_failed_is_tried_again_after_a_while(serving, waited_s, load):
    failed = set_candidate_failed(replace(serving, shadow=Shadow(NEW, 0.25)), ERROR, now_s=NOW_S)
    assert failed.shadow == Shadow(NEW, 0.25, error="a digest differs", retry_at_s=NOW_S + RETRY_AFTER_S)
    found = plan_shadow(failed, decide(share=0.5), now_s=NOW_S + waited_s)
    kept = Shadow(NEW, 0.5) if load else replace(failed.shadow, share=0.5)
    assert found == Step(replace(serving, shadow=kept), load=load)


def test_a_candidate_that_is_loaded_ends_its_error(serving, version):
    failed = replace(serving, shadow=Shadow(NEW, 0.25, error="old"))
    assert set_candidate(failed, version).shadow == Shadow(NEW, 0.25, candidate=version)


def test_a_candidate_that_was_withdrawn_while_it_was_loaded_is_dropped(serving, version):
    assert set_candidate(serving, version) is serving
    assert set_candidate_failed(serving, ERROR, now_s=NOW_S) is serving
    assert replace_shadow(serving, error="x") is serving
