"""Tracking of runs by MLflow, if configured: settings, curves, metrics and the report."""

import json
import time
from importlib.util import find_spec
from typing import Any

from app.errors import SettingsError
from app.store.paths import make_local_file
from model.bundle import METRICS, REPORT
from training.release.publish import Published, PublishRequest
from training.settings import TrainSettings

# The longest value, and the most metrics at once, that MLflow takes.
MAX_CHARACTERS, MAX_BATCH = 500, 1000
EXTRA = "tracking=mlflow takes MLflow: pip install 'goodpart[mlflow]'"


def check_tracking(settings: TrainSettings) -> None:
    """Raise SettingsError where MLflow is configured and not installed; checked before training starts."""
    needed = ["mlflow", *([] if settings.mlflow_uri else ["sqlalchemy", "alembic"])]
    if settings.tracking == "mlflow" and not all(map(find_spec, needed)):
        raise SettingsError(EXTRA)


def track(published: Published, request: PublishRequest, settings: TrainSettings) -> None:
    """Log one run to the product's experiment."""
    if settings.tracking == "none":
        return
    client, experiment = open_experiment(request, settings)
    run = client.create_run(experiment, run_name=published.version).info.run_id
    for name, value in settings.to_report().items():
        client.log_param(run, name, json.dumps(value)[:MAX_CHARACTERS])
    for name, value in published.metrics.to_dict().items():
        if isinstance(value, float):
            client.log_metric(run, name, value)
    for name, points in published.metrics.training.curves.items():
        metrics = [make_metric(name.replace(": ", "/"), loss, step) for step, loss in points]
        for first in range(0, len(metrics), MAX_BATCH):
            client.log_batch(run, metrics=metrics[first : first + MAX_BATCH])
    for name in (METRICS, REPORT):
        place = request.store.version_folder(request.product, published.version) / name
        client.log_artifact(run, str(make_local_file(place, name)))
    client.set_tag(run, "activated", str(published.is_active))
    client.set_terminated(run)


def make_metric(name: str, value: float, step: int) -> Any:  # noqa: ANN401  # MLflow's own, which may not be there
    """Return one point of a curve."""
    from mlflow.entities import Metric  # noqa: PLC0415  # an extra

    return Metric(name, value, timestamp=round(time.time() * 1000), step=step)


def open_experiment(request: PublishRequest, settings: TrainSettings) -> tuple[Any, str]:
    """Return MLflow's client and the product's experiment; both in the store where no address is set."""
    from mlflow import MlflowClient  # noqa: PLC0415  # an extra

    uri, artifacts = settings.mlflow_uri, None
    if uri is None:
        local = (request.store.local_folder / "mlflow").absolute()
        local.mkdir(exist_ok=True)
        uri, artifacts = f"sqlite:///{local / 'runs.db'}", f"file:{local / 'artifacts'}"
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(request.product)
    return client, found.experiment_id if found else client.create_experiment(request.product, artifacts)
