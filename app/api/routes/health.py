"""Liveness, readiness and metrics for orchestrators."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import APIRouter, Response

from app.api.schemas import HealthResponse, ReadyProductResponse
from app.history.journal import Journal
from app.inference.registry import ModelRegistry
from app.inference.status import ProductStatus
from app.inspection.inspector import Inspector
from app.server.metrics import MEDIA_TYPE, Metrics
from app.server.shutdown import ShutdownState
from app.sinks.outbox import Outbox


@dataclass(frozen=True)
class HealthSources:
    """What health is read from; all of it is in memory."""

    registry: ModelRegistry
    inspector: Inspector
    metrics: Metrics
    shutdown_state: ShutdownState
    journal: Journal | None = None
    outboxes: Sequence[Outbox] = ()


def router(sources: HealthSources) -> APIRouter:
    """Return the routes ``/livez``, ``/readyz`` and ``/metrics``. They read memory alone and answer under any load."""
    routes = APIRouter(tags=["health"])

    @routes.get("/livez")
    async def livez() -> dict[str, bool]:
        """The event loop turns."""
        return {"live": True}

    @routes.get("/readyz", responses={HTTPStatus.SERVICE_UNAVAILABLE: {"model": HealthResponse}})
    async def readyz(response: Response) -> HealthResponse:
        """200 where at least one product has a version that serves, else 503 with the reasons."""
        answer = collect_health(sources)
        if not answer.ready:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return answer

    @routes.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts, times and standings, for Prometheus."""
        return Response(sources.metrics.expose(), headers={"content-type": MEDIA_TYPE})

    return routes


def collect_health(sources: HealthSources) -> HealthResponse:
    """Return the current readiness."""
    batcher = sources.inspector.batcher
    errors = [batcher.error, batcher.device_error, sources.shutdown_state.reason]
    warnings = [f"sink {one.sink.name}: {one.error}" for one in sources.outboxes if one.error]
    if sources.journal is not None and sources.journal.error is not None:
        warnings.append(sources.journal.error)
    return build_health(sources.registry, errors=errors, warnings=warnings)


def build_health(
    registry: ModelRegistry, *, errors: Iterable[str | None], warnings: Sequence[str] = ()
) -> HealthResponse:
    """Return the readiness. It is false for an empty registry and where there is an error.

    ``warnings``: shown among the reasons; they do not affect readiness.
    """
    statuses = registry.list_statuses()
    reasons = [f"{status.product}: {status.error}" for status in statuses if status.error]
    reasons += [one for one in (registry.error, *warnings) if one]
    has_version = any(status.serving or status.is_evicted for status in statuses)
    if not has_version:
        reasons.append("no product has a version that serves")
    stopping = [fault for fault in errors if fault]
    return HealthResponse(
        ready=has_version and not stopping,
        reasons=(*reasons, *stopping),
        products=tuple(to_ready_product(status) for status in statuses),
    )


def to_ready_product(status: ProductStatus) -> ReadyProductResponse:
    """Return the readiness of one product."""
    serving = status.serving.name if status.serving else None
    return ReadyProductResponse(product=status.product, serving=serving, fault=status.error)
