import asyncio
import json
import logging
import threading

import pytest
import structlog
from fastapi import Request
from starlette.datastructures import Headers

from app.api.middleware import (
    LimitedReceive,
    MiddlewareSettings,
    RequestContextMiddleware,
    get_request_id,
    get_trace_id,
)
from app.api.problems import RequestError
from app.api.uploads import read_body
from app.server.logging import DroppingHandler, LogWriter

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("path", ["/livez", "/v1/products", "/v1/products/cup", "/nowhere", "/v2"])
def test_every_answer_names_its_request_and_is_not_to_be_sniffed_framed_or_kept(client, path):
    headers = client.get(path, headers={"x-request-id": "line-3/77"}).headers
    assert headers["x-request-id"] == "line-3/77"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_the_page_of_the_interface_may_load_its_scripts(client):
    assert "content-security-policy" not in client.get("/docs").headers


@pytest.mark.parametrize("given", ["", "with space", "x" * 129, "\u00e4"])
def test_an_id_that_is_none_is_replaced(given):
    made = get_request_id(Headers(raw=[(b"x-request-id", given.encode("latin-1"))]))
    assert made != given
    assert len(made) == 32


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", True),
        (f"01-{TRACE}-00f067aa0ba902b7-01-more", True),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", False),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", False),
        ("", False),
    ],
)
def test_a_valid_trace_continues_and_an_invalid_one_is_replaced(given, is_kept):
    found = get_trace_id(Headers({"traceparent": given}))
    assert (found == TRACE) == is_kept
    assert len(found) == 32


def test_a_request_is_logged_in_one_line_with_ids_and_verdict(client, good_bytes):
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        client.post(
            "/v1/products/disc/inspect?part_id=P7",
            content=good_bytes,
            headers={
                "content-type": "image/png",
                "x-request-id": "r1",
                "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
            },
        )
        client.get("/livez")
    (line,) = [line for line in lines if line["event"] == "request"]
    assert (line["request_id"], line["trace_id"], line["part_id"]) == ("r1", TRACE, "P7")
    assert (line["status"], line["verdict"], line["product"]) == (200, "ok", "disc")
    assert line["spent_ms"] > 0


def test_server_timing_lists_the_steps(client, good_bytes):
    response = client.post("/v1/products/disc/inspect", content=good_bytes, headers={"content-type": "image/png"})
    durations = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert {step: float(spent) for step, spent in durations.items()} == response.json()["timings_ms"]


def collect(messages, *, limit_s):
    async def run():
        left = list(messages)

        async def receive():
            if not left:
                await asyncio.sleep(60)
            return left.pop(0)

        patient = LimitedReceive(receive, limit_s=limit_s)
        return [await patient() for _ in range(2)]

    return asyncio.run(run())


def test_a_body_that_does_not_come_in_time_is_given_up():
    first = {"type": "http.request", "body": b"a", "more_body": True}
    with pytest.raises(RequestError, match=r"within 0\.05 s"):
        collect([first], limit_s=0.05)


def test_a_body_is_counted_as_it_arrives():
    piece = {"type": "http.request", "body": b"x" * 40, "more_body": True}
    left = [piece, piece]

    async def receive():
        return left.pop(0)

    async def run():
        patient = LimitedReceive(receive, limit_s=9, limit_bytes=50)
        await patient()
        await patient()

    with pytest.raises(RequestError, match="larger than 50 bytes"):
        asyncio.run(run())


def test_a_client_that_disconnects_while_sending_is_no_server_error():
    async def receive():
        return {"type": "http.disconnect"}

    request = Request({"type": "http", "method": "POST", "headers": [], "path": "/"}, receive)
    with pytest.raises(RequestError, match="the client disconnected"):
        asyncio.run(read_body(request, limit_bytes=10))


def test_the_end_does_not_wait_for_who_does_not_read_the_log():
    from queue import Queue

    read = threading.Event()

    class Stalled(logging.Handler):
        def emit(self, _):
            read.wait()

    writer = LogWriter(Queue(10), Stalled())
    writer.start()
    writer.queue.put(logging.makeLogRecord({"msg": "x"}))
    writer.stop()
    assert not read.is_set()
    read.set()


def test_a_client_is_waited_for_once_its_body_is_there():
    whole = {"type": "http.request", "body": b"a"}
    gone = {"type": "http.disconnect"}
    assert collect([whole, gone], limit_s=0.0001 + 60) == [whole, gone]


def test_health_is_served_only_on_its_own_port_if_one_is_set():
    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def get_status(path, port):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "path": path, "method": "GET", "headers": [], "server": ("127.0.0.1", port)}
        await RequestContextMiddleware(app, MiddlewareSettings(health_port=9000))(scope, None, send)
        return sent[0]["status"]

    requests = [("/livez", 9000), ("/livez", 8000), ("/v1/products", 8000), ("/v1/products", 9000), ("/metrics", 9000)]
    assert [asyncio.run(get_status(*one)) for one in requests] == [200, 404, 200, 404, 200]


def test_an_unexpected_error_shows_nothing_of_itself(client):
    @client.app.get("/broken")
    async def fail():
        raise RuntimeError("a secret")

    response = client.get("/broken")
    assert (response.status_code, "secret" in response.text) == (500, False)
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_blocked_log_does_not_block_requests():
    from queue import Queue

    handler = DroppingHandler(Queue(1))
    for number in range(3):
        handler.handle(logging.makeLogRecord({"msg": number}))
    assert [handler.queue.get().msg, handler.queue.empty()] == [0, True]


def test_log_lines_are_json():
    import subprocess
    import sys

    code = (
        "import structlog, logging; from app.server.logging import configure_logging; "
        "configure_logging('json', level='INFO'); "
        "structlog.stdlib.get_logger('goodpart').info('request', part_id='P7'); "
        "logging.getLogger('uvicorn.error').info('started')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = map(json.loads, done.stderr.splitlines())
    assert (first["event"], first["part_id"], first["level"], first["logger"]) == ("request", "P7", "info", "goodpart")
    assert (second["event"], second["logger"]) == ("started", "uvicorn.error")
