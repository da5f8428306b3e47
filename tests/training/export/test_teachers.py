"""A teacher that was exported before is found by its key, whatever else is in the store."""

import json
from datetime import UTC, datetime

import pytest

from app.store.state import State
from model.bundle import METRICS
from training.export.teachers import find_exported_teacher

KEY = "a" * 64


@pytest.fixture
def state(store):
    return State(store.root / "state")


def serve(republished, state, metrics):
    """Let a version with these metrics serve."""
    version = republished(files={METRICS: metrics})
    state.activate("disc", version, at=datetime.now(UTC), by="test", why="a test")
    return version


def test_the_graph_of_a_version_in_service_is_found_by_its_key(store, state, republished):
    version = serve(republished, state, json.dumps({"teacher_key": KEY}).encode())
    assert find_exported_teacher(store, state, key=KEY) == store.load_bundle("disc", version).teacher
    assert find_exported_teacher(store, state, key="b" * 64) is None


@pytest.mark.parametrize("metrics", [b"{}", b'{"teacher_key": '])
def test_a_version_whose_metrics_say_nothing_is_passed_over(store, state, republished, metrics):
    serve(republished, state, metrics)
    assert find_exported_teacher(store, state, key=KEY) is None
