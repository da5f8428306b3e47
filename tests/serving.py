"""``goodpart serve`` in a process of its own, for tests that need real sockets, signals and kills."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2

GOODPART = Path(sys.executable).with_name("goodpart")
PATIENCE_S = 60


def until(condition, *, within_s=PATIENCE_S):
    """Wait until something holds; it comes back."""
    ends = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < ends, "it did not come to pass"
        time.sleep(0.02)
    return found


class Service:
    """A service over a store on a free port; ``settings`` are GOODPART_* variables. Its log is a file."""

    def __init__(self, store, *, scheme="http", verify=True, **settings):
        descriptor, name = tempfile.mkstemp(prefix="goodpart-log-")
        os.close(descriptor)
        self.log = Path(name)
        self.local = tempfile.mkdtemp(prefix="goodpart-local-")
        variables = {
            "local": self.local,
            "refresh_interval_s": "0.1",
            "drain_s": "0",
            "host": "127.0.0.1",
            "port": "0",
            **settings,
        }
        named = {f"GOODPART_{name.upper()}": str(value) for name, value in variables.items()}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [GOODPART, "serve", "--store", str(store)],
                stderr=log,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **named},
            )
        try:
            self.address = until(self._address)
        except AssertionError:
            self.process.kill()
            raise
        self.client = httpx2.Client(base_url=f"{scheme}://{self.address}", verify=verify, timeout=PATIENCE_S)

    def _address(self):
        assert self.process.poll() is None, self.log.read_text()
        return next(
            (line.split("://")[1] for line in self.log.read_text().splitlines() if "listening on" in line), None
        )

    @property
    def port(self):
        return int(self.address.rpartition(":")[2])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=PATIENCE_S)
        self.log.unlink(missing_ok=True)
        shutil.rmtree(self.local)
