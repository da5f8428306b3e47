"""An S3 server in a process of its own, and a proxy before it that can inject faults."""

import asyncio
import contextlib
import subprocess
import sys
import threading
from dataclasses import dataclass
from urllib.request import Request, urlopen

from serving import until

# One request at a time: conditional writes of the real S3 are atomic, moto's are only so.
SERVER = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app))
print(server.port, flush=True)
server.serve_forever()
"""
CHUNK = 65536


@dataclass
class Faults:
    """Faults to inject. ``off``: connections end at once; ``hung``: no answer.

    ``cut_after``: bytes of an answer before the connection ends; ``cut_upload_after``: the same of a request.
    ``lost``: so many answers to PUTs never arrive, the writes having been done; ``bytes_per_s``: how slow answers are.
    ``answers``: status and code that requests of the methods ``to`` get in place of an answer.
    """

    off: bool = False
    hung: bool = False
    cut_after: int | None = None
    cut_upload_after: int | None = None
    lost: int = 0
    bytes_per_s: float | None = None
    answers: tuple[int, str] | None = None
    to: tuple[str, ...] = ("GET", "HEAD", "PUT", "DELETE")


class Storage:
    """The server and its proxy; ``environment`` is what reaches it through the proxy."""

    def __init__(self):
        self.faults = Faults()
        self.num_requests = 0
        self.tasks = set()
        self.server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.port = int(self.server.stdout.readline())
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        listening = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self.loop)
        self.proxy = listening.result()
        address = f"http://127.0.0.1:{self.proxy.sockets[0].getsockname()[1]}"
        self.environment = {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def new_bucket(self, name):
        with urlopen(Request(f"http://127.0.0.1:{self.port}/{name}", method="PUT")):
            return f"s3://{name}"

    @contextlib.contextmanager
    def inject(self, **faults):
        self.faults = Faults(**faults)
        try:
            yield self.faults
        finally:
            self.faults = Faults()

    def close(self):
        self.server.kill()
        self.server.wait()
        self.server.stdout.close()

        async def end():
            self.proxy.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _serve(self, reader, writer):
        self.num_requests += 1
        task = asyncio.current_task()
        self.tasks.add(task)  # the loop holds them weakly
        task.add_done_callback(self.tasks.discard)
        try:
            if self.faults.off:
                return
            while self.faults.hung:  # noqa: ASYNC110  # another thread sets the faults
                await asyncio.sleep(0.05)
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                await self._passed(reader, writer, upstream_reader, upstream_writer)
            finally:
                upstream_writer.close()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort() if self.faults.off else writer.close()

    async def _passed(self, reader, writer, upstream_reader, upstream_writer):
        faults = self.faults
        head = await reader.readuntil(b"\r\n\r\n")
        if faults.answers is not None and head.split()[0].decode() in faults.to:
            writer.write(refusal(*faults.answers))
            await writer.drain()
            return
        upstream_writer.write(head)
        sending = asyncio.create_task(self._upload(reader, upstream_writer, faults))
        is_lost = head.startswith(b"PUT") and faults.lost > 0
        num_sent = 0
        try:
            while chunk := await upstream_reader.read(CHUNK):
                if is_lost and chunk.startswith(b"HTTP/1.1 100"):
                    writer.write(chunk)
                    continue
                if is_lost:
                    faults.lost -= 1
                    return
                if faults.cut_after is not None:
                    chunk = chunk[: faults.cut_after - num_sent]
                writer.write(chunk)
                await writer.drain()
                num_sent += len(chunk)
                if faults.cut_after is not None and num_sent >= faults.cut_after:
                    return
                if faults.bytes_per_s:
                    await asyncio.sleep(len(chunk) / faults.bytes_per_s)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _upload(self, reader, upstream_writer, faults):
        num_sent = 0
        while chunk := await reader.read(CHUNK):
            upstream_writer.write(chunk)
            await upstream_writer.drain()
            num_sent += len(chunk)
            if faults.cut_upload_after is not None and num_sent >= faults.cut_upload_after:
                upstream_writer.transport.abort()
                return


def refusal(status, code):
    """What S3 answers when it refuses."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    head = (
        f"HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    )
    return f"{head}\r\n".encode() + body


def start():
    """A storage that answers."""
    storage = Storage()
    until(lambda: _answers(storage), within_s=20)
    return storage


def _answers(storage):
    try:
        with urlopen(f"http://127.0.0.1:{storage.port}/"):
            return True
    except OSError:
        return False
