"""``goodpart train-all``: every product of a plan, here one after another, or on a Ray cluster with the same code.

What has been made from the same images and settings is not made again, and what was stopped or lost goes on from its
checkpoint: so a plan can be run again and again until all of it is there.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from rich.console import Console
from rich.table import Table

from app.store.errors import StoreError
from app.stores import stored_at
from model.bundle import BundleError, GoodpartError
from training.errors import AlreadyRunning, Stopped
from training.job import Job, Manner
from training.plan import Plan
from training.progress import Narrator
from training.publish import Order, Published
from training.write import fingerprint

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
        yield outcome(plan, product, narrator)


def outcome(plan: Plan, product: str, narrator: Narrator) -> Outcome:
    """Train one product; whatever is wrong with it holds up no other. Raises Stopped, AlreadyRunning."""
    began = time.monotonic()
    try:
        found = trained(plan, product, narrator)
    except (Stopped, AlreadyRunning):
        raise
    except (GoodpartError, OSError) as error:
        found = Outcome(product, "failed", why=str(error))
    return replace(found, minutes=round((time.monotonic() - began) / 60, 2))


def trained(plan: Plan, product: str, narrator: Narrator) -> Outcome:
    """Train one product, unless that has been done. Raises GoodpartError, OSError."""
    entry, settings, stored = plan.products[product], plan.settings_of(product), stored_at(plan.store, plan.state)
    order = Order(product, stored.store, stored.state, activates=plan.activates, why="trained by plan")
    job = Job(entry.data, order, settings, narrator, manner=Manner(resume=True, skip_bad=entry.skip_bad))
    before = made_before(job)
    return before if before is not None else told(product, job.run(), order)


def made_before(job: Job) -> Outcome | None:
    """The newest version of the same images and settings, None where there is none."""
    digest = fingerprint((*job.dataset.good, *job.split.confirmed), job.settings)
    product, store = job.order.product, job.order.store
    for version in reversed(store.versions(product) if product in store.products() else ()):
        try:
            manifest = store.manifest(product, version)
        except (StoreError, BundleError):
            continue
        if manifest.fingerprint == digest:
            return Outcome(product, "made already", version, manifest.promise.supported)
    return None


def told(product: str, done: Published, order: Order) -> Outcome:
    """What was published, in a row."""
    what: What = "serves" if done.is_active else "held back" if order.activates else "published"
    auroc, promise = done.metrics.get("image_auroc"), order.store.manifest(product, done.version).promise
    return Outcome(product, what, done.version, promise.supported, auroc, why="; ".join(done.ruling.reasons))


def summary(outcomes: list[Outcome]) -> Table:
    """A row a product."""
    table = Table("product", "what", "version", "promise", "image AUROC", "minutes", "why")
    for one in outcomes:
        promise = "" if one.supported is None else f"{one.supported:.2%}"
        auroc = "" if one.image_auroc is None else f"{one.image_auroc:.4f}"
        table.add_row(one.product, one.what, one.version or "", promise, auroc, f"{one.minutes:.1f}", one.why)
    return table


def narrator_of_worker() -> Narrator:
    """Who tells of a training in a process that nobody watches."""
    return Narrator(Console(stderr=True))
