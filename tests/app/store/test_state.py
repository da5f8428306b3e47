import json
from datetime import UTC, datetime

import pytest

from app.store.errors import DamagedState, StoreError
from app.store.state import State
from model.bundle import BadName

FIRST, SECOND = "20260101t000000z-00000001", "20260102t000000z-00000002"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def state(tmp_path):
    return State(tmp_path / "state")


def activate(state, version):
    return state.activate("disc", version, at=NOW, by="ann", why="better")


def test_nothing_serves_before_the_first_activation(state):
    assert state.read_current("disc") is None


def test_the_last_activation_is_current_and_knows_the_one_before(state):
    activate(state, FIRST)
    activate(state, SECOND)
    current = state.read_current("disc")
    assert (current.version, current.previous, current.by) == (SECOND, FIRST, "ann")
    assert state.read_previous("disc") == FIRST


def test_activating_what_serves_already_keeps_the_way_back(state):
    activate(state, FIRST)
    activate(state, SECOND)
    activate(state, SECOND)
    assert state.read_previous("disc") == FIRST


def test_every_activation_leaves_an_audit_object(state):
    activate(state, FIRST)
    activate(state, SECOND)
    entries = [json.loads(path.read_text()) for path in (state.root / "disc" / "audit").iterdir()]
    assert {(entry["from"], entry["to"], entry["by"], entry["why"]) for entry in entries} == {
        (None, FIRST, "ann", "better"),
        (FIRST, SECOND, "ann", "better"),
    }


def test_there_is_nothing_before_the_first(state):
    activate(state, FIRST)
    with pytest.raises(StoreError, match="no earlier active version"):
        state.read_previous("disc")


@pytest.mark.parametrize("text", ["", "{", "{}", '{"version": 3}'])
def test_a_damaged_state_is_named(state, text):
    activate(state, FIRST)
    state.current_path("disc").write_text(text)
    with pytest.raises(DamagedState, match=r"disc/current\.json"):
        state.read_current("disc")


def test_a_state_can_not_name_a_path(state):
    activate(state, FIRST)
    path = state.current_path("disc")
    path.write_text(path.read_text().replace(FIRST, "../../elsewhere"))
    with pytest.raises(BadName):
        state.read_current("disc")
    with pytest.raises(BadName):
        activate(state, "../x")
