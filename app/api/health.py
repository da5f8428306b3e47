"""Routes for orchestrators: is the process alive, can it judge."""

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import APIRouter, Response

from app.api.answers import HealthAnswer, ProductAnswer
from app.draining import Leaving
from app.engine.catalogue import Catalogue
from app.engine.inspector import Inspector
from app.metrics import MEDIA_TYPE, Metrics


@dataclass(frozen=True)
class Sources:
    """What health is read from, all of it memory."""

    catalogue: Catalogue
    inspector: Inspector
    metrics: Metrics
    leaving: Leaving


def router(sources: Sources) -> APIRouter:
    """``/livez``, ``/readyz`` and ``/metrics``; all only read memory, so they answer under any load."""
    routes = APIRouter(tags=["health"])

    @routes.get("/livez")
    async def livez() -> dict[str, bool]:
        """The event loop turns."""
        return {"live": True}

    @routes.get("/readyz", responses={HTTPStatus.SERVICE_UNAVAILABLE: {"model": HealthAnswer}})
    async def readyz(response: Response) -> HealthAnswer:
        """200 where at least one product has a version that serves, else 503 with the reasons."""
        answer = health(sources.catalogue, faults=[sources.inspector.worker.fault, sources.leaving.reason])
        if not answer.ready:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return answer

    @routes.get("/metrics", response_class=Response)
    async def exposed() -> Response:
        """Counts, times and standings, for Prometheus."""
        return Response(sources.metrics.exposed(), headers={"content-type": MEDIA_TYPE})

    return routes


def health(catalogue: Catalogue, *, faults: Iterable[str | None]) -> HealthAnswer:
    """An empty store is not ready: there is nothing to judge by; nor is a service with one of these faults."""
    standings = catalogue.standings()
    reasons = [f"{standing.product}: {standing.fault}" for standing in standings if standing.fault]
    if catalogue.fault:
        reasons.append(catalogue.fault)
    has_version = any(standing.serving for standing in standings)
    if not has_version:
        reasons.append("no product has a version that serves")
    stopping = [fault for fault in faults if fault]
    return HealthAnswer(
        ready=has_version and not stopping,
        reasons=(*reasons, *stopping),
        products=tuple(map(ProductAnswer.of, standings)),
    )
