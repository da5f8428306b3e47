"""Liveness, readiness and metrics for orchestrators. They read memory alone and answer under any load."""

from collections.abc import Iterable, Sequence
from http import HTTPStatus

from fastapi import APIRouter, Response

from app.api.deps import MetricsDep, Services, ServicesDep
from app.api.schemas import HealthResponse, ReadyProductResponse
from app.inference.registry import ModelRegistry
from app.inference.status import ProductStatus
from app.server.metrics import MEDIA_TYPE

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> dict[str, bool]:
    """The event loop turns."""
    return {"live": True}


@router.get("/readyz", responses={HTTPStatus.SERVICE_UNAVAILABLE: {"model": HealthResponse}})
async def readyz(response: Response, services: ServicesDep) -> HealthResponse:
    """200 where at least one product has a version that serves, else 503 with the reasons."""
    answer = collect_health(services)
    if not answer.ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return answer


@router.get("/metrics", response_class=Response)
async def metrics(metrics: MetricsDep) -> Response:
    """Counts, times and standings, for Prometheus."""
    return Response(metrics.expose(), headers={"content-type": MEDIA_TYPE})


def collect_health(services: Services) -> HealthResponse:
    """Return the current readiness."""
    batcher = services.inspection.inspector.batcher
    errors = [batcher.error, batcher.device_error, services.shutdown_state.reason]
    warnings = [f"sink {one.sink.name}: {one.error}" for one in services.outboxes if one.error]
    if services.journal is not None and services.journal.error is not None:
        warnings.append(services.journal.error)
    return build_health(services.registry, errors=errors, warnings=warnings)


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
