"""Runs told to MLflow, where a setting asks for it: settings, curves, figures and the report."""

import json
from importlib.util import find_spec

from model.bundle import METRICS, REPORT
from training.errors import BadSettings
from training.publish import Order, Published
from training.settings import TrainSettings

EXTRA = "tracking=mlflow takes MLflow: pip install 'goodpart[mlflow]'"


def check_tracking(settings: TrainSettings) -> None:
    """Raise BadSettings where MLflow is asked for and not there; found out before an hour is spent on training."""
    if settings.tracking == "mlflow" and find_spec("mlflow") is None:
        raise BadSettings(EXTRA)


def tracked(done: Published, order: Order, settings: TrainSettings) -> None:
    """One run of the experiment that has the product's name."""
    if settings.tracking == "none":
        return
    from mlflow import MlflowClient  # noqa: PLC0415  # an extra

    local = (order.store.root / "mlflow").absolute()
    if settings.mlflow_uri is None:
        local.mkdir(exist_ok=True)
    client = MlflowClient(settings.mlflow_uri or f"sqlite:///{local / 'runs.db'}")
    artifacts = None if settings.mlflow_uri else f"file:{local / 'artifacts'}"
    experiment = client.get_experiment_by_name(order.product)
    number = experiment.experiment_id if experiment else client.create_experiment(order.product, artifacts)
    run = client.create_run(number, run_name=done.version)
    folder = order.store.version_folder(order.product, done.version)
    for name, value in settings.model_dump(mode="json").items():
        client.log_param(run.info.run_id, name, json.dumps(value)[:500])
    for name, value in done.metrics.items():
        if isinstance(value, float):
            client.log_metric(run.info.run_id, name, value)
    for name, points in done.metrics["curves"].items():
        for step, loss in points:
            client.log_metric(run.info.run_id, name.replace(": ", "/"), loss, step=step)
    for name in (METRICS, REPORT):
        client.log_artifact(run.info.run_id, str(folder / name))
    client.set_tag(run.info.run_id, "activated", str(done.is_active))
    client.set_terminated(run.info.run_id)
