"""Routes for orchestrators: is the process alive, can it judge."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from app.api.answers import HealthAnswer, ProductAnswer
from app.engine.catalogue import Catalogue
from app.engine.inspector import Inspector
from app.metrics import MEDIA_TYPE, Metrics


def router(*, catalogue: Catalogue, inspector: Inspector, metrics: Metrics) -> APIRouter:
    """``/livez``, ``/readyz`` and ``/metrics``; all only read memory, so they answer under any load."""
    routes = APIRouter(tags=["health"])

    @routes.get("/livez")
    async def livez() -> dict[str, bool]:
        """The event loop turns."""
        return {"live": True}

    @routes.get("/readyz", responses={HTTPStatus.SERVICE_UNAVAILABLE: {"model": HealthAnswer}})
    async def readyz(response: Response) -> HealthAnswer:
        """200 where at least one product has a version that serves, else 503 with the reasons."""
        answer = health(catalogue, worker_fault=inspector.worker.fault)
        if not answer.ready:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return answer

    @routes.get("/metrics", response_class=Response)
    async def exposed() -> Response:
        """Counts, times and standings, for Prometheus."""
        return Response(metrics.exposed(), headers={"content-type": MEDIA_TYPE})

    return routes


def health(catalogue: Catalogue, *, worker_fault: str | None) -> HealthAnswer:
    """An empty store is not ready: there is nothing to judge by."""
    standings = catalogue.standings()
    reasons = [f"{standing.product}: {standing.fault}" for standing in standings if standing.fault]
    if catalogue.fault:
        reasons.append(catalogue.fault)
    has_version = any(standing.serving for standing in standings)
    if not has_version:
        reasons.append("no product has a version that serves")
    if worker_fault:
        reasons.append(worker_fault)
    return HealthAnswer(
        ready=has_version and worker_fault is None,
        reasons=tuple(reasons),
        products=tuple(map(ProductAnswer.of, standings)),
    )
