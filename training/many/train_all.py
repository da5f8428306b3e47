"""``goodpart train-all``: trains every product of a plan, locally one after another, or on a Ray cluster.

Products that were trained from the same images and settings are skipped, and interrupted ones continue from their
checkpoint, so that a plan can be repeated until it is complete.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from rich.table import Table

from app.bootstrap import open_store_at
from model.bundle import GoodpartError
from training.errors import AlreadyRunning, Stopped
from training.job import RunOptions, TrainingJob
from training.many.plan import TrainingPlan
from training.progress import ProgressReporter
from training.release.publish import Published, PublishRequest
from training.version_metrics import read_version_keys

What = Literal["serves", "published", "held back", "made already", "failed"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one product. ``why``: why it failed or was held back."""

    product: str
    what: What
    version: str | None = None
    supported: float | None = None
    image_auroc: float | None = None
    minutes: float = 0.0
    why: str = ""


def train_locally(plan: TrainingPlan, reporter: ProgressReporter) -> Iterator[Outcome]:
    """Train one product after another. Raises Stopped."""
    for product in plan.products:
        reporter.print_line(f"-- {product}")
        try:
            yield train_product(plan, product, reporter)
        except AlreadyRunning as error:
            yield Outcome(product, "failed", why=str(error))


def train_product(plan: TrainingPlan, product: str, reporter: ProgressReporter) -> Outcome:
    """Train one product; its errors do not affect the others. Raises Stopped, AlreadyRunning."""
    began = time.monotonic()
    try:
        found = train_unless_done(plan, product, reporter)
    except (Stopped, AlreadyRunning):
        raise
    except (GoodpartError, OSError, RuntimeError, ValueError) as error:
        found = Outcome(product, "failed", why=str(error))
    return replace(found, minutes=round((time.monotonic() - began) / 60, 2))


def train_unless_done(plan: TrainingPlan, product: str, reporter: ProgressReporter) -> Outcome:
    """Train one product, unless it has been trained. Raises GoodpartError, OSError."""
    entry, settings, stored = plan.products[product], plan.get_settings(product), open_store_at(plan.store, plan.state)
    request = PublishRequest(product, stored.store, stored.state, activates=plan.activates, why="trained by plan")
    job = TrainingJob(entry.data, request, settings, reporter, options=RunOptions(resume=True, skip_bad=entry.skip_bad))
    prepared = job.prepare()
    before = find_existing(request, prepared.key)
    return before if before is not None else to_outcome(product, job.train(prepared), request)


def find_existing(request: PublishRequest, key: str) -> Outcome | None:
    """Return the outcome of the serving version, or without activation of the newest, if its inputs are the same."""
    product, store = request.product, request.store
    current = request.state.read_current(product)
    serving = current.version if current else None
    for version in reversed(store.list_versions(product) if product in store.list_products() else ()):
        if version != serving and request.activates:
            continue
        if read_version_keys(store, product, version).training == key:
            return Outcome(product, "made already", version, store.load_manifest(product, version).promise.supported)
    return None


def to_outcome(product: str, published: Published, request: PublishRequest) -> Outcome:
    """Return the outcome of a published version."""
    what: What = "serves" if published.is_active else "held back" if request.activates else "published"
    evaluation = published.metrics.evaluation
    return Outcome(
        product,
        what,
        published.version,
        supported=request.store.load_manifest(product, published.version).promise.supported,
        image_auroc=evaluation.image_auroc if evaluation else None,
        why="; ".join(published.gate_result.reasons),
    )


def make_summary(outcomes: list[Outcome]) -> Table:
    """Return a table with a row a product."""
    table = Table("product", "what", "version", "promise", "image AUROC", "minutes", "why")
    for one in outcomes:
        promise = "" if one.supported is None else f"{one.supported:.2%}"
        auroc = "" if one.image_auroc is None else f"{one.image_auroc:.4f}"
        table.add_row(one.product, one.what, one.version or "", promise, auroc, f"{one.minutes:.1f}", one.why)
    return table
