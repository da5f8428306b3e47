"""The plan on a Ray cluster: one task a product, restarted from its checkpoint where a node is lost."""

import time
from collections.abc import Iterator

from rich.console import Console

from app.batch.cluster import join_cluster, summarise_error
from training.errors import AlreadyRunning
from training.many.plan import TrainingPlan
from training.many.train_all import Outcome, train_product
from training.progress import ProgressReporter

# How long a training that was lost may still hold its place: its process ends with its node, not at once.
LOCK_TIMEOUT_S = 120.0
POLL_INTERVAL_S = 1.0


def train_on_ray(plan: TrainingPlan, reporter: ProgressReporter, *, address: str) -> Iterator[Outcome]:
    """Yield each product's outcome, from nodes that all see images and store. Raises Stopped."""
    import ray  # noqa: PLC0415  # an extra
    from ray.exceptions import RayError  # noqa: PLC0415

    join_cluster(address)
    task = ray.remote(max_retries=plan.retries)(train_when_free)
    running = {
        task.options(name=product, num_cpus=entry.num_cpus, num_gpus=entry.num_gpus).remote(plan, product): product
        for product, entry in plan.products.items()
    }
    while running:
        reporter.interruption.check()
        done, _ = ray.wait(list(running), timeout=POLL_INTERVAL_S)
        for one in done:
            product = running.pop(one)
            try:
                yield ray.get(one)
            except RayError as error:
                yield Outcome(product, "failed", why=summarise_error(error))


def train_when_free(plan: TrainingPlan, product: str) -> Outcome:
    """Train one product; wait for another worker that seems to train it still."""
    ends = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            return train_product(plan, product, ProgressReporter(Console(stderr=True)))
        except AlreadyRunning as error:
            if time.monotonic() > ends:
                return Outcome(product, "failed", why=str(error))
            time.sleep(1.0)
