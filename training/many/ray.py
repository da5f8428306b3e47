"""The plan on a Ray cluster: a task a product, begun again elsewhere where a node is lost, from its checkpoint."""

import time
from collections.abc import Iterator

from rich.console import Console

from app.batch.cluster import join_cluster, summarise_error
from training.errors import AlreadyRunning
from training.many.plan import Plan
from training.many.train_all import Outcome, outcome
from training.progress import Narrator

# How long a training that was lost may still hold its place: its process ends with its node, not at once.
PATIENCE_S = 120.0
LOOK_EVERY_S = 1.0


def train_on_ray(plan: Plan, narrator: Narrator, *, address: str) -> Iterator[Outcome]:
    """Each product as it is done, on nodes that all see images and store. Raises Stopped."""
    import ray  # noqa: PLC0415  # an extra
    from ray.exceptions import RayError  # noqa: PLC0415

    join_cluster(address)
    task = ray.remote(max_retries=plan.retries)(patient_outcome)
    running = {
        task.options(name=product, num_cpus=entry.num_cpus, num_gpus=entry.num_gpus).remote(plan, product): product
        for product, entry in plan.products.items()
    }
    while running:
        narrator.interruption.check()
        done, _ = ray.wait(list(running), timeout=LOOK_EVERY_S)
        for one in done:
            product = running.pop(one)
            try:
                yield ray.get(one)
            except RayError as error:
                yield Outcome(product, "failed", why=summarise_error(error))


def patient_outcome(plan: Plan, product: str) -> Outcome:
    """What came of one product; one that another worker seems to train still is waited for a while."""
    ends = time.monotonic() + PATIENCE_S
    while True:
        try:
            return outcome(plan, product, Narrator(Console(stderr=True)))
        except AlreadyRunning as error:
            if time.monotonic() > ends:
                return Outcome(product, "failed", why=str(error))
            time.sleep(1.0)
