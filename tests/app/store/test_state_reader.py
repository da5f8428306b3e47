"""Reading the decisions about many products: only what changed is read anew."""

import shutil
from collections import Counter
from datetime import UTC, datetime

import pytest

from app.store import paths, state_reader
from app.store.errors import DamagedState, StoreUnusable
from app.store.state import Override, ProductState, State
from app.store.state_reader import StateReader
from model.bundle import BadName

FIRST, SECOND = "20260101t000000z-00000001", "20260102t000000z-00000002"
BY = {"at": datetime(2026, 11, 23, tzinfo=UTC), "by": "ann", "why": "a test"}
NOTHING = ProductState(None, None, None)


@pytest.fixture
def state(tmp_path):
    state = State(tmp_path / "state")
    for product in ("disc", "cup"):
        state.activate(product, FIRST, **BY)
    return state


@pytest.fixture
def reads(monkeypatch):
    """How often the files of each product are read."""
    counts, read = Counter(), State.read

    def count(self, product):
        counts[product] += 1
        return read(self, product)

    monkeypatch.setattr(State, "read", count)
    return counts


def test_the_decisions_about_every_product_are_those_of_its_files(state):
    found = StateReader(state).read_all(["cup", "disc", "new"])
    assert found == {"cup": state.read("cup"), "disc": state.read("disc"), "new": NOTHING}
    assert list(found) == ["cup", "disc", "new"]
    assert found["disc"].current.version == FIRST


def test_files_that_did_not_change_are_not_read_again(state, reads):
    reader = StateReader(state)
    first = reader.read_all(["disc", "cup"])
    assert reader.read_all(["disc", "cup"]) == first
    assert reads == {"disc": 1, "cup": 1}


@pytest.mark.parametrize(
    "decide",
    [
        lambda state: state.activate("disc", SECOND, **BY),
        lambda state: paths.replace(
            state.override_path("disc"), Override(**BY, false_alarm_rate=0.1).model_dump_json().encode()
        ),
        lambda state: state.current_path("disc").unlink(),
    ],
)
def test_a_product_with_a_new_decision_is_read_again_and_it_alone(state, reads, decide):
    reader = StateReader(state)
    before = reader.read_all(["disc", "cup"])
    decide(state)
    after = reader.read_all(["disc", "cup"])
    assert after == {"disc": state.read("disc"), "cup": before["cup"]}
    assert after["disc"] != before["disc"]
    assert reads["cup"] == 1


def test_other_files_beside_the_decisions_cause_no_reading(state, reads):
    reader = StateReader(state)
    reader.read_all(["disc"])
    (state.product_folder("disc") / "note.txt").write_text("of a person")
    reader.read_all(["disc"])
    assert reads["disc"] == 1


def test_a_product_that_can_not_be_read_does_not_stop_the_others(state):
    state.current_path("disc").write_text("{")
    found = StateReader(state).read_all(["disc", "../etc", "cup"])
    assert isinstance(found["disc"], DamagedState)
    assert isinstance(found["../etc"], BadName)
    assert found["cup"].current.version == FIRST


def test_a_damaged_decision_is_read_again_until_it_is_mended(state):
    reader = StateReader(state)
    whole = state.current_path("disc").read_bytes()
    state.current_path("disc").write_text("{")
    assert isinstance(reader.read_all(["disc"])["disc"], DamagedState)
    assert isinstance(reader.read_all(["disc"])["disc"], DamagedState)
    state.current_path("disc").write_bytes(whole)
    assert reader.read_all(["disc"])["disc"].current.version == FIRST


def test_where_the_storage_lists_nothing_its_copies_are_read_each_time(state, reads, monkeypatch):
    """As when object storage does not answer: what was read then may be old, so it is not taken for known."""
    reader, list_etags = StateReader(state), paths.list_etags

    def fail(path):
        raise StoreUnusable(path, "no answer")

    monkeypatch.setattr(state_reader.paths, "list_etags", fail)
    for _ in range(2):
        assert reader.read_all(["disc"])["disc"].current.version == FIRST
    assert reads["disc"] == 2
    monkeypatch.setattr(state_reader.paths, "list_etags", list_etags)
    for _ in range(2):
        reader.read_all(["disc"])
    assert reads["disc"] == 3


def test_a_product_that_was_not_asked_for_is_forgotten(state, reads):
    reader = StateReader(state)
    for products in (["disc", "cup"], ["cup"], ["disc", "cup"]):
        reader.read_all(products)
    assert reads == {"disc": 2, "cup": 1}


def test_a_product_whose_decisions_are_gone_has_none(state):
    reader = StateReader(state)
    reader.read_all(["disc"])
    shutil.rmtree(state.product_folder("disc"))
    assert reader.read_all(["disc"]) == {"disc": NOTHING}
