"""The same on a Ray cluster: Ray Data hands out shards, and hands out again what was with a node that is lost."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from app.batch.archive import Archive
from app.batch.cluster import in_one_line, join
from app.batch.scoring import Scorer
from app.batch.shards import Shard
from app.settings import Settings
from model.bundle import GoodpartError

# Shards that are handed out together: their paths are in memory, on the driver and in Ray.
MOST_WAITING = 256
# How often a worker is begun again that is lost, and a shard that it had.
MOST_RESTARTS = 3


class NotOnRay(GoodpartError):
    """A cluster that did not judge the images; the last thing that it said."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"Ray ended the run: {in_one_line(error)}")


class Scoring:
    """A worker: it loads the version once, and judges shard after shard."""

    def __init__(self, archive: Archive, source: Path, settings: Settings) -> None:
        self.archive = archive
        self.source = source
        judge = archive.judge
        self.scorer = Scorer.of(settings, judge.product, judge.version)
        archive.check(self.scorer)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Judge the shards of a batch; how many images each has."""
        for number, paths, digest in zip(batch["number"], batch["paths"], batch["digest"], strict=True):
            shard = Shard(int(number), tuple(paths), str(digest))
            if not self.archive.has(shard):  # one that was judged by a worker that is lost since
                self.archive.put(shard, self.scorer.table(self.source, shard))
        return {"num_images": np.array([len(paths) for paths in batch["paths"]])}


def score_on_ray(
    archive: Archive, source: Path, missing: Iterable[Shard], settings: Settings, *, address: str, num_gpus: float
) -> Iterator[int]:
    """Judge shards on nodes that all see source, archive and store; how many images each had, as it is done.

    Raises NotOnRay.
    """
    import ray.data  # noqa: PLC0415  # an extra
    from ray.exceptions import RayError  # noqa: PLC0415

    join(address)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    while waiting := [asdict(shard) for shard in islice(missing, MOST_WAITING)]:
        done = ray.data.from_items(waiting, override_num_blocks=len(waiting)).map_batches(
            Scoring,
            fn_constructor_args=(archive, source, settings),
            batch_size=1,
            num_cpus=settings.threads,
            num_gpus=num_gpus or None,
            concurrency=(1, len(waiting)),
            ray_remote_args_fn=lambda: {"max_restarts": MOST_RESTARTS, "max_task_retries": MOST_RESTARTS},
        )
        try:
            yield from (int(row["num_images"]) for row in done.iter_rows())
        except (RayError, ValueError) as error:
            raise NotOnRay(error) from error
