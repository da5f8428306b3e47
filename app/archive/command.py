"""The subcommand ``score-archive``."""

import time
from pathlib import Path

import click

from app.operating import STORE
from app.settings import read_settings

# ruff: noqa: PLC0415  # what is heavy, or an extra, is imported when the command is called


@click.command("score-archive")
@click.argument("source", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("target", type=click.Path(path_type=Path, file_okay=False))
@STORE
@click.option("--product", required=True, help="Name of the product.")
@click.option("--version", "name", help="A version other than the one that serves.")
@click.option("--shard-size", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Images a file.")
@click.option("--ray", "address", help="Judge on a Ray cluster: its address, 'auto', or 'local' for this machine.")
@click.option("--num-gpus", type=click.FloatRange(min=0), default=0.0, help="GPUs of a Ray worker; may be a fraction.")
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
    """Judge every image under SOURCE, however many, into Parquet files in TARGET; what was stopped goes on."""
    from app.archive.archive import Archive, Judge, score_here
    from app.archive.on_ray import score_on_ray
    from app.archive.scoring import Scorer
    from app.archive.shards import shards

    settings = read_settings(store=store)
    scorer = Scorer.of(settings, product, name)
    version = scorer.version
    judge = Judge(product, version.name, version.threshold, settings.input_guard, shard_size)
    archive = Archive.opened(target, judge)
    missing = archive.missing(shards(source, size=shard_size))
    if address is None:
        done = score_here(archive, source, missing, scorer)
    else:
        done = score_on_ray(archive, source, missing, settings, address=address, num_gpus=num_gpus)
    began = time.monotonic()
    num_images = 0
    for more in done:
        num_images += more
        rate = num_images / (time.monotonic() - began)
        click.echo(f"{num_images:,} images judged, {rate:.1f} a second", err=True)
    click.echo(", ".join(f"{number:,} {what}" for what, number in archive.counted().items()))
