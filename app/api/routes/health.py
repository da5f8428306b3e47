"""Routes for orchestrators: is the process alive, can it judge."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import APIRouter, Response

from app.api.schemas import HealthAnswer, ReadyProductAnswer
from app.history.journal import Journal
from app.inference.registry import Catalogue, Standing
from app.inspection.pipeline import Inspector
from app.server.metrics import MEDIA_TYPE, Metrics
from app.server.shutdown import Leaving
from app.sinks.outbox import Outbox


@dataclass(frozen=True)
class Sources:
    """What health is read from, all of it memory."""

    catalogue: Catalogue
    inspector: Inspector
    metrics: Metrics
    leaving: Leaving
    journal: Journal | None = None
    outboxes: Sequence[Outbox] = ()


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
        answer = health_of(sources)
        if not answer.ready:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return answer

    @routes.get("/metrics", response_class=Response)
    async def exposed() -> Response:
        """Counts, times and standings, for Prometheus."""
        return Response(sources.metrics.exposed(), headers={"content-type": MEDIA_TYPE})

    return routes


def health_of(sources: Sources) -> HealthAnswer:
    """The state of things now."""
    worker = sources.inspector.worker
    faults = [worker.fault, worker.trouble, sources.leaving.reason]
    troubles = [f"sink {one.sink.name}: {one.trouble}" for one in sources.outboxes if one.trouble]
    if sources.journal is not None and sources.journal.trouble is not None:
        troubles.append(sources.journal.trouble)
    return health(sources.catalogue, faults=faults, troubles=troubles)


def health(catalogue: Catalogue, *, faults: Iterable[str | None], troubles: Sequence[str] = ()) -> HealthAnswer:
    """An empty store is not ready: there is nothing to judge by; nor is a service with one of these faults.

    ``troubles``: what stops nobody, and somebody should know.
    """
    standings = catalogue.standings()
    reasons = [f"{standing.product}: {standing.fault}" for standing in standings if standing.fault]
    reasons += [one for one in (catalogue.fault, *troubles) if one]
    has_version = any(standing.serving or standing.is_resting for standing in standings)
    if not has_version:
        reasons.append("no product has a version that serves")
    stopping = [fault for fault in faults if fault]
    return HealthAnswer(
        ready=has_version and not stopping,
        reasons=(*reasons, *stopping),
        products=tuple(ready_product(standing) for standing in standings),
    )


def ready_product(standing: Standing) -> ReadyProductAnswer:
    """A product, as an orchestrator wants to know of it."""
    serving = standing.serving.name if standing.serving else None
    return ReadyProductAnswer(product=standing.product, serving=serving, fault=standing.fault)
