"""Dependencies of the routes: the components of the application, as ``create_app`` has put them together.

Each one is a coroutine function, since FastAPI runs plain functions in a thread.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from app.api.assets import Asset
from app.api.idempotency import IdempotencyCache, Recorder
from app.api.keys import Keyring
from app.history.broadcast import EventBroadcaster
from app.history.journal import Journal
from app.inference.registry import ModelRegistry
from app.inspection.admission import ConcurrencyLimiter
from app.inspection.service import InspectionService
from app.server.metrics import Metrics
from app.server.shutdown import ShutdownState
from app.settings import Settings
from app.sinks.outbox import Outbox


@dataclass(frozen=True)
class Services:
    """The components of one application, in ``app.state.services``.

    ``journal``: None where no history is kept. ``heatmap_limiter``: limits heat-maps that are rendered again.
    """

    settings: Settings
    keyring: Keyring
    inspection: InspectionService
    metrics: Metrics
    shutdown_state: ShutdownState
    journal: Journal | None
    outboxes: tuple[Outbox, ...]
    recorder: Recorder
    broadcaster: EventBroadcaster
    idempotency_cache: IdempotencyCache
    heatmap_limiter: ConcurrencyLimiter
    assets: Mapping[str, Asset]

    @property
    def registry(self) -> ModelRegistry:
        """The registry of the inspection service."""
        return self.inspection.registry


async def get_services(request: Request) -> Services:
    """Return the components of the application that got the request."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]


async def get_settings(services: ServicesDep) -> Settings:
    """Return the settings."""
    return services.settings


async def get_registry(services: ServicesDep) -> ModelRegistry:
    """Return the registry."""
    return services.registry


async def get_inspection_service(services: ServicesDep) -> InspectionService:
    """Return the inspection service."""
    return services.inspection


async def get_journal(services: ServicesDep) -> Journal | None:
    """Return the journal, or None where no history is kept."""
    return services.journal


async def get_metrics(services: ServicesDep) -> Metrics:
    """Return the metrics."""
    return services.metrics


SettingsDep = Annotated[Settings, Depends(get_settings)]
RegistryDep = Annotated[ModelRegistry, Depends(get_registry)]
InspectionServiceDep = Annotated[InspectionService, Depends(get_inspection_service)]
JournalDep = Annotated[Journal | None, Depends(get_journal)]
MetricsDep = Annotated[Metrics, Depends(get_metrics)]
