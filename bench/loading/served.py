"""The services of the bench, each in a process of its own, which the load bench binds to one processor."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

GOODPART = Path(sys.executable).with_name("goodpart")
STUB = Path(__file__).with_name("stub.py")
PATIENCE_S = 60


@dataclass(frozen=True)
class Served:
    """A running service."""

    process: subprocess.Popen[bytes]
    address: str

    def rss_bytes(self) -> int:
        """The memory that it holds."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self) -> float:
        """The processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ask(self, path: str, *, method: str = "GET", members: Mapping[str, object] | None = None) -> dict[str, object]:
        """One request of an operator; raises HTTPError for what is no success."""
        request = urllib.request.Request(f"{self.address}{path}", method=method)  # noqa: S310  # our own address
        if members is not None:
            request.data = json.dumps(members).encode()
            request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310
            found: dict[str, object] = json.load(answer)
            return found

    def is_ready(self) -> bool:
        """Whether it can judge."""
        try:
            return bool(self.ask("/readyz")["ready"])
        except (urllib.error.URLError, ConnectionError):
            return False


@contextmanager
def serve(store: Path, *, processor: int | None = None, stub: bool = False, **settings: object) -> Iterator[Served]:
    """Yield a ready service over a store, on one processor or on all; a stub answers without running a graph."""
    named = {"port": 0, "drain_s": 0, **settings}
    environment = {**os.environ, **{f"GOODPART_{name.upper()}": str(value) for name, value in named.items()}}
    program = [sys.executable, str(STUB)] if stub else [str(GOODPART), "serve"]
    bound = [] if processor is None else ["taskset", "--cpu-list", str(processor)]
    command = [*bound, *program, "--store", str(store)]
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stream, subprocess.Popen(command, stderr=stream, env=environment) as process:
            try:
                running = Served(process, read_address(process, log))
                wait_until_ready(running)
                yield running
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE_S)


def read_address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address on which a service says that it listens."""
    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends and process.poll() is None:
        for line in log.read_text().splitlines():
            if "listening on" in line:
                return line.split()[-1]
        time.sleep(0.02)
    sys.exit(f"the service did not start: {log.read_text()}")


def wait_until_ready(running: Served) -> None:
    """Returns once the service can judge."""
    ends = time.monotonic() + PATIENCE_S
    while not running.is_ready():
        if time.monotonic() > ends:
            sys.exit("the service did not become ready")
        time.sleep(0.02)
