"""create_app(settings): the only place where the service's parts are wired together."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from importlib.metadata import version

import anyio.to_thread
import structlog
from fastapi import FastAPI

from app.api import problems
from app.api.auth import Gate
from app.api.idempotency import Recording, Replays
from app.api.keys import Keyring, NoKeys, read_keys
from app.api.middleware import Envelope, Rules
from app.api.routes import console, feedback, health, inspect, inspections, open_inference, preview, products
from app.bootstrap import stored_by
from app.history.broadcast import Live
from app.history.journal import Journal
from app.history.records import Bounds
from app.inference.registry import Catalogue
from app.inference.sessions import chosen_device
from app.inference.version import Loader
from app.inspection.batcher import Limits
from app.inspection.drift import Drift, DriftRule
from app.inspection.pipeline import Inspector, Room
from app.inspection.service import Judging
from app.inspection.shadow import Shadows
from app.inspection.verification import proven
from app.server.metrics import Metrics, Observed
from app.server.shutdown import Leaving
from app.server.tracing import traced
from app.settings import Settings
from app.sinks.outbox import Outbox
from app.sinks.settings import BadSinks, read_sinks
from app.store.errors import StoreUnusable

log = structlog.stdlib.get_logger("goodpart")


def create_app(settings: Settings) -> FastAPI:
    """The service over a store. Raises ProviderMissing, BadKeys, BadSigningKey; then it does not start."""
    catalogue = catalogue_of(settings)
    inspector = Inspector(max_pixels=settings.max_pixels, num_decoders=settings.decoders, room=room_of(settings))
    shadows, drift = Shadows(inspector), Drift(drift_rule_of(settings))
    journal, live = journal_of(settings), Live()
    outboxes = outboxes_of(settings, journal)
    metrics = Metrics(Observed(catalogue, inspector, shadows, drift, journal, outboxes))
    judging = Judging(catalogue, inspector, shadows, drift, on_judged=metrics.judged)
    recording = Recording(journal, live, settings.keep_images, waits=bool(outboxes))
    desk = inspect.Desk(judging, recording, Replays(journal))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await anyio.to_thread.run_sync(catalogue.refresh)
        following = asyncio.create_task(follow(judging, interval_s=settings.refresh_interval_s))
        with inspector, journal or nullcontext(), delivering(journal, outboxes):
            yield
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    app = FastAPI(
        title="Goodpart",
        version=version("goodpart"),
        description="Judges parts by images: verdict, score, heat-map.",
        lifespan=lifespan,
    )
    app.add_middleware(Envelope, rules=Rules(settings.body_timeout_s, settings.health_port))
    problems.install(app, on_problem=metrics.refused)
    app.state.catalogue = catalogue
    app.state.leaving = leaving = Leaving()
    gate = Gate(keyring_of(settings))
    sources = health.Sources(catalogue, inspector, metrics, leaving, journal, outboxes)
    watch = products.Watch(drift, shadows)
    for routes in (
        health.router(sources),
        products.router(catalogue=catalogue, watch=watch, gate=gate),
        inspect.router(desk=desk, settings=settings, gate=gate, on_problem=metrics.refused),
        feedback.router(catalogue=catalogue, settings=settings, gate=gate),
        inspections.router(journal=journal, live=live, leaving=leaving, judging=judging, gate=gate),
        preview.router(judging=judging, journal=journal, gate=gate),
        console.router(),
        open_inference.health_routes(sources),
        open_inference.router(desk=desk, settings=settings, gate=gate),
    ):
        app.include_router(routes)
    if settings.otel_endpoint is not None:
        traced(app, endpoint=settings.otel_endpoint)
    return app


def catalogue_of(settings: Settings) -> Catalogue:
    """The products of the store, loaded on the device that was asked for."""
    device = chosen_device(settings.provider, num_threads=settings.threads)
    stored = stored_by(settings)
    return Catalogue(
        store=stored.store,
        state=stored.state,
        prepare=partial(proven, loader=Loader(device), max_batch=settings.max_batch),
        most_loaded=settings.max_loaded_products,
    )


def journal_of(settings: Settings) -> Journal | None:
    """Where inspections are kept, None where they are not."""
    if settings.history_records == 0:
        return None
    bounds = Bounds(records=settings.history_records, days=settings.history_days, images_mb=settings.images_mb)
    return Journal(settings.local, bounds)


def outboxes_of(settings: Settings, journal: Journal | None) -> tuple[Outbox, ...]:
    """What brings results to each sink. Raises BadSinks, also where there is no journal to bring them from."""
    if settings.sinks_file is None:
        return ()
    if journal is None:
        raise BadSinks(settings.sinks_file, "results are delivered from the history, and GOODPART_HISTORY_RECORDS is 0")
    sinks = read_sinks(settings.sinks_file, instance=settings.instance)
    return tuple(Outbox(journal, sink, instance=settings.instance) for sink in sinks)


@contextmanager
def delivering(journal: Journal | None, outboxes: Sequence[Outbox]) -> Iterator[None]:
    """Meanwhile results go out. What is owed to sinks that are not configured any more is forgotten."""
    if journal is not None:

        def wake() -> None:
            for outbox in outboxes:
                outbox.wake()

        journal.on_written = wake
        with suppress(StoreUnusable):  # a disk that takes nothing stops nobody; each outbox tries again
            journal.forget_sinks(but=[outbox.sink.name for outbox in outboxes])
            for outbox in outboxes:
                journal.begin_sink(outbox.sink.name)
    for outbox in outboxes:
        outbox.start()
    yield
    for outbox in outboxes:
        outbox.stop()
    for outbox in outboxes:
        outbox.join()


def room_of(settings: Settings) -> Room:
    """How much may be in hand, how it is batched, and which images are let in."""
    limits = Limits(max_batch=settings.max_batch, max_delay_s=settings.max_queue_delay_ms / 1000)
    return Room(limit=settings.max_in_hand, worker=limits, guard=settings.input_guard)


def drift_rule_of(settings: Settings) -> DriftRule:
    """How scores are watched."""
    return DriftRule(
        window=settings.drift_window,
        false_alarm_rate=settings.drift_false_alarm_rate,
        defect_share=settings.drift_defect_share,
    )


def keyring_of(settings: Settings) -> Keyring:
    """Who may come in. Raises BadKeys."""
    if not settings.has_keys:
        return Keyring()
    lines = settings.api_keys.get_secret_value() if settings.api_keys else None
    keyring = read_keys(file=settings.api_keys_file, lines=lines)
    if not keyring.keys:
        raise NoKeys
    return keyring


async def follow(judging: Judging, *, interval_s: float) -> None:
    """Refresh the catalogue for ever, off the event loop; and see whether a device that was in trouble still is."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            await anyio.to_thread.run_sync(judging.catalogue.refresh)
            await judging.try_device()
        except Exception:  # whatever it was, the versions in memory go on judging, and the next look may succeed
            log.exception("the catalogue could not be refreshed")
