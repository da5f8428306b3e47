"""The command ``goodpart``. Commands of training are entry points, imported when they are called."""

import json
import math
import socket
import ssl
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import uvicorn
from fastapi import FastAPI

from app.api.keys import generate_key
from app.api.schemas import to_file_result
from app.bootstrap import load_version
from app.cli import group, health
from app.cli.doctor import format_report, run_diagnostics
from app.cli.store import STORE, feedback_command, store_commands
from app.cli.watch import Watcher, WatchTimeouts
from app.errors import CommandError, ImageError, SettingsError
from app.inspection.pipeline import Inspection, InspectOptions, inspect
from app.main import create_app, create_registry
from app.server.logging import configure_logging
from app.server.protocol import ConnectionLimits, LimitedProtocol
from app.server.shutdown import DrainingServer
from app.settings import Settings, read_settings
from app.store.files import write_synced
from app.store.signing import generate_key_pair

SUFFIX = ".heatmap.png"
BACKLOG = 2048
# Maximum time that a Python thread may block the event loop; a tenth of Python's default.
SWITCH_INTERVAL_S = 0.0005


@click.group(
    cls=group.Commands,
    commands=[feedback_command, store_commands],
    context_settings=group.CONTEXT_SETTINGS,
)
@click.version_option(version("goodpart"), prog_name="goodpart")
def commands() -> None:
    """Train on good parts, and inspect parts for defects."""


@commands.command()
@STORE
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="TCP port to listen on.")
@click.option("--local", type=click.Path(path_type=Path), help="Folder of this instance only, for its records.")
@click.option("--provider", help="auto, cuda, tensorrt or cpu.")
@click.option(
    "--tls-cert",
    type=click.Path(path_type=Path),
    help="PEM file of the certificate chain; enables HTTPS together with --tls-key.",
)
@click.option("--tls-key", type=click.Path(path_type=Path), help="PEM file of the certificate's private key.")
def serve(**options: Any) -> None:  # noqa: ANN401  # click hands over one argument an option
    """Inspect images over HTTP; every other setting is a GOODPART_* variable."""
    settings = read_settings(**options)
    app = create_app(settings)
    config = build_server_config(settings, app)
    ports = [settings.port, *([settings.health_port] if settings.health_port else [])]
    listeners = [open_listener(settings, port) for port in ports]
    configure_logging(settings.log_format, level=settings.log_level.upper())
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    shutdown_state = app.state.services.shutdown_state
    DrainingServer(config, shutdown_state=shutdown_state, drain_s=settings.drain_s).run(sockets=listeners)


def build_server_config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    """Return uvicorn's configuration. Raises SettingsError."""
    limits = ConnectionLimits(settings.header_timeout_s, settings.max_connections)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=partial(LimitedProtocol, limits=limits),  # type: ignore[arg-type]  # called as the class would be
        ws="none",
        loop="uvloop",
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.grace_s),
        h11_max_incomplete_event_size=settings.max_header_bytes,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or str(error)
        raise SettingsError(f"can't serve TLS with {settings.tls_cert} and {settings.tls_key}: {why}") from error
    return config


