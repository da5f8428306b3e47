"""The subcommand ``score-archive``."""

import time
from pathlib import Path

import click

from app.batch.shards import DEFAULT_SHARD_SIZE, ShardCounter, iter_shards
from app.cli.store import STORE
from app.settings import Settings, read_settings

# ruff: noqa: PLC0415  # what is heavy, or an extra, is imported when the command is called


def make_absolute(settings: Settings) -> Settings:
    """Return the settings with absolute paths: workers of a cluster start in other folders."""
    named = {name: getattr(settings, name) for name in ("store", "state", "local")}
    return settings.model_copy(update={name: path.absolute() for name, path in named.items() if isinstance(path, Path)})


@click.command("score-archive")
@click.argument("source", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("target", type=click.Path(path_type=Path, file_okay=False))
@STORE
@click.option("--product", required=True, help="Name of the product.")
@click.option("--version", "name", help="Version to use; default: the active one.")
@click.option(
    "--shard-size",
    type=click.IntRange(1, 100_000),
    default=DEFAULT_SHARD_SIZE,
    show_default=True,
    help="Images per file.",
)
@click.option("--ray", "address", help="Inspect on a Ray cluster: its address, 'auto', or 'local' for this machine.")
@click.option("--num-gpus", type=click.FloatRange(min=0), default=0.0, help="GPUs per Ray worker; may be a fraction.")
def score_archive_command(  # noqa: PLR0913  # click hands over one argument an option
    *,
    source: Path,
    target: Path,
    store: str | None,
    product: str,
    name: str | None,
    shard_size: int,
    address: str | None,
    num_gpus: float,
) -> None:
    """Inspect every image under SOURCE and write Parquet files to TARGET; a stopped run is resumed."""
    from app.batch.archive import Archive, ArchiveSpec, score_locally
    from app.batch.ray import score_on_ray
    from app.batch.scoring import Scorer

    settings = make_absolute(read_settings(store=store))
    source, target = source.absolute(), target.absolute()
    scorer = Scorer.from_settings(settings, product, name)
    version = scorer.version
    judge = ArchiveSpec(
        source=str(source),
        product=product,
        version=version.name,
        threshold=version.threshold,
        guard=settings.input_guard,
        max_pixels=settings.max_pixels,
        shard_size=shard_size,
    )
    archive, count = Archive.open(target, judge), ShardCounter()
    missing = archive.iter_missing(count.count(iter_shards(source, size=shard_size)))
    if address is None:
        done = score_locally(archive, source, missing, scorer)
    else:
        done = score_on_ray(archive, source, missing, settings, address=address, num_gpus=num_gpus)
    began, num_images = time.monotonic(), 0
    with archive.lock():
        for more in done:
            num_images += more
            rate = num_images / (time.monotonic() - began)
            click.echo(f"{num_images:,} images judged, {rate:.1f} a second", err=True)
        archive.finish(count.number)
    click.echo(", ".join(f"{number:,} {what}" for what, number in archive.count_verdicts().items()))
