"""Runs told to MLflow, where a setting asks for it: settings, curves, figures and the report."""

import json
from importlib.util import find_spec
from typing import Any

from model.bundle import METRICS, REPORT
from training.errors import BadSettings
from training.publish import Order, Published
from training.settings import TrainSettings

# The longest value that MLflow takes.
MOST_CHARACTERS = 500
EXTRA = "tracking=mlflow takes MLflow: pip install 'goodpart[mlflow]'"


def check_tracking(settings: TrainSettings) -> None:
    """Raise BadSettings where MLflow is asked for and not there; found out before an hour is spent on training."""
    if settings.tracking == "mlflow" and find_spec("mlflow") is None:
        raise BadSettings(EXTRA)


def tracked(done: Published, order: Order, settings: TrainSettings) -> None:
    """One run of the experiment that has the product's name."""
    if settings.tracking == "none":
        return
    client, experiment = experiment_of(order, settings)
    run = client.create_run(experiment, run_name=done.version).info.run_id
    for name, value in settings.model_dump(mode="json").items():
        client.log_param(run, name, json.dumps(value)[:MOST_CHARACTERS])
    for name, value in done.metrics.items():
        if isinstance(value, float):
            client.log_metric(run, name, value)
    for name, points in done.metrics["curves"].items():
        for step, loss in points:
            client.log_metric(run, name.replace(": ", "/"), loss, step=step)
    for name in (METRICS, REPORT):
        client.log_artifact(run, str(order.store.version_folder(order.product, done.version) / name))
    client.set_tag(run, "activated", str(done.is_active))
    client.set_terminated(run)


def experiment_of(order: Order, settings: TrainSettings) -> tuple[Any, str]:
    """MLflow's client, and the product's experiment; both in the store where no address is set."""
    from mlflow import MlflowClient  # noqa: PLC0415  # an extra

    uri, artifacts = settings.mlflow_uri, None
    if uri is None:
        local = (order.store.root / "mlflow").absolute()
        local.mkdir(exist_ok=True)
        uri, artifacts = f"sqlite:///{local / 'runs.db'}", f"file:{local / 'artifacts'}"
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(order.product)
    return client, found.experiment_id if found else client.create_experiment(order.product, artifacts)
