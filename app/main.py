"""create_app(settings): the only place where the service's parts are wired together."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from importlib.metadata import version

import anyio.to_thread
import structlog
from fastapi import FastAPI

from app.api import problems
from app.api.assets import read_assets
from app.api.deps import Services
from app.api.idempotency import IdempotencyCache, Recorder
from app.api.keys import Keyring, read_keys
from app.api.middleware import MiddlewareSettings, RequestContextMiddleware
from app.api.routes import console, feedback, health, inspect, inspections, open_inference, preview, products
from app.bootstrap import open_store
from app.errors import SettingsError
from app.history.broadcast import EventBroadcaster
from app.history.journal import Journal
from app.history.records import RetentionPolicy
from app.inference.registry import ModelRegistry, ReloadOutcome
from app.inference.sessions import choose_device
from app.inference.version import Loader
from app.inspection.admission import ConcurrencyLimiter
from app.inspection.batcher import BatchLimits
from app.inspection.drift import DriftMonitor, DriftRule
from app.inspection.inspector import AdmissionLimits, Inspector
from app.inspection.service import InspectionService
from app.inspection.shadow import ShadowRunner
from app.inspection.verification import load_verified
from app.server.metrics import Metrics, StateCollector
from app.server.shutdown import ShutdownState
from app.server.tracing import instrument
from app.settings import Settings
from app.sinks.outbox import Outbox
from app.sinks.settings import read_sinks, sinks_error
from app.store.errors import StoreUnusable

log = structlog.stdlib.get_logger("goodpart")

ROUTERS = (
    health.router,
    products.router,
    inspect.router,
    feedback.router,
    inspections.router,
    preview.router,
    console.router,
    open_inference.health_router,
    open_inference.router,
)


def create_app(settings: Settings) -> FastAPI:
    """Create the service. Raises ModelError, SettingsError."""
    services = create_services(settings)
    app = FastAPI(
        title="Goodpart",
        version=version("goodpart"),
        description="Judges parts by images: verdict, score, heat-map.",
        lifespan=lifespan,
    )
    app.state.services = services
    app.add_middleware(
        RequestContextMiddleware, rules=MiddlewareSettings(settings.body_timeout_s, settings.health_port)
    )
    problems.install_handlers(app, on_problem=services.metrics.count_refusal)
    for router in ROUTERS:
        app.include_router(router)
    if settings.otel_endpoint is not None:
        instrument(app, endpoint=settings.otel_endpoint)
    return app


def create_services(settings: Settings) -> Services:
    """Create the components: first the counters, which the others call, and last what reads the state of all.

    Raises ModelError, SettingsError.
    """
    metrics = Metrics()
    registry = create_registry(settings, on_reload=metrics.count_reload)
    inspector = Inspector(
        max_pixels=settings.max_pixels,
        num_decoders=settings.decoders,
        limits=make_admission_limits(settings),
        on_batch=metrics.count_batch,
    )
    shadows, drift = ShadowRunner(inspector), DriftMonitor(make_drift_rule(settings))
    outboxes: list[Outbox] = []  # filled below, since an outbox needs the journal
    journal = create_journal(settings, on_written=partial(wake_all, outboxes))
    outboxes += create_outboxes(settings, journal)
    broadcaster = EventBroadcaster()
    metrics.register(StateCollector(registry, inspector, shadows, drift, journal, outboxes))
    return Services(
        settings=settings,
        keyring=read_keyring(settings),
        inspection=InspectionService(registry, inspector, shadows, drift, on_inspected=metrics.count_inspection),
        metrics=metrics,
        shutdown_state=ShutdownState(),
        journal=journal,
        outboxes=tuple(outboxes),
        recorder=Recorder(journal, broadcaster, settings.keep_images, waits=bool(outboxes)),
        broadcaster=broadcaster,
        idempotency_cache=IdempotencyCache(journal),
        heatmap_limiter=ConcurrencyLimiter(1, inspector.queue_full_error),
        assets=read_assets(),
    )


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the versions that serve, then follow the state, inspect, record and deliver until the shutdown."""
    services: Services = app.state.services
    service, journal = services.inspection, services.journal
    await anyio.to_thread.run_sync(service.registry.refresh)
    following = asyncio.create_task(refresh_forever(service, interval_s=services.settings.refresh_interval_s))
    with service.inspector, journal or nullcontext(), run_outboxes(journal, services.outboxes):
        yield
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


