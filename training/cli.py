"""The trainer's subcommands of ``goodpart``.

Heavy imports happen when a command is called, and after its settings are read: a wrong one takes a quarter of a second
to say, and loading torch takes several.
"""

# ruff: noqa: PLC0415  # as above
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.store.paths import DEFAULT_COPIES_GIB, DEFAULT_LOCAL

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.table import Table

    from app.bootstrap import OpenStore
    from training.progress import ProgressReporter
    from training.release.publish import Published, PublishRequest
    from training.settings import TrainSettings

CONFIG = click.option("--config", type=click.Path(path_type=Path), help="Settings as a YAML file.")
ASSIGNMENTS = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="One setting; nested ones with a dot: learning.num_steps=500.",
)


STORE = click.option(
    "--store",
    required=True,
    envvar="GOODPART_STORE",
    help="Store to publish to: a folder, or s3://bucket/prefix.",
)
STATE = click.option(
    "--state",
    envvar="GOODPART_STATE",
    help="State (which version serves): a folder, or s3://bucket/prefix; default: state in the store.",
)
LOCAL = click.option(
    "--local",
    type=click.Path(path_type=Path),
    default=DEFAULT_LOCAL,
    show_default=True,
    envvar="GOODPART_LOCAL",
    help="Local working folder, used if the store is on object storage.",
)
COPIES_GIB = click.option(
    "--most-copied-gib",
    type=click.FloatRange(min=0, min_open=True),
    default=DEFAULT_COPIES_GIB,
    show_default=True,
    envvar="GOODPART_MOST_COPIED_GIB",
    help="Maximum size of local copies of object storage, in GiB.",
)
PRODUCT = click.option("--product", required=True, help="Name of the product.")
FORCE = click.option(
    "--force", metavar="REASON", help="Activate even if the gate fails; the reason is recorded in the audit log."
)
SIGN_KEY = click.option(
    "--sign-key", type=click.Path(path_type=Path), help="Sign the version with this key of `keygen`'s."
)
# Exit code: published, but the gate failed; or images to review.
NEEDS_REVIEW = 3
# How wide tables are where there is no terminal.
COLUMNS = 200


class TorchCommand(click.Command):
    """A command that computes with torch.

    OpenMP threads that spin while they wait take the processor from those they wait for as soon as anything else runs:
    beside two busy processes on two processors a training step took 5.1 s, and 0.47 s with threads that sleep
    (`bench/contention.py`). OpenMP reads the variable when torch is loaded.
    """

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # noqa: TID251  # a variable of OpenMP, not a setting
        return super().invoke(ctx)