def open_listener(settings: Settings, port: int) -> socket.socket:
    """Return a listening socket. Raises CommandError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With an explicit protocol asyncio disables Nagle's algorithm, which would delay every response by 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, port))
        listener.listen(BACKLOG)  # from here on requests wait instead of being refused
    except OSError as error:
        listener.close()
        why = error.strerror or str(error)
        raise CommandError(f"can't listen on {settings.host}:{port}: {why}; choose another with --port") from error
    scheme = "https" if settings.tls_cert else "http"
    click.echo(f"listening on {scheme}://{settings.host}:{listener.getsockname()[1]}", err=True)
    return listener


@commands.command("health")
@click.option(
    "--ready", "asks_ready", is_flag=True, help="Check readiness (parts can be inspected) instead of liveness."
)
def health_command(*, asks_ready: bool) -> None:
    """Check the health of the service on this machine, on the port of the settings."""
    sys.exit(health.main(["--ready"] if asks_ready else []))


@commands.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, default=("inspect",), help="inspect or operate; may be repeated.")
def key(*, name: str, scopes: tuple[str, ...]) -> None:
    """Create an API key: the key goes to standard error, its line for the key file to standard output."""
    presented, made = generate_key(name, scopes)
    click.echo(f"the key (shown only once): {presented}", err=True)
    click.echo(made.to_line())


@commands.command()
@click.argument("private", type=click.Path(path_type=Path))
def keygen(*, private: Path) -> None:
    """Create a key pair for signing versions: PRIVATE for the trainer, PRIVATE.pub for services."""
    secret, public = generate_key_pair()
    for path, pem, mode in ((private, secret, 0o600), (private.with_name(f"{private.name}.pub"), public, 0o644)):
        try:
            write_synced(path, pem, mode=mode)
        except OSError as error:
            raise click.ClickException(f"{path}: {error.strerror}") from error
    click.echo(f"{private} signs (goodpart train --sign-key), {private}.pub trusts (GOODPART_REQUIRE_SIGNATURE)")


@commands.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@STORE
@click.option("--product", required=True, help="Name of the product.")
@click.option("--version", "name", help="Version to use; default: the active one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line instead of a table.")
@click.option("--heatmap-dir", type=click.Path(path_type=Path), help="Folder to write heat-maps to.")
def inspect_command(  # click hands over one argument an option
    *,
    images: tuple[Path, ...],
    store: str | None,
    product: str,
    name: str | None,
    as_json: bool,
    heatmap_dir: Path | None,
) -> None:
    """Inspect image files without a server, with the results of the server."""
    settings = read_settings(store=store)
    if heatmap_dir is not None:
        refuse_duplicates(images)
    loaded = load_version(settings, product, name)
    options = InspectOptions(heatmap="overlay" if heatmap_dir else "none")
    show = print_json if as_json else ResultTable(images).print_row
    num_failed = 0
    for path in images:
        try:
            inspection = inspect(
                read_image_file(path),
                loaded,
                max_pixels=settings.max_pixels,
                options=options,
                guard=settings.input_guard,
            )
        except (ImageError, click.ClickException) as error:
            click.echo(f"goodpart: error: {path}: {error}", err=True)
            num_failed += 1
            continue
        show(path, inspection)
        write_heatmap(heatmap_dir, path, inspection)
    sys.exit(1 if num_failed else 0)


@commands.command("watch")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@STORE
@click.option("--product", required=True, help="Name of the product.")
@click.option(
    "--results", type=click.Path(path_type=Path), help="Folder to write results to; default: the folder of the images."
)
@click.option("--once", is_flag=True, help="Exit when all present images are inspected.")
@click.option(
    "--give-up-s",
    type=click.FloatRange(min=0),
    default=WatchTimeouts.give_up_s,
    show_default=True,
    help="Seconds of retries for an unreadable file or an unavailable product.",
)
def watch_command(  # click hands over one argument an option
    *, folder: Path, store: str | None, product: str, results: Path | None, once: bool, give_up_s: float
) -> None:
    """Watch FOLDER, inspect new images, and write results next to them: JSON files and results.csv."""
    settings = read_settings(store=store)
    watcher = Watcher(
        folder,
        results or folder,
        create_registry(settings),
        product,
        max_pixels=settings.max_pixels,
        guard=settings.input_guard,
        patience=WatchTimeouts(give_up_s=give_up_s),
        report=partial(click.echo, err=True),
    )
    click.echo(f"{watcher.run(once=once)} done", err=True)


@commands.command()
@STORE
@click.option("--host", help="Address the service would listen on.")
@click.option("--port", type=int, help="Port the service would listen on.")
def doctor(*, store: str | None, host: str | None, port: int | None) -> None:
    """Report the state of this installation, its errors, and how to fix them."""
    findings = run_diagnostics(read_settings(store=store, host=host, port=port))
    for line in format_report(findings):
        click.echo(line)
    sys.exit(1 if any(finding.error for finding in findings) else 0)


def refuse_duplicates(paths: Iterable[Path]) -> None:
    """Raise CommandError where two images have one name: one heat-map would overwrite the other."""
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(path.name, path)
        if other != path:
            raise CommandError(
                f"{other} and {path} would overwrite each other's heat-map: write them to different folders"
            )


def read_image_file(path: Path) -> bytes:
    """Return a file's bytes. Raises ClickException."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.ClickException(error.strerror or str(error)) from error


def print_json(path: Path, inspection: Inspection) -> None:
    """Print the service's response, with the file's name as the part id."""
    click.echo(json.dumps(to_file_result(inspection, path.name)))


class ResultTable:
    """Prints one line an image; columns are as wide as the longest path."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.width = max(len(str(path)) for path in paths)
        click.echo(f"{'image':<{self.width}}  verdict    score  threshold  p-value  regions")

    def print_row(self, path: Path, inspection: Inspection) -> None:
        """Print one inspection."""
        click.echo(
            f"{path!s:<{self.width}}  {inspection.verdict:<7}  {inspection.score:>7.2f}  "
            f"{inspection.threshold:>9.2f}  {inspection.p_value:>7.4f}  {len(inspection.regions):>7}"
        )


def write_heatmap(folder: Path | None, path: Path, inspection: Inspection) -> None:
    """Write the heat-map as ``<name>.heatmap.png``. Raises ClickException."""
    if folder is None or inspection.heatmap is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{path.name}{SUFFIX}").write_bytes(inspection.heatmap.data)
    except OSError as error:
        raise click.ClickException(f"{folder}: {error.strerror}") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, by default that of the process. Errors are printed as ``group.run`` does."""
    group.run(commands, arguments)
