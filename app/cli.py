"""The command ``goodpart``. The trainer's subcommands join by an entry-point group and are imported when called."""

import json
import math
import socket
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any, cast

import click
import uvicorn

from app.api.answers import InspectionAnswer
from app.doctor import examine, lines
from app.draining import DrainingServer
from app.engine.errors import ImageError
from app.engine.inspector import Inspection, Wish, judge
from app.engine.sessions import chosen_device
from app.engine.version import Loader, Version
from app.main import create_app
from app.settings import Settings, read_settings
from app.store.errors import NothingActive
from app.store.state import State
from app.store.store import Store
from model.bundle import GoodpartError

COMMANDS = "goodpart.commands"
SUFFIX = ".heatmap.png"
BACKLOG = 2048


class AddressUnusable(GoodpartError):
    """An address that can't be listened on."""

    def __init__(self, host: str, port: int, why: str) -> None:
        super().__init__(f"can't listen on {host}:{port}: {why}; choose another with --port")


class HeatmapsCollide(GoodpartError):
    """Two images whose heat-maps would have one name."""

    def __init__(self, first: Path, second: Path) -> None:
        super().__init__(f"{first} and {second} would write one heat-map: inspect them into two folders")


class Commands(click.Group):
    """Our own commands, and those of installed entry points."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name."""
        return sorted({*super().list_commands(ctx), *entry_points(group=COMMANDS).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by name, imported now if it is not our own."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in entry_points(group=COMMANDS).names:
            return own
        return cast("click.Command", entry_points(group=COMMANDS)[cmd_name].load())


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("goodpart"), prog_name="goodpart")
def commands() -> None:
    """Learn what a good part looks like, and judge every part by it."""


@commands.command()
@click.option("--store", type=click.Path(path_type=Path), help="Folder of products and versions.")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="TCP port to listen on.")
@click.option("--provider", help="auto, cuda, tensorrt or cpu.")
def serve(*, store: Path | None, host: str | None, port: int | None, provider: str | None) -> None:
    """Judge images over HTTP; every other setting is a GOODPART_* variable."""
    settings = read_settings(**given(store=store, host=host, port=port, provider=provider))
    app = create_app(settings)
    listener = listening(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.grace_s),
    )
    DrainingServer(config, leaving=app.state.leaving, wait_s=settings.drain_s).run(sockets=[listener])


def listening(settings: Settings) -> socket.socket:
    """A socket at the address, before anything else is told of it; raises AddressUnusable."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Told its protocol, asyncio turns off Nagle's algorithm, which else holds every answer back for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)  # from here on requests wait instead of being refused
    except OSError as error:
        listener.close()
        raise AddressUnusable(settings.host, settings.port, error.strerror or str(error)) from error
    click.echo(f"listening on http://{settings.host}:{listener.getsockname()[1]}", err=True)
    return listener


@commands.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--store", type=click.Path(path_type=Path), help="Folder of products and versions.")
@click.option("--product", required=True, help="Name of the product.")
@click.option("--version", "name", help="A version other than the one that serves.")
@click.option("--json", "as_json", is_flag=True, help="One JSON answer a line instead of a table.")
@click.option("--heatmap-dir", type=click.Path(path_type=Path), help="Where heat-maps are written.")
def inspect(  # click hands over one argument an option
    *,
    images: tuple[Path, ...],
    store: Path | None,
    product: str,
    name: str | None,
    as_json: bool,
    heatmap_dir: Path | None,
) -> None:
    """Judge image files without a server, as the server would."""
    settings = read_settings(**given(store=store))
    if heatmap_dir is not None:
        refuse_twins(images)
    loaded = loaded_version(settings, product, name)
    wish = Wish(heatmap="overlay" if heatmap_dir else "none")
    show = show_json if as_json else Table(images).show
    num_failed = 0
    for path in images:
        try:
            inspection = judge(read(path), loaded, max_pixels=settings.max_pixels, wish=wish)
        except (ImageError, click.ClickException) as error:
            click.echo(f"goodpart: error: {path}: {error}", err=True)
            num_failed += 1
            continue
        show(path, inspection)
        write_heatmap(heatmap_dir, path, inspection)
    sys.exit(1 if num_failed else 0)


@commands.command()
@click.option("--store", type=click.Path(path_type=Path), help="Folder of products and versions.")
@click.option("--host", help="Address the service would listen on.")
@click.option("--port", type=int, help="Port the service would listen on.")
def doctor(*, store: Path | None, host: str | None, port: int | None) -> None:
    """Say what this installation is made of, what is wrong with it, and how to mend that."""
    findings = examine(read_settings(**given(store=store, host=host, port=port)))
    for line in lines(findings):
        click.echo(line)
    sys.exit(1 if any(finding.trouble for finding in findings) else 0)


def given(**options: object) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def loaded_version(settings: Settings, product: str, name: str | None) -> Version:
    """A version ready to judge; by default the one that serves. Raises GoodpartError."""
    store = Store(settings.store)
    versions = store.versions(product)
    current = State(settings.state_folder).current(product)
    if name is None:
        if current is None or not versions:
            raise NothingActive(product)
        name = current.version
    device = chosen_device(settings.provider, num_threads=settings.threads)
    return Loader(device).load(store.bundle(product, name))


def refuse_twins(paths: Iterable[Path]) -> None:
    """Raise HeatmapsCollide where two images have one name: one heat-map would overwrite the other."""
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(path.name, path)
        if other != path:
            raise HeatmapsCollide(other, path)


def read(path: Path) -> bytes:
    """A file's bytes; raises a ClickException in one line."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.ClickException(error.strerror or str(error)) from error


def show_json(path: Path, inspection: Inspection) -> None:
    """The service's answer, with the file's name as the part id."""
    answer = InspectionAnswer.of(inspection, inspection_id="", request_id="", part_id=path.name)
    members = answer.model_dump(mode="json", exclude={"inspection_id", "request_id", "heatmap"})
    click.echo(json.dumps(members))


class Table:
    """A line an image, columns as wide as the longest path."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.width = max(len(str(path)) for path in paths)
        click.echo(f"{'image':<{self.width}}  verdict    score  threshold  p-value  regions")

    def show(self, path: Path, inspection: Inspection) -> None:
        """One inspection's line."""
        click.echo(
            f"{path!s:<{self.width}}  {inspection.verdict:<7}  {inspection.score:>7.2f}  "
            f"{inspection.threshold:>9.2f}  {inspection.p_value:>7.4f}  {len(inspection.regions):>7}"
        )


def write_heatmap(folder: Path | None, path: Path, inspection: Inspection) -> None:
    """The heat-map over the image as ``<name>.heatmap.png``; raises a ClickException in one line."""
    if folder is None or inspection.heatmap is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{path.name}{SUFFIX}").write_bytes(inspection.heatmap.data)
    except OSError as error:
        raise click.ClickException(f"{folder}: {error.strerror}") from error


def main() -> None:
    """Run a command; an error of ours is one line and exit code 1."""
    try:
        commands()
    except (GoodpartError, OSError) as error:
        click.echo(f"goodpart: error: {error}", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"app", "model", "training"}:
            raise
        click.echo(
            f"goodpart: error: this command needs the package {error.name}: pip install 'goodpart[train]'",
            err=True,
        )
        sys.exit(1)
