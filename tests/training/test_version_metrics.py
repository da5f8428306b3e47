"""``metrics.json``: what a version writes there, and what another release finds in it."""

import json

from conftest import FIXTURE
from metrics import make_metrics

from training.evaluation.evaluate import EvaluationMetrics, TestScore
from training.evaluation.repeatability import Repeat
from training.evaluation.sensitivity import Cell
from training.release.gate import Check, GateResult
from training.version_metrics import IncumbentMetrics, VersionKeys, read_keys

EVALUATION = EvaluationMetrics(
    num_test_good=1,
    num_test_defective=0,
    false_alarm_rate=0.0,
    test_scores=(TestScore("test/good/0.png", "good", "b" * 64, -0.5, "ok"),),
)


def test_a_file_has_every_metric_by_name_and_none_that_was_not_measured():
    cells = [Cell("spot", 0.02, 1.0, num_found=3, num_drawn=4)]
    metrics = make_metrics(
        evaluation=EVALUATION,
        sensitivity=cells,
        repeatability=[Repeat("noise", 12, 0.2, 0.6, 1)],
        before=IncumbentMetrics(None, tuple(cells)),
        gate=GateResult((Check("promise", passed=True, says="kept"),), None),
        training_key="c" * 64,
        map_weights=(0.5, 0.5),
    )
    assert json.loads(json.dumps(metrics.to_dict())) == {
        "promise_in_words": "20 parts support 6 %.",
        "parity": {"num_images": 20, "score": 1e-6, "map": 2e-6},
        "num_calibrate": 20,
        "settings": {"seed": 0, "mlflow_uri": None},
        "curves": {},
        "map_weights": [0.5, 0.5],
        "teacher_key": "a" * 64,
        "training_s": 1.5,
        "training_key": "c" * 64,
        "num_test_good": 1,
        "num_test_defective": 0,
        "false_alarm_rate": 0.0,
        "test_scores": [
            {"path": "test/good/0.png", "kind": "good", "sha256": "b" * 64, "score": -0.5, "verdict": "ok"}
        ],
        "sensitivity": [{"kind": "spot", "size": 0.02, "contrast": 1.0, "num_found": 3, "num_drawn": 4}],
        "synthetic_recall": 0.75,
        "repeatability": [{"change": "noise", "num_parts": 12, "spread": 0.2, "largest": 0.6, "num_flipped": 1}],
        "before": {"synthetic_recall": 0.75},
        "gate": {
            "passed": True,
            "beside": None,
            "checks": [{"name": "promise", "passed": True, "says": "kept"}],
        },
    }


def test_a_version_without_test_set_and_incumbent_has_no_figures_of_theirs():
    found = make_metrics().to_dict()
    assert (found["sensitivity"], found["repeatability"], found["before"]) == ([], [], {})
    assert not {"num_test_good", "test_scores", "synthetic_recall", "adapted_from"} & set(found)


def test_another_training_finds_the_keys_of_a_version_and_none_in_the_file_of_an_older_release():
    written = json.dumps(make_metrics(training_key="c" * 64).to_dict()).encode()
    assert read_keys(written) == VersionKeys(teacher="a" * 64, training="c" * 64)
    (older,) = FIXTURE.rglob("metrics.json")
    assert read_keys(older.read_bytes()) == VersionKeys(teacher=None, training=None)
