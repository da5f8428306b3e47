"""Errors on the wire: problem+json (RFC 9457). The one map from kinds of errors to HTTP statuses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.errors import QueueFull
from model import bundle

MEDIA_TYPE = "application/problem+json"
OPEN_INFERENCE = "/v2"
# Retry-After when the service is not overloaded: a version that can't serve is retried every half minute.
RETRY_FAULT_AFTER_S = 30
# Responses must not be framed, sniffed or cached, and load nothing.
SECURITY_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class RequestError(bundle.GoodpartError):
    """A request that is not understood or not allowed."""

    kind = "invalid-request"


def body_too_large_error(limit_bytes: int) -> RequestError:
    """Return the error of a body with more bytes than the limit, counted as they arrive."""
    return RequestError(f"the body is larger than {limit_bytes:,} bytes", kind="body-too-large")


def client_gone_error() -> RequestError:
    """Return the error of a client that disconnected before its answer. Nothing is sent; the metrics count it."""
    return RequestError("the client disconnected before the image was inspected", kind="client-gone")


# HTTP status and title by the error's kind, which is the stable end of the problem's type.
PROBLEMS: Mapping[str, tuple[HTTPStatus, str]] = {
    "empty-image": (HTTPStatus.BAD_REQUEST, "Empty image"),
    "not-an-image": (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Not an image"),
    "truncated-image": (HTTPStatus.UNPROCESSABLE_ENTITY, "Truncated image"),
    "image-too-large": (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Image too large"),
    "too-many-frames": (HTTPStatus.UNPROCESSABLE_ENTITY, "Too many frames"),
    "unsupported-mode": (HTTPStatus.UNPROCESSABLE_ENTITY, "Unsupported colours"),
    "wrong-bit-depth": (HTTPStatus.UNPROCESSABLE_ENTITY, "Wrong bit depth"),
    "invalid-input": (HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid input"),
    "queue-full": (HTTPStatus.SERVICE_UNAVAILABLE, "Queue full"),
    "deadline-passed": (HTTPStatus.GATEWAY_TIMEOUT, "Deadline passed"),
    "worker-died": (HTTPStatus.SERVICE_UNAVAILABLE, "Inference worker ended"),
    "version-unusable": (HTTPStatus.SERVICE_UNAVAILABLE, "Version can't serve"),
    "model-failed": (HTTPStatus.INTERNAL_SERVER_ERROR, "Model failed"),
    "unknown-product": (HTTPStatus.NOT_FOUND, "Unknown product"),
    "unknown-version": (HTTPStatus.NOT_FOUND, "Unknown version"),
    "nothing-active": (HTTPStatus.CONFLICT, "No active version"),
    "nothing-earlier": (HTTPStatus.CONFLICT, "No earlier version"),
    "changed-meanwhile": (HTTPStatus.CONFLICT, "Changed meanwhile"),
    "store-unusable": (HTTPStatus.SERVICE_UNAVAILABLE, "Store can't be used"),
    "store-failed": (HTTPStatus.INTERNAL_SERVER_ERROR, "Store failed"),
    "too-many-watchers": (HTTPStatus.SERVICE_UNAVAILABLE, "Too many watchers"),
    "bad-name": (HTTPStatus.UNPROCESSABLE_ENTITY, "Bad name"),
    "bad-bundle": (HTTPStatus.CONFLICT, "Version refused"),
    "body-too-large": (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Body too large"),
    "wrong-media-type": (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Wrong media type"),
    "missing-image": (HTTPStatus.UNPROCESSABLE_ENTITY, "Missing image"),
    "too-many-images": (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Too many images"),
    "client-gone": (HTTPStatus.BAD_REQUEST, "Client gone"),
    "bad-form": (HTTPStatus.BAD_REQUEST, "Bad form"),
    "bad-tensors": (HTTPStatus.BAD_REQUEST, "Bad tensors"),
    "body-too-slow": (HTTPStatus.REQUEST_TIMEOUT, "Body too slow"),
    "key-reused": (HTTPStatus.UNPROCESSABLE_ENTITY, "Idempotency key reused"),
    "no-history": (HTTPStatus.NOT_FOUND, "No history"),
    "unknown-inspection": (HTTPStatus.NOT_FOUND, "Unknown inspection"),
    "no-image": (HTTPStatus.NOT_FOUND, "No image"),
    "unauthorized": (HTTPStatus.UNAUTHORIZED, "API key missing or unknown"),
    "forbidden": (HTTPStatus.FORBIDDEN, "Scope missing"),
    "from-elsewhere": (HTTPStatus.FORBIDDEN, "Another site's page"),
    "invalid-request": (HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid request"),
    "internal-error": (HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error"),
}


@dataclass(frozen=True)
class ProblemKind:
    """How a kind of error looks on the wire; ``slug`` is the stable end of the problem's type."""

    slug: str
    status: HTTPStatus
    title: str