def create_registry(
    settings: Settings, *, on_reload: Callable[[str, ReloadOutcome], None] = lambda _product, _outcome: None
) -> ModelRegistry:
    """Create the registry on the requested device."""
    device = choose_device(settings.provider, num_threads=settings.threads)
    stored = open_store(settings)
    return ModelRegistry(
        store=stored.store,
        state=stored.state,
        prepare=partial(load_verified, loader=Loader(device), max_batch=settings.max_batch),
        max_loaded=settings.max_loaded_products,
        on_reload=on_reload,
    )


def create_journal(settings: Settings, *, on_written: Callable[[], None]) -> Journal | None:
    """Create the journal, or None where no history is kept."""
    if settings.history_records == 0:
        return None
    bounds = RetentionPolicy(records=settings.history_records, days=settings.history_days, images_mb=settings.images_mb)
    return Journal(settings.local, bounds, on_written=on_written)


def create_outboxes(settings: Settings, journal: Journal | None) -> tuple[Outbox, ...]:
    """Create the outbox of each sink. Raises SettingsError, also where there is no journal."""
    if settings.sinks_file is None:
        return ()
    if journal is None:
        raise sinks_error(
            settings.sinks_file, "results are delivered from the history, and GOODPART_HISTORY_RECORDS is 0"
        )
    sinks = read_sinks(settings.sinks_file, instance=settings.instance)
    return tuple(Outbox(journal, sink, instance=settings.instance) for sink in sinks)


def wake_all(outboxes: Sequence[Outbox]) -> None:
    """Signal new records to every outbox; from any thread."""
    for outbox in outboxes:
        outbox.wake()


@contextmanager
def run_outboxes(journal: Journal | None, outboxes: Sequence[Outbox]) -> Iterator[None]:
    """Deliver results meanwhile. Cursors of sinks that are no longer configured are removed."""
    if journal is not None:
        with suppress(StoreUnusable):  # a full disk does not stop the service; each outbox retries
            journal.cursors.remove_others(keep=[outbox.sink.name for outbox in outboxes])
            for outbox in outboxes:
                journal.cursors.register(outbox.sink.name)
    for outbox in outboxes:
        outbox.start()
    yield
    for outbox in outboxes:
        outbox.stop()
    for outbox in outboxes:
        outbox.join()


def make_admission_limits(settings: Settings) -> AdmissionLimits:
    """Return the limits by the settings."""
    limits = BatchLimits(max_batch=settings.max_batch, max_delay_s=settings.max_queue_delay_ms / 1000)
    return AdmissionLimits(max_in_flight=settings.max_in_hand, batching=limits, guard=settings.input_guard)


def make_drift_rule(settings: Settings) -> DriftRule:
    """Return the drift test by the settings."""
    return DriftRule(
        window=settings.drift_window,
        false_alarm_rate=settings.drift_false_alarm_rate,
        defect_share=settings.drift_defect_share,
    )


def read_keyring(settings: Settings) -> Keyring:
    """Read the API keys. Raises SettingsError."""
    if not settings.has_keys:
        return Keyring()
    lines = settings.api_keys.get_secret_value() if settings.api_keys else None
    keyring = read_keys(file=settings.api_keys_file, lines=lines)
    if not keyring.keys:
        raise SettingsError("the key file or setting contains no key; create one with `goodpart key`")
    return keyring


async def refresh_forever(service: InspectionService, *, interval_s: float) -> None:
    """Refresh the registry in intervals, off the event loop, and probe a failing device."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            await anyio.to_thread.run_sync(service.registry.refresh)
            await service.probe_device()
        except Exception:  # after any error the versions in memory keep serving, and the next refresh may succeed
            log.exception("the registry could not be refreshed")
