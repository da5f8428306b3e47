"""Errors on the wire: problem+json (RFC 9457). The one map from our errors to HTTP statuses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app import errors as engine
from app.history.broadcast import TooManyWatchers
from app.inference.registry import VersionUnusable
from app.store import errors as store
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
    """A request that is not understood.

    RequestError
    ├── BodyTooLarge        more bytes than the limit, counted as they arrive
    ├── WrongMediaType      a body that is neither an image nor a form
    ├── MissingImage        a form without the field ``image``
    ├── TooManyImages       more images than a batch may hold
    ├── BadForm             a form that can't be parsed
    ├── BadTensors          an Open Inference request that can't be read
    ├── BodyTooSlow         a body that did not arrive in time
    ├── KeyReused           an Idempotency-Key that came with another request before
    ├── NoHistory           a service that keeps no records
    ├── UnknownInspection   no inspection of this id is kept
    ├── NoImage             a record without its image
    ├── Unauthorized        no API key, or an unknown one
    ├── Forbidden           a key without the scope that the route asks for
    ├── CrossSiteRequest    a page of another site tried to change something
    └── ClientGone          the client disconnected before its answer
    """


class BodyTooLarge(RequestError):
    """More bytes than the limit, counted as they arrive."""

    def __init__(self, *, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes:,} bytes")


class WrongMediaType(RequestError):
    """A body that is neither an image nor a form."""

    def __init__(self, *, found: str) -> None:
        super().__init__(
            f"media type '{found[:80]}'; send multipart/form-data with the field 'image', or raw bytes as image/*"
        )


class MissingImage(RequestError):
    """A form without the field ``image``."""

    def __init__(self) -> None:
        super().__init__("the form has no file in a field called 'image'")


class TooManyImages(RequestError):
    """More images than a batch may hold."""

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"the form holds more than {limit} images")


class BadForm(RequestError):
    """A form that can't be parsed."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the form can't be read: {why}")


class BadTensors(RequestError):
    """An Open Inference request that can't be read."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the inference request can't be read: {why}")


class BodyTooSlow(RequestError):
    """A body that did not arrive in time."""

    def __init__(self, *, limit_s: float) -> None:
        super().__init__(f"the body did not arrive within {limit_s:g} s")


class KeyReused(RequestError):
    """An ``Idempotency-Key`` that came with another request before."""

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used for another request; use a new key for each request")


class NoHistory(RequestError):
    """The service keeps no history."""

    def __init__(self) -> None:
        super().__init__("this service keeps no history: GOODPART_HISTORY_RECORDS is 0")


class UnknownInspection(RequestError):
    """No inspection of this id is kept."""

    def __init__(self, inspection_id: str) -> None:
        super().__init__(f"no inspection '{inspection_id[:64]}' is kept")


class NoImage(RequestError):
    """A record without its image."""

    def __init__(self, inspection_id: str) -> None:
        super().__init__(f"the image of inspection '{inspection_id[:64]}' is not kept: see GOODPART_KEEP_IMAGES")


class Unauthorized(RequestError):
    """No API key, or an unknown one."""

    def __init__(self) -> None:
        super().__init__("send a valid API key as 'Authorization: Bearer <key>'")


class Forbidden(RequestError):
    """A key without the scope that the route asks for."""

    def __init__(self, scopes: Sequence[str]) -> None:
        super().__init__(f"this requires an API key with the scope {' or '.join(scopes)}")


class CrossSiteRequest(RequestError):
    """A page of another site tried to change something."""

    def __init__(self) -> None:
        super().__init__("cross-site requests are refused; configure API keys to allow them")


class ClientGone(RequestError):
    """The client disconnected before its answer. Nothing is sent; the metrics count it."""

    def __init__(self) -> None:
        super().__init__("the client disconnected before the image was inspected")


@dataclass(frozen=True)
class ProblemKind:
    """How a class of errors looks on the wire; ``slug`` is the stable end of the problem's type."""

    status: HTTPStatus
    slug: str
    title: str