@click.command("train", cls=TorchCommand)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of good images, or MVTec layout.",
)
@PRODUCT
@STORE
@STATE
@LOCAL
@COPIES_GIB
@click.option(
    "--quick", is_flag=True, default=None, help="Fill the recall memory and calibrate only; no gradient steps."
)
@click.option("--activate/--no-activate", "activates", default=True, help="Activate the version after publishing it.")
@FORCE
@click.option("--resume", is_flag=True, help="Resume a stopped or killed run of this training.")
@click.option("--skip-bad", is_flag=True, help="Skip images that can't be read or have another size.")
@SIGN_KEY
@CONFIG
@ASSIGNMENTS
def train_command(  # noqa: PLR0913  # click hands over one argument an option
    *,
    data: Path,
    product: str,
    store: str,
    state: str | None,
    local: Path,
    most_copied_gib: float,
    quick: bool | None,
    activates: bool,
    force: str | None,
    resume: bool,
    skip_bad: bool,
    sign_key: Path | None,
    config: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Train a product on images of good parts, and publish a version.

    Exit code 3: the version was published, but the gate failed and it was not activated.
    """
    settings = read_settings(config, assignments, quick=quick)
    from app.bootstrap import open_store_at
    from training.job import RunOptions, TrainingJob

    stored = open_store_at(store, state, local=local, most_copied_gib=most_copied_gib)
    request = make_request(product, stored, activates=activates, force=force, sign_key=sign_key)
    with open_reporter() as reporter:
        print_published(
            TrainingJob(data, request, settings, reporter, options=RunOptions(resume, skip_bad)).run(),
            request,
            reporter,
        )


@click.command("adapt", cls=TorchCommand)
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Folder of new good parts.")
@PRODUCT
@STORE
@STATE
@LOCAL
@COPIES_GIB
@click.option("--activate/--no-activate", "activates", default=True, help="Activate the version after publishing it.")
@FORCE
@SIGN_KEY
def adapt_command(  # noqa: PLR0913  # click hands over one argument an option
    *,
    images: Path,
    product: str,
    store: str,
    state: str | None,
    local: Path,
    most_copied_gib: float,
    activates: bool,
    force: str | None,
    sign_key: Path | None,
) -> None:
    """Teach the version in service a few new good parts, of a new lot or under a new lamp; takes less than a minute.

    Exit code 3: the version was published, but the gate failed and it was not activated. `rollback` undoes it.
    """
    from app.bootstrap import open_store_at
    from training.adapt import prepare_adaptation

    stored = open_store_at(store, state, local=local, most_copied_gib=most_copied_gib)
    request = make_request(product, stored, activates=activates, force=force, sign_key=sign_key, why="adapted")
    with open_reporter() as reporter:
        print_published(prepare_adaptation(images, request, reporter).run(), request, reporter)


def read_settings(config: Path | None, assignments: tuple[str, ...], *, quick: bool | None = None) -> "TrainSettings":
    """Return the settings of file, variables and flags. Raises SettingsError."""
    from app.variables import read_train_variables
    from training.settings import read_train_settings

    return read_train_settings(config, assignments, quick=quick, variables=read_train_variables())


def make_request(  # one argument an option
    product: str,
    stored: "OpenStore",
    *,
    activates: bool,
    force: str | None,
    sign_key: Path | None,
    why: str = "trained",
) -> "PublishRequest":
    """Return what to train and where to publish. Raises SettingsError."""
    from app.store.signing import read_private_key
    from training.release.publish import PublishRequest

    if force is not None and not force.strip():
        raise click.BadParameter("say why", param_hint="--force")
    return PublishRequest(
        product=product,
        store=stored.store,
        state=stored.state,
        activates=activates,
        sign_key=read_private_key(sign_key) if sign_key else None,
        force=force,
        why=why,
    )


@contextmanager
def open_reporter() -> Iterator["ProgressReporter"]:
    """Yield a progress reporter; SIGTERM and Ctrl-C end the run between two steps."""
    from rich.console import Console

    from training.job import translate_memory_errors
    from training.progress import Interruption, ProgressReporter

    interruption = Interruption()
    with interruption.handle_signals(), translate_memory_errors():
        yield ProgressReporter(Console(stderr=True), interruption)


def print_published(published: "Published", request: "PublishRequest", reporter: "ProgressReporter") -> None:
    """Print figures and the version's name; exit with 3 where it was to serve and does not."""
    from training.report.report import describe_metrics

    for line in describe_metrics(published.metrics):
        reporter.print_line(line)
    for reason in published.gate_result.reasons:
        reporter.print_line(f"gate: {reason}")
    reporter.print_line("It serves from now on." if published.is_active else "It is published, not activated.")
    click.echo(published.version)
    if request.activates and not published.is_active:
        sys.exit(NEEDS_REVIEW)


def print_tables(*tables: "Table") -> None:
    """Print tables; without a terminal, wide ones."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=COLUMNS)
    for table in tables:
        console.print(table)


@click.command("check-data", cls=TorchCommand)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--sheet", type=click.Path(path_type=Path), help="Write a contact sheet of the findings, as HTML.")
@click.option(
    "--no-outliers",
    "looks_for_outliers",
    flag_value=False,
    default=True,
    help="Skip the search for outliers; check headers and pixels only.",
)
@CONFIG
@ASSIGNMENTS
def check_data_command(
    *, data: Path, sheet: Path | None, looks_for_outliers: bool, config: Path | None, assignments: tuple[str, ...]
) -> None:
    """Check the images in DATA before training.

    Exit code 0: no findings; 1: images that would stop a training; 3: images to review.
    """
    settings = read_settings(config, assignments)
    from training.checks.checks import DataCheck
    from training.checks.contact_sheet import write_contact_sheet

    with open_reporter() as reporter:
        found = DataCheck(data, settings, reporter).run(looks_for_outliers=looks_for_outliers)
    print_tables(*found.make_tables())
    if sheet is not None:
        write_contact_sheet(sheet, found)
        click.echo(f"the contact sheet is {sheet}")
    sys.exit(found.exit_code)


@click.command("settings")
@click.argument("of", type=click.Choice(["train", "serve"]), default="train")
@click.option("--json", "as_json", is_flag=True, help="Print as a JSON schema.")
def settings_command(*, of: str, as_json: bool) -> None:
    """Print every setting with its default and description, of `train` or `serve`."""
    import json

    from app.settings import Settings
    from app.variables import PREFIX, TRAIN_PREFIX
    from training.settings import TrainSettings, list_settings

    kind: type[BaseModel] = TrainSettings if of == "train" else Settings
    if as_json:
        click.echo(json.dumps(kind.model_json_schema(), indent=1))
        return
    named = f"{TRAIN_PREFIX}<NAME>, two underscores for a dot" if of == "train" else f"{PREFIX}<NAME>"
    click.echo(f"as variables: {named}")
    for setting in list_settings(kind):
        click.echo(f"{setting.name} (default: {setting.default})\n    {setting.description}")


@click.command("model-info", cls=TorchCommand)
@CONFIG
@ASSIGNMENTS
def model_info_command(*, config: Path | None, assignments: tuple[str, ...]) -> None:
    """Print layers, shapes, parameters and multiply-adds of teacher, student and comparison."""
    settings = read_settings(config, assignments)
    from rich.console import Console

    from training.model_info import make_tables

    console = Console()
    for table in make_tables(settings):
        console.print(table)


@click.command("sample-data")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed of the parts.")
def sample_data_command(*, folder: Path, seed: int) -> None:
    """Generate a sample product (a machined flange, good and defective) in an empty FOLDER."""
    from rich.console import Console

    from training.demo.sample_data import NUM_IMAGES, write_sample_data
    from training.progress import ProgressReporter

    with ProgressReporter(Console(stderr=True)).step("drawing the sample product", total=NUM_IMAGES) as advance:
        write_sample_data(folder, seed=seed, on_image=advance)
    click.echo(folder)


@click.command("demo", cls=TorchCommand)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port to serve on.")
@click.option("--stop", "stops", is_flag=True, help="Stop the service of an earlier demonstration.")
def demo_command(*, folder: Path, port: int, stops: bool) -> None:
    """Generate a sample product, train it, serve it, and send two parts; all files are in FOLDER."""
    from training.demo import demo

    if stops:
        demo.stop(folder)
    else:
        demo.run_demo(folder, port=port)


@click.command("train-all", cls=TorchCommand)
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--ray", "address", help="Train on a Ray cluster: its address, 'auto', or 'local' for this machine.")
@click.option(
    "--json", "as_json", type=click.Path(path_type=Path), help="Also write the result of each product to this file."
)
def train_all_command(*, plan: Path, address: str | None, as_json: Path | None) -> None:
    """Train every product of PLAN, a YAML file; finished products are skipped.

    Exit code 1: a product failed; 3: the gate failed for a product.
    """
    from training.many.plan import read_plan

    read = read_plan(plan)
    import json
    from dataclasses import asdict

    from app.store.files import replace_file
    from training.many.ray import train_on_ray
    from training.many.train_all import Outcome, make_summary, train_locally

    outcomes: list[Outcome] = []
    try:
        with open_reporter() as reporter:
            outcomes.extend(
                train_locally(read, reporter) if address is None else train_on_ray(read, reporter, address=address)
            )
    finally:  # what was stopped has done something, too
        print_tables(make_summary(outcomes))
        if as_json is not None:
            replace_file(as_json, json.dumps([asdict(one) for one in outcomes], indent=1).encode() + b"\n")
    came = {one.what for one in outcomes}
    sys.exit(1 if "failed" in came else NEEDS_REVIEW if "held back" in came else 0)
