"""``score-archive`` on a Ray cluster: Ray Data distributes shards, and repeats those of a lost node."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from app.batch.archive import Archive
from app.batch.cluster import join_cluster, summarise_error
from app.batch.scoring import Scorer
from app.batch.shards import Shard
from app.errors import CommandError
from app.settings import Settings

# Number of shards submitted at once: their paths are in memory, on the driver and in Ray.
MAX_PENDING_SHARDS = 256
# Maximum number of restarts of a lost worker, and of retries of its shard.
MAX_RESTARTS = 3


class ScoringWorker:
    """A worker: loads the version once, and scores shard after shard."""

    def __init__(self, archive: Archive, source: Path, settings: Settings) -> None:
        self.archive = archive
        self.source = source
        judge = archive.spec
        self.scorer = Scorer.from_settings(settings, judge.product, judge.version)
        archive.check(self.scorer)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score the shards of a batch; return the number of images of each."""
        for number, paths, digest in zip(batch["number"], batch["paths"], batch["digest"], strict=True):
            shard = Shard(int(number), tuple(paths), str(digest))
            if not self.archive.has(shard):  # one that was judged by a worker that is lost since
                self.archive.write_shard(shard, self.scorer.score_shard(self.source, shard))
        return {"num_images": np.array([len(paths) for paths in batch["paths"]])}


def score_on_ray(
    archive: Archive, source: Path, missing: Iterable[Shard], settings: Settings, *, address: str, num_gpus: float
) -> Iterator[int]:
    """Score shards on nodes that all see source, archive and store; yield the number of images of each.

    Raises CommandError.
    """
    import ray.data  # noqa: PLC0415  # an extra
    from ray.exceptions import RayError  # noqa: PLC0415

    join_cluster(address)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    while waiting := [asdict(shard) for shard in islice(missing, MAX_PENDING_SHARDS)]:
        done = ray.data.from_items(waiting, override_num_blocks=len(waiting)).map_batches(
            ScoringWorker,
            fn_constructor_args=(archive, source, settings),
            batch_size=1,
            num_cpus=settings.threads,
            num_gpus=num_gpus or None,
            concurrency=(1, len(waiting)),
            ray_remote_args_fn=lambda: {"max_restarts": MAX_RESTARTS, "max_task_retries": MAX_RESTARTS},
        )
        try:
            yield from (int(row["num_images"]) for row in done.iter_rows())
        except (RayError, ValueError) as error:
            raise CommandError(f"Ray ended the run: {summarise_error(error)}") from error
