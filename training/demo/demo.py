"""The demonstration: creates a product, trains and serves it, and posts a good and a defective part.

Every step is a command, in a process of its own. Existing results are reused.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx2
from PIL import Image

from app.errors import CommandError
from app.imaging.decode import MAX_PIXELS, load_image

GOODPART = Path(sys.executable).with_name("goodpart")
PRODUCT = "flange"
# Enough for a look, a fraction of a real training; a hundred parts can promise one false alarm in twenty-one.
SETTINGS = ("learning.num_steps=250", "false_alarm_rate=0.05")
PARTS = {"good": "test/good/000.png", "defective": "test/scratch/000.png"}
START_TIMEOUT_S = 60
SHOWN_CHARACTERS = 32


@dataclass(frozen=True)
class DemoService:
    """A service that runs in the background."""

    pid: int
    url: str

    def is_alive(self) -> bool:
        """Whether it answers."""
        try:
            return httpx2.get(f"{self.url}/livez", timeout=5).is_success
        except httpx2.HTTPError:
            return False


def run_demo(folder: Path, *, port: int) -> None:
    """Create data, train, serve, inspect; the service keeps running. Raises CommandError."""
    data, store = folder / "data", folder / "store"
    if not data.exists():
        run_command("sample-data", str(data))
    if not (store / "state" / PRODUCT / "current.json").exists():
        chosen = [word for setting in SETTINGS for word in ("--set", setting)]
        run_command("train", "--data", str(data), "--product", PRODUCT, "--store", str(store), *chosen)
    service = find_service(folder) or start_service(folder, store, port=port)
    for name, part in PARTS.items():
        answer = post_image(service.url, data / part)
        saved = folder / f"{name}.heatmap.png"
        saved.write_bytes(base64.b64decode(answer["heatmap"]["data"]))
        click.echo(f"\n{name} part, {data / part}; heat-map in {saved}")
        click.echo(json.dumps(shorten(answer), indent=1))
        (folder / f"{name}.json").write_text(json.dumps(shorten(answer), indent=1) + "\n")
    write_picture(folder)
    click.echo(f"\nThe service runs on; open {service.url}/ for its console. `make demo-stop` ends it.")


def stop(folder: Path) -> None:
    """Stop the running service, if there is one."""
    service = find_service(folder)
    if service is None:
        click.echo("no demonstration is running")
        return
    os.kill(service.pid, signal.SIGTERM)
    get_service_file(folder).unlink()
    click.echo(f"the service at {service.url} has been ended")


def run_command(*arguments: str) -> None:
    """Run one ``goodpart`` command. Raises CommandError."""
    click.echo(f"$ goodpart {' '.join(arguments)}", err=True)
    done = subprocess.run([str(GOODPART), *arguments], check=False)  # noqa: S603  # our own command
    if done.returncode != 0:
        raise CommandError(f"`goodpart {arguments[0]}` ended with exit code {done.returncode}")


def get_service_file(folder: Path) -> Path:
    """Return the path of the file with the running service."""
    return folder / "service.json"


def find_service(folder: Path) -> DemoService | None:
    """Return the service of an earlier demonstration, if it still answers."""
    try:
        service = DemoService(**json.loads(get_service_file(folder).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return service if service.is_alive() else None


def start_service(folder: Path, store: Path, *, port: int) -> DemoService:
    """Start a service in the background and wait until it answers. Raises CommandError."""
    free = port if is_free(port) else find_free_port()
    if free != port:
        click.echo(f"port {port} is in use; taking {free}", err=True)
    command = [str(GOODPART), "serve", "--store", str(store), "--local", str(folder / "local"), "--port", str(free)]
    log_path = folder / "service.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  # our own command
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    service = DemoService(process.pid, f"http://127.0.0.1:{free}")
    get_service_file(folder).write_text(json.dumps({"pid": service.pid, "url": service.url}))
    deadline = time.monotonic() + START_TIMEOUT_S
    while not service.is_alive():
        if process.poll() is not None or time.monotonic() > deadline:
            raise CommandError(f"the service did not start; see {log_path}")
        time.sleep(0.2)
    return service


def is_free(port: int) -> bool:
    """Whether a local port is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def find_free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


def post_image(url: str, part: Path) -> dict[str, Any]:
    """Post an image and return the response, with an overlay as heat-map. Raises CommandError."""
    address = f"{url}/v1/products/{PRODUCT}/inspect"
    response = httpx2.post(
        address,
        params={"heatmap": "overlay", "part_id": part.stem},
        content=part.read_bytes(),
        headers={"content-type": "image/png"},
        timeout=30,
    )
    if not response.is_success:
        raise CommandError(f"{address} answered {response.status_code}: {response.text[:200]}")
    answer: dict[str, Any] = response.json()
    return answer


def shorten(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response with its heat-map cut off."""
    heatmap = answer["heatmap"]
    return {**answer, "heatmap": {**heatmap, "data": heatmap["data"][:SHOWN_CHARACTERS] + "..."}}


def write_picture(folder: Path) -> None:
    """Write ``picture.png``: each part beside its heat-map."""
    pairs = [(folder / "data" / part, folder / f"{name}.heatmap.png") for name, part in PARTS.items()]
    pictures = [load_image(path.read_bytes(), max_pixels=MAX_PIXELS).convert("RGB") for pair in pairs for path in pair]
    gap, (width, height) = 8, pictures[0].size
    sheet = Image.new("RGB", (len(pictures) * (width + gap) - gap, height), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index * (width + gap), 0))
    sheet.save(folder / "picture.png", optimize=True)
