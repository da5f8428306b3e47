"""``goodpart train-all``: every product of a plan, here one after another, or on a Ray cluster with the same code.

What has been made from the same images and settings is not made again, and what was stopped or lost goes on from its
checkpoint: so a plan can be run again and again until all of it is there.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from rich.table import Table

from app.bootstrap import open_store_at
from app.store.errors import StoreError
from app.store.paths import read_immutable
from app.store.store import Store
from model.bundle import METRICS, BundleError, GoodpartError
from training.errors import AlreadyRunning, Stopped
from training.job import KEY, Job, Manner
from training.many.plan import Plan
from training.progress import Narrator
from training.release.publish import Order, Published

What = Literal["serves", "published", "held back", "made already", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What came of one product. ``why``: why it failed or was held back."""

    product: str
    what: What
    version: str | None = None
    supported: float | None = None
    image_auroc: float | None = None
    minutes: float = 0.0
    why: str = ""


def train_here(plan: Plan, narrator: Narrator) -> Iterator[Outcome]:
    """One product after another. Raises Stopped."""
    for product in plan.products:
        narrator.say(f"-- {product}")
        try:
            yield outcome(plan, product, narrator)
        except AlreadyRunning as error:
            yield Outcome(product, "failed", why=str(error))


def outcome(plan: Plan, product: str, narrator: Narrator) -> Outcome:
    """Train one product; whatever is wrong with it holds up no other. Raises Stopped, AlreadyRunning."""
    began = time.monotonic()
    try:
        found = trained(plan, product, narrator)
    except (Stopped, AlreadyRunning):
        raise
    except (GoodpartError, OSError, RuntimeError, ValueError) as error:
        found = Outcome(product, "failed", why=str(error))
    return replace(found, minutes=round((time.monotonic() - began) / 60, 2))


def trained(plan: Plan, product: str, narrator: Narrator) -> Outcome:
    """Train one product, unless that has been done. Raises GoodpartError, OSError."""
    entry, settings, stored = plan.products[product], plan.settings_of(product), open_store_at(plan.store, plan.state)
    order = Order(product, stored.store, stored.state, activates=plan.activates, why="trained by plan")
    job = Job(entry.data, order, settings, narrator, manner=Manner(resume=True, skip_bad=entry.skip_bad))
    before = made_before(job)
    return before if before is not None else told(product, job.run(), order)


def made_before(job: Job) -> Outcome | None:
    """The version that serves, or where none is to, the newest, if it was made from all the same; else None."""
    key = job.checked.key
    product, store = job.order.product, job.order.store
    current = job.order.state.read_current(product)
    serving = current.version if current else None
    for version in reversed(store.list_versions(product) if product in store.list_products() else ()):
        if version != serving and job.order.activates:
            continue
        if made_from(store, product, version) == key:
            return Outcome(product, "made already", version, store.load_manifest(product, version).promise.supported)
    return None


def made_from(store: Store, product: str, version: str) -> object:
    """All that a version was made from, as one digest; None where that can't be told."""
    try:
        return json.loads(read_immutable(store.version_folder(product, version) / METRICS, METRICS)).get(KEY)
    except (StoreError, BundleError, ValueError):
        return None


def told(product: str, done: Published, order: Order) -> Outcome:
    """What was published, in a row."""
    what: What = "serves" if done.is_active else "held back" if order.activates else "published"
    auroc, promise = done.metrics.get("image_auroc"), order.store.load_manifest(product, done.version).promise
    return Outcome(product, what, done.version, promise.supported, auroc, why="; ".join(done.ruling.reasons))


def summary(outcomes: list[Outcome]) -> Table:
    """A row a product."""
    table = Table("product", "what", "version", "promise", "image AUROC", "minutes", "why")
    for one in outcomes:
        promise = "" if one.supported is None else f"{one.supported:.2%}"
        auroc = "" if one.image_auroc is None else f"{one.image_auroc:.4f}"
        table.add_row(one.product, one.what, one.version or "", promise, auroc, f"{one.minutes:.1f}", one.why)
    return table
