"""Runs told to MLflow, where a setting asks for it: settings, curves, figures and the report."""

import json
import time
from importlib.util import find_spec
from typing import Any

from app.store.paths import ensure_local_file
from model.bundle import METRICS, REPORT
from training.errors import BadSettings
from training.release.publish import Order, Published
from training.settings import TrainSettings

# The longest value, and the most metrics at once, that MLflow takes.
MOST_CHARACTERS, MOST_AT_ONCE = 500, 1000
EXTRA = "tracking=mlflow takes MLflow: pip install 'goodpart[mlflow]'"


def check_tracking(settings: TrainSettings) -> None:
    """Raise BadSettings where MLflow is asked for and not there; found out before an hour is spent on training."""
    needed = ["mlflow", *([] if settings.mlflow_uri else ["sqlalchemy", "alembic"])]
    if settings.tracking == "mlflow" and not all(map(find_spec, needed)):
        raise BadSettings(EXTRA)


def tracked(done: Published, order: Order, settings: TrainSettings) -> None:
    """One run of the experiment that has the product's name."""
    if settings.tracking == "none":
        return
    client, experiment = experiment_of(order, settings)
    run = client.create_run(experiment, run_name=done.version).info.run_id
    for name, value in settings.shown().items():
        client.log_param(run, name, json.dumps(value)[:MOST_CHARACTERS])
    for name, value in done.metrics.items():
        if isinstance(value, float):
            client.log_metric(run, name, value)
    for name, points in done.metrics["curves"].items():
        told = [metric_of(name.replace(": ", "/"), loss, step) for step, loss in points]
        for first in range(0, len(told), MOST_AT_ONCE):
            client.log_batch(run, metrics=told[first : first + MOST_AT_ONCE])
    for name in (METRICS, REPORT):
        place = order.store.version_folder(order.product, done.version) / name
        client.log_artifact(run, str(ensure_local_file(place, name)))
    client.set_tag(run, "activated", str(done.is_active))
    client.set_terminated(run)


def metric_of(name: str, value: float, step: int) -> Any:  # noqa: ANN401  # MLflow's own, which may not be there
    """One point of a curve."""
    from mlflow.entities import Metric  # noqa: PLC0415  # an extra

    return Metric(name, value, timestamp=round(time.time() * 1000), step=step)


def experiment_of(order: Order, settings: TrainSettings) -> tuple[Any, str]:
    """MLflow's client, and the product's experiment; both in the store where no address is set."""
    from mlflow import MlflowClient  # noqa: PLC0415  # an extra

    uri, artifacts = settings.mlflow_uri, None
    if uri is None:
        local = (order.store.local_folder / "mlflow").absolute()
        local.mkdir(exist_ok=True)
        uri, artifacts = f"sqlite:///{local / 'runs.db'}", f"file:{local / 'artifacts'}"
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(order.product)
    return client, found.experiment_id if found else client.create_experiment(order.product, artifacts)
