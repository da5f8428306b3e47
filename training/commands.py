"""The trainer's subcommands of ``goodpart``. What is heavy is imported when a command is called."""

# ruff: noqa: PLC0415  # a call of `goodpart serve` or `--help` must not pay for torch
from pathlib import Path

import click

CONFIG = click.option("--config", type=click.Path(path_type=Path), help="Settings as a YAML file.")
ASSIGNMENTS = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="One setting; nested ones with a dot: learning.num_steps=500.",
)


@click.command("train")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of good images, or MVTec layout.",
)
@click.option("--product", required=True, help="Name of the product.")
@click.option("--store", type=click.Path(path_type=Path), required=True, help="Where to publish.")
@click.option("--quick", is_flag=True, default=None, help="Fill the memory and calibrate; no gradient step.")
@click.option("--activate/--no-activate", "activates", default=True, help="Whether the version serves at once.")
@click.option("--sign-key", type=click.Path(path_type=Path), help="Sign the version with this key of `keygen`'s.")
@CONFIG
@ASSIGNMENTS
def train_command(  # noqa: PLR0913  # click hands over one argument an option
    *,
    data: Path,
    product: str,
    store: Path,
    quick: bool | None,
    activates: bool,
    sign_key: Path | None,
    config: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Learn a product from images of good parts alone, and publish a version of it."""
    from rich.console import Console

    from app.store.signing import read_private_key
    from app.store.state import State
    from app.store.store import Store
    from training.job import Job, Order
    from training.progress import Narrator
    from training.report import figures_in_words
    from training.settings import read_train_settings

    narrator = Narrator(Console(stderr=True))
    settings = read_train_settings(config, assignments, quick=quick)
    order = Order(
        data=data,
        product=product,
        store=Store(store),
        state=State(store / "state"),
        activates=activates,
        sign_key=read_private_key(sign_key) if sign_key else None,
    )
    done = Job(order, settings, narrator).run()
    for line in figures_in_words(done.metrics):
        narrator.say(line)
    narrator.say("It serves from now on." if done.is_active else "It is published, not activated.")
    click.echo(done.version)


@click.command("model-info")
@CONFIG
@ASSIGNMENTS
def model_info_command(*, config: Path | None, assignments: tuple[str, ...]) -> None:
    """Print layers, shapes, parameters and multiply-adds of teacher, student and comparison."""
    from rich.console import Console

    from training.model_info import tables
    from training.settings import read_train_settings

    console = Console()
    for table in tables(read_train_settings(config, assignments)):
        console.print(table)


@click.command("sample-data")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, other parts.")
def sample_data_command(*, folder: Path, seed: int) -> None:
    """Draw a product to try things on: a machined flange, good and defective, into an empty FOLDER."""
    from rich.console import Console

    from training.progress import Narrator
    from training.sample_data import NUM_IMAGES, write_sample_data

    with Narrator(Console(stderr=True)).step("drawing the sample product", total=NUM_IMAGES) as advance:
        write_sample_data(folder, seed=seed, on_image=advance)
    click.echo(folder)


@click.command("demo")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Where to serve.")
@click.option("--stop", "stops", is_flag=True, help="End the service that a demonstration left running.")
def demo_command(*, folder: Path, port: int, stops: bool) -> None:
    """Draw a product, learn it, serve it, and post two parts; everything goes into FOLDER."""
    from training import demo

    if stops:
        demo.stop(folder)
    else:
        demo.demonstrate(folder, port=port)