def get_kind(slug: str) -> ProblemKind:
    """Return a kind of the map. Raises KeyError for the kinds of errors that no request meets."""
    status, title = PROBLEMS[slug]
    return ProblemKind(slug, status, title)


def build_problem(kind: ProblemKind, detail: str) -> dict[str, object]:
    """Return the members of a problem document."""
    return {
        "type": f"urn:goodpart:problem:{kind.slug}",
        "title": kind.title,
        "status": int(kind.status),
        "detail": detail,
    }


def kind_from_status(status: HTTPStatus) -> ProblemKind:
    """Return the kind of an unknown path or method."""
    return ProblemKind(status.phrase.lower().replace(" ", "-"), status, status.phrase)


def problem_response(status: HTTPStatus) -> JSONResponse:
    """Return a complete problem response, for code that answers before routing."""
    return JSONResponse(
        build_problem(kind_from_status(status), status.phrase), status_code=int(status), media_type=MEDIA_TYPE
    )


def problem_from_error(error: bundle.GoodpartError) -> dict[str, object]:
    """Return an error as a problem document."""
    return build_problem(get_kind(error.kind), str(error))


class Handlers:
    """Every error of an application as problem+json. ``on_problem`` gets the slug of each, to count."""

    def __init__(self, on_problem: Callable[[str], None]) -> None:
        self._on_problem = on_problem

    async def on_goodpart_error(self, request: Request, error: Exception) -> JSONResponse:
        """Answer an error that Goodpart raised."""
        if not isinstance(error, bundle.GoodpartError):
            raise error
        response = self._respond(request, get_kind(error.kind), str(error))
        if isinstance(error, QueueFull):
            response.headers["Retry-After"] = str(error.retry_after_s)
        if error.kind == "unauthorized":
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    async def on_invalid(self, request: Request, error: Exception) -> JSONResponse:
        """Answer an invalid query, path or body with the first error."""
        if not isinstance(error, RequestValidationError):
            raise error
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        return self._respond(request, get_kind("invalid-request"), f"{where}: {first['msg']}")

    async def on_http(self, request: Request, error: Exception) -> JSONResponse:
        """Answer an unknown path or method."""
        if not isinstance(error, HTTPException):
            raise error
        response = self._respond(request, kind_from_status(HTTPStatus(error.status_code)), str(error.detail))
        response.headers.update(error.headers or {})
        return response

    async def on_unexpected(self, request: Request, error: Exception) -> JSONResponse:  # noqa: ARG002  # nothing of it is shown
        """Answer an unexpected exception. The client gets no details; the log has them."""
        response = self._respond(request, get_kind("internal-error"), "the service failed; its log says why")
        # This response is created outside the middleware that usually adds these headers.
        response.headers.update({**SECURITY_HEADERS, "X-Request-Id": request.state.request_id})
        return response

    def _respond(self, request: Request, kind: ProblemKind, detail: str) -> JSONResponse:
        self._on_problem(kind.slug)
        content = build_problem(kind, detail)
        if request.url.path.startswith(OPEN_INFERENCE):
            content["error"] = detail  # where clients of the Open Inference Protocol look
        response = JSONResponse(content, status_code=int(kind.status), media_type=MEDIA_TYPE)
        if kind.status is HTTPStatus.SERVICE_UNAVAILABLE:
            response.headers["Retry-After"] = str(RETRY_FAULT_AFTER_S)
        return response


def install_handlers(app: FastAPI, *, on_problem: Callable[[str], None]) -> None:
    """Answer every error of this application with problem+json."""
    handlers = Handlers(on_problem)
    app.add_exception_handler(bundle.GoodpartError, handlers.on_goodpart_error)
    app.add_exception_handler(RequestValidationError, handlers.on_invalid)
    app.add_exception_handler(HTTPException, handlers.on_http)
    app.add_exception_handler(Exception, handlers.on_unexpected)
