import json
from datetime import UTC, datetime, timedelta

import pytest

from app.store.errors import DamagedState
from app.store.labels import LabelDecision, LabelStore
from app.store.state import State

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DATA = b"an image"


@pytest.fixture
def feedback(tmp_path):
    return LabelStore(State(tmp_path))


def make_decision(label, *, at=NOW, by="ann"):
    return LabelDecision(at=at, by=by, why="seen under the microscope", label=label, part_id="17")


def test_an_image_is_kept_byte_for_byte_under_its_label(feedback):
    kept = feedback.add("disc", DATA, suffix=".png", decision=make_decision("ok"))
    (path,) = feedback.image_paths("disc", "ok")
    assert (path.name, path.read_bytes()) == (f"{kept.sha256}.png", DATA)
    assert feedback.image_paths("disc", "ng") == ()


def test_the_last_label_holds_and_every_one_is_remembered(feedback):
    feedback.add("disc", DATA, suffix=".png", decision=make_decision("ok"))
    kept = feedback.add("disc", DATA, suffix=".png", decision=make_decision("ng", by="bob"))
    assert [(one.label, one.by, one.part_id) for one in kept.history] == [("ok", "ann", "17"), ("ng", "bob", "17")]
    assert feedback.image_paths("disc", "ok") == ()
    (path,) = feedback.image_paths("disc", "ng")
    assert path.read_bytes() == DATA
    assert [one.name for one in path.parent.parent.glob("ok/*")] == [], "it lies in one place"


def test_every_label_is_in_the_audit(feedback):
    feedback.add("disc", DATA, suffix=".png", decision=make_decision("ok"))
    feedback.add("disc", DATA, suffix=".png", decision=make_decision("ng", at=NOW + timedelta(seconds=1)))
    entries = [json.loads(path.read_text()) for path in sorted((feedback.state.root / "disc/audit").iterdir())]
    assert [(one["event"], one["from"], one["to"]) for one in entries] == [
        ("feedback", None, "ok"),
        ("feedback", "ok", "ng"),
    ]


def test_a_product_without_feedback_has_none(feedback):
    assert feedback.read_all("disc") == ()


def test_a_damaged_history_is_named(feedback):
    kept = feedback.add("disc", DATA, suffix=".png", decision=make_decision("ok"))
    path = feedback.state.root / "disc/confirmed/history" / f"{kept.sha256}.json"
    path.write_text("{")
    with pytest.raises(DamagedState, match="history"):
        feedback.image_paths("disc", "ok")