KINDS: Mapping[type[Exception], ProblemKind] = {
    engine.EmptyImage: ProblemKind(HTTPStatus.BAD_REQUEST, "empty-image", "Empty image"),
    engine.NotAnImage: ProblemKind(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not-an-image", "Not an image"),
    engine.TruncatedImage: ProblemKind(HTTPStatus.UNPROCESSABLE_ENTITY, "truncated-image", "Truncated image"),
    engine.ImageTooLarge: ProblemKind(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "image-too-large", "Image too large"),
    engine.TooManyFrames: ProblemKind(HTTPStatus.UNPROCESSABLE_ENTITY, "too-many-frames", "Too many frames"),
    engine.UnsupportedMode: ProblemKind(HTTPStatus.UNPROCESSABLE_ENTITY, "unsupported-mode", "Unsupported colours"),
    engine.WrongBitDepth: ProblemKind(HTTPStatus.UNPROCESSABLE_ENTITY, "wrong-bit-depth", "Wrong bit depth"),
    engine.InvalidInput: ProblemKind(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-input", "Invalid input"),
    engine.QueueFull: ProblemKind(HTTPStatus.SERVICE_UNAVAILABLE, "queue-full", "Queue full"),
    engine.DeadlinePassed: ProblemKind(HTTPStatus.GATEWAY_TIMEOUT, "deadline-passed", "Deadline passed"),
    engine.WorkerDied: ProblemKind(HTTPStatus.SERVICE_UNAVAILABLE, "worker-died", "Inference worker ended"),
    VersionUnusable: ProblemKind(HTTPStatus.SERVICE_UNAVAILABLE, "version-unusable", "Version can't serve"),
    engine.ModelError: ProblemKind(HTTPStatus.INTERNAL_SERVER_ERROR, "model-failed", "Model failed"),
    store.UnknownProduct: ProblemKind(HTTPStatus.NOT_FOUND, "unknown-product", "Unknown product"),
    store.UnknownVersion: ProblemKind(HTTPStatus.NOT_FOUND, "unknown-version", "Unknown version"),
    store.NothingActive: ProblemKind(HTTPStatus.CONFLICT, "nothing-active", "No active version"),
    store.NoTransition: ProblemKind(HTTPStatus.CONFLICT, "nothing-earlier", "No earlier version"),
    store.Conflict: ProblemKind(HTTPStatus.CONFLICT, "changed-meanwhile", "Changed meanwhile"),
    store.StoreUnusable: ProblemKind(HTTPStatus.SERVICE_UNAVAILABLE, "store-unusable", "Store can't be used"),
    store.StoreError: ProblemKind(HTTPStatus.INTERNAL_SERVER_ERROR, "store-failed", "Store failed"),
    TooManyWatchers: ProblemKind(HTTPStatus.SERVICE_UNAVAILABLE, "too-many-watchers", "Too many watchers"),
    bundle.BadName: ProblemKind(HTTPStatus.UNPROCESSABLE_ENTITY, "bad-name", "Bad name"),
    bundle.BundleError: ProblemKind(HTTPStatus.CONFLICT, "bad-bundle", "Version refused"),
    BodyTooLarge: ProblemKind(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body-too-large", "Body too large"),
    WrongMediaType: ProblemKind(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "wrong-media-type", "Wrong media type"),
    MissingImage: ProblemKind(HTTPStatus.UNPROCESSABLE_ENTITY, "missing-image", "Missing image"),
    TooManyImages: ProblemKind(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-many-images", "Too many images"),
    ClientGone: ProblemKind(HTTPStatus.BAD_REQUEST, "client-gone", "Client gone"),
    BadForm: ProblemKind(HTTPStatus.BAD_REQUEST, "bad-form", "Bad form"),
    BadTensors: ProblemKind(HTTPStatus.BAD_REQUEST, "bad-tensors", "Bad tensors"),
    BodyTooSlow: ProblemKind(HTTPStatus.REQUEST_TIMEOUT, "body-too-slow", "Body too slow"),
    KeyReused: ProblemKind(HTTPStatus.UNPROCESSABLE_ENTITY, "key-reused", "Idempotency key reused"),
    NoHistory: ProblemKind(HTTPStatus.NOT_FOUND, "no-history", "No history"),
    UnknownInspection: ProblemKind(HTTPStatus.NOT_FOUND, "unknown-inspection", "Unknown inspection"),
    NoImage: ProblemKind(HTTPStatus.NOT_FOUND, "no-image", "No image"),
    Unauthorized: ProblemKind(HTTPStatus.UNAUTHORIZED, "unauthorized", "API key missing or unknown"),
    Forbidden: ProblemKind(HTTPStatus.FORBIDDEN, "forbidden", "Scope missing"),
    CrossSiteRequest: ProblemKind(HTTPStatus.FORBIDDEN, "from-elsewhere", "Another site's page"),
}


def find_kind(error: bundle.GoodpartError) -> ProblemKind:
    """Return the kind of the error's nearest class in the map. Raises KeyError where the map has none."""
    for ancestor in type(error).__mro__:
        if ancestor in KINDS:
            return KINDS[ancestor]
    raise KeyError(type(error))


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
    return ProblemKind(status, status.phrase.lower().replace(" ", "-"), status.phrase)


def problem_response(status: HTTPStatus) -> JSONResponse:
    """Return a complete problem response, for code that answers before routing."""
    return JSONResponse(
        build_problem(kind_from_status(status), status.phrase), status_code=int(status), media_type=MEDIA_TYPE
    )


def problem_from_error(error: bundle.GoodpartError) -> dict[str, object]:
    """Return an error as a problem document."""
    return build_problem(find_kind(error), str(error))


class Handlers:
    """Every error of an application as problem+json. ``on_problem`` gets the slug of each, to count."""

    def __init__(self, on_problem: Callable[[str], None]) -> None:
        self._on_problem = on_problem

    async def on_goodpart_error(self, request: Request, error: Exception) -> JSONResponse:
        """Answer an error that Goodpart raised."""
        if not isinstance(error, bundle.GoodpartError):
            raise error
        response = self._respond(request, find_kind(error), str(error))
        if isinstance(error, engine.QueueFull):
            response.headers["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, Unauthorized):
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    async def on_invalid(self, request: Request, error: Exception) -> JSONResponse:
        """Answer an invalid query, path or body with the first error."""
        if not isinstance(error, RequestValidationError):
            raise error
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        kind = ProblemKind(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", "Invalid request")
        return self._respond(request, kind, f"{where}: {first['msg']}")

    async def on_http(self, request: Request, error: Exception) -> JSONResponse:
        """Answer an unknown path or method."""
        if not isinstance(error, HTTPException):
            raise error
        response = self._respond(request, kind_from_status(HTTPStatus(error.status_code)), str(error.detail))
        response.headers.update(error.headers or {})
        return response

    async def on_unexpected(self, request: Request, error: Exception) -> JSONResponse:  # noqa: ARG002  # nothing of it is shown
        """Answer an unexpected exception. The client gets no details; the log has them."""
        kind = ProblemKind(HTTPStatus.INTERNAL_SERVER_ERROR, "internal-error", "Internal error")
        response = self._respond(request, kind, "the service failed; its log says why")
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
