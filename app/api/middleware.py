"""Request context: ids, trace, time and size limits of the body, response headers and one log line a request.

Plain ASGI, so that streamed bodies and disconnects are not hidden.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import SECURITY_HEADERS, RequestError, body_too_large_error, problem_response

log = structlog.stdlib.get_logger("goodpart.request")

# https://www.w3.org/TR/trace-context/: version, trace id, parent id, flags; ids of zeros alone are invalid.
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
# Orchestrators request these every second; they are not logged.
QUIET = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
# HTML pages, which load their own scripts.
PAGES = frozenset({"/docs", "/redoc"})
HEALTH = frozenset({"/livez", "/readyz", "/metrics"})
# Routes with images have body limits in the settings; all others have the limit below.
TAKES_IMAGES = re.compile(r".*/(inspect|inspect/batch|infer|feedback)")
MAX_OTHER_BYTES = 65_536


@dataclass(frozen=True)
class MiddlewareSettings:
    """``health_port``: the only port that answers health and metrics; None where there is one port for all."""

    body_timeout_s: float = 30.0
    health_port: int | None = None


class RequestContextMiddleware:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, rules: MiddlewareSettings) -> None:
        self.app = app
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan, which passes through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif self._is_wrong_port(scope):
            await problem_response(HTTPStatus.NOT_FOUND)(scope, receive, send)
        else:
            await self._handle(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        ids = {"request_id": get_request_id(headers), "trace_id": get_trace_id(headers)}
        scope.setdefault("state", {}).update(ids)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**ids)
        answer = ContextSend(scope["path"], ids, send)
        began = time.perf_counter()
        try:
            limit_bytes = None if TAKES_IMAGES.fullmatch(scope["path"]) else MAX_OTHER_BYTES
            body = LimitedReceive(receive, limit_s=self.rules.body_timeout_s, limit_bytes=limit_bytes)
            await self.app(scope, body, answer)
        except Exception:
            log.exception("failed", method=scope["method"], path=scope["path"])
            raise
        finally:
            if scope["path"] not in QUIET:
                spent_ms = round((time.perf_counter() - began) * 1000, 3)
                log.info("request", method=scope["method"], path=scope["path"], status=answer.status, spent_ms=spent_ms)

    def _is_wrong_port(self, scope: Scope) -> bool:
        """Whether this port does not answer this path."""
        if self.rules.health_port is None:
            return False
        came_by_health_port = (scope.get("server") or ("", None))[1] == self.rules.health_port
        return (scope["path"] in HEALTH) != came_by_health_port


class LimitedReceive:
    """``receive`` with limits on the time and size of the body.

    The time counts from the first call. After the body is complete there is no limit, so that a disconnect can be
    awaited. ``limit_bytes``: None where the route counts the bytes itself.
    """

    def __init__(self, receive: Receive, *, limit_s: float, limit_bytes: int | None = None) -> None:
        self._receive = receive
        self._limit_s = limit_s
        self._limit_bytes = limit_bytes
        self._num_bytes = 0
        self._is_whole = False
        self._ends_at: float | None = None

    async def __call__(self) -> Message:
        """Return the next message. Raises RequestError."""
        if self._is_whole:
            return await self._receive()
        self._ends_at = self._ends_at or time.monotonic() + self._limit_s
        try:
            async with asyncio.timeout(self._ends_at - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            raise RequestError(f"the body did not arrive within {self._limit_s:g} s", kind="body-too-slow") from None
        self._num_bytes += len(message.get("body", b""))
        if self._limit_bytes is not None and self._num_bytes > self._limit_bytes:
            raise body_too_large_error(self._limit_bytes)
        self._is_whole = not message.get("more_body", False)
        return message


@dataclass
class ContextSend:
    """``send`` that notes the status and adds the common response headers."""

    path: str
    ids: Mapping[str, str]
    send: Send
    status: int | None = None

    async def __call__(self, message: Message) -> None:
        """Forward a message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._add_headers(MutableHeaders(scope=message))
        await self.send(message)

    def _add_headers(self, headers: MutableHeaders) -> None:
        headers["X-Request-Id"] = self.ids["request_id"]
        for name, value in SECURITY_HEADERS.items():
            if self.path not in PAGES:
                headers.setdefault(name, value)


def get_request_id(headers: Headers) -> str:
    """Return the client's ``X-Request-Id`` if it is valid, else a new id."""
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid4().hex


def get_trace_id(headers: Headers) -> str:
    """Return the trace id of ``traceparent`` if it is valid, else a new id."""
    match = TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return match["trace"] if match else secrets.token_hex(16)
