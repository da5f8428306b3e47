"""The subcommands that work on a store without training: labels, and removal."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import click

from app.bootstrap import open_store
from app.errors import ImageError
from app.inspection.feedback import label_image
from app.settings import read_settings
from app.store.labels import LABELS, Label, LabelDecision
from app.store.prune import Pruner

STORE = click.option("--store", help="Folder, or s3://bucket/prefix, of products and versions.")


def open_pruner(store: str | None) -> Pruner:
    """Open store and state by the settings, overridden by the option."""
    stored = open_store(read_settings(store=store))
    return Pruner(stored.store, stored.state, datetime.now(UTC))


@click.command("feedback")
@STORE
@click.option("--product", required=True, help="Name of the product.")
@click.option("--part", type=click.Path(path_type=Path), required=True, help="Image of the part.")
@click.option("--label", type=click.Choice(LABELS), required=True, help="Label of the part.")
@click.option("--part-id", default="", help="Id of the part.")
@click.option("--by", default="command line", show_default=True, help="Author of the label.")
@click.option("--why", default="", help="Reason for the label.")
def feedback_command(  # noqa: PLR0913  # click hands over one argument an option
    *, store: str | None, product: str, part: Path, label: Label, part_id: str, by: str, why: str
) -> None:
    """Label a part: the next training learns from ok, its version must detect ng."""
    settings = read_settings(store=store)
    decision = LabelDecision(at=datetime.now(UTC), by=by, why=why, label=label, part_id=part_id)
    stored = open_store(settings)
    try:
        labelled = label_image(
            stored.store,
            stored.state,
            product,
            part.read_bytes(),
            decision=decision,
            max_pixels=settings.max_pixels,
        )
    except (ImageError, OSError) as error:
        raise click.ClickException(f"{part}: {error}") from error
    click.echo(f"{labelled.sha256} is {labelled.label} (said {len(labelled.history)} times)")


@click.group("store")
def store_commands() -> None:
    """Remove unneeded data from a store; services may read it meanwhile."""


@store_commands.command("prune")
@STORE
@click.option("--keep", type=click.IntRange(min=1), required=True, help="Newest versions to keep of each product.")
def prune_command(*, store: str | None, keep: int) -> None:
    """Remove old versions, unused teachers and leftovers.

    Active versions, their predecessors and shadow candidates are kept.
    """
    print_removed(open_pruner(store).prune(keep=keep))


@store_commands.command("remove")
@STORE
@click.argument("product")
@click.option("--yes", "even_if_active", is_flag=True, help="Remove the product even if a version is active.")
def remove_command(*, store: str | None, product: str, even_if_active: bool) -> None:
    """Remove PRODUCT with all its versions, decisions and labelled images."""
    print_removed(open_pruner(store).remove(product, even_if_active=even_if_active))


@store_commands.command("expire")
@STORE
@click.argument("product")
@click.option("--days", type=click.FloatRange(0, 36_500), required=True, help="Age from which images are removed.")
def expire_command(*, store: str | None, product: str, days: float) -> None:
    """Remove PRODUCT's labelled images older than --days."""
    print_removed(open_pruner(store).expire(product, days=days))


def print_removed(removed: Iterable[object]) -> None:
    """Print the removed items, one a line, and their number."""
    num_removed = 0
    for one in removed:
        click.echo(one)
        num_removed += 1
    click.echo(f"{num_removed} removed", err=True)
