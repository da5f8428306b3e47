import json

import pytest
from metrics import make_metrics

from app.errors import SettingsError
from app.store.state import State
from training.evaluation.evaluate import EvaluationMetrics
from training.release.publish import Published, PublishRequest
from training.settings import read_train_settings
from training.tracking import check_tracking, track

METRICS = make_metrics(
    evaluation=EvaluationMetrics(num_test_good=2, num_test_defective=2, image_auroc=0.97),
    num_train=72,
    curves={"learning: loss": [(1, 0.5), (2, 0.4)]},
)


def test_a_run_is_logged_to_mlflow_with_settings_curves_metrics_and_report(store, republished):
    mlflow = pytest.importorskip("mlflow")
    version = republished(files={"metrics.json": b"{}", "report.html": b"<html>"})
    order = PublishRequest("disc", store, State(store.root / "state"))
    settings = read_train_settings(None, ["tracking=mlflow", "seed=3"])
    track(Published(version, is_active=True, gate_result=METRICS.gate, metrics=METRICS), order, settings)
    client = mlflow.MlflowClient(f"sqlite:///{store.root.absolute() / 'mlflow/runs.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("disc").experiment_id])
    assert json.loads(run.data.params["seed"]) == 3
    assert run.data.metrics["image_auroc"] == 0.97
    assert [point.value for point in client.get_metric_history(run.info.run_id, "learning/loss")] == [0.5, 0.4]
    assert (run.data.tags["activated"], run.info.status) == ("True", "FINISHED")
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"metrics.json", "report.html"}


def test_nothing_is_logged_without_tracking(store):
    track(None, PublishRequest("disc", store, State(store.root / "state")), read_train_settings(None))
    assert not (store.root / "mlflow").exists()


def test_missing_mlflow_is_reported_at_once(monkeypatch):
    monkeypatch.setattr("training.tracking.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install 'goodpart\[mlflow\]'"):
        check_tracking(read_train_settings(None, ["tracking=mlflow"]))
