"""create_app(settings): the only place where the service's parts are wired together."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

import anyio.to_thread
from fastapi import FastAPI

from app.api import health, inspect, problems, products
from app.draining import Leaving
from app.engine.catalogue import Catalogue
from app.engine.inspector import Inspector, Room
from app.engine.sessions import chosen_device
from app.engine.version import Loader
from app.engine.worker import Limits
from app.metrics import Metrics
from app.settings import Settings
from app.store.state import State
from app.store.store import Store

log = logging.getLogger("goodpart")


def create_app(settings: Settings) -> FastAPI:
    """The service over a store. Raises ProviderMissing where the asked device is not there."""
    device = chosen_device(settings.provider, num_threads=settings.threads)
    catalogue = Catalogue(store=Store(settings.store), state=State(settings.state_folder), loader=Loader(device))
    inspector = Inspector(max_pixels=settings.max_pixels, num_decoders=settings.decoders, room=room_of(settings))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await anyio.to_thread.run_sync(catalogue.refresh)
        following = asyncio.create_task(follow(catalogue, interval_s=settings.refresh_interval_s))
        with inspector:
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
    metrics = Metrics(catalogue=catalogue, inspector=inspector)
    problems.install(app, on_problem=metrics.refused)
    app.state.catalogue = catalogue
    app.state.leaving = leaving = Leaving()
    app.include_router(health.router(health.Sources(catalogue, inspector, metrics, leaving)))
    app.include_router(products.router(catalogue=catalogue))
    counted = inspect.Counted(on_judged=metrics.judged, on_problem=metrics.refused)
    app.include_router(inspect.router(catalogue=catalogue, inspector=inspector, settings=settings, counted=counted))
    return app


def room_of(settings: Settings) -> Room:
    """How much may be in hand, and how it is batched."""
    limits = Limits(max_batch=settings.max_batch, max_delay_s=settings.max_queue_delay_ms / 1000)
    return Room(limit=settings.max_in_hand, worker=limits)


async def follow(catalogue: Catalogue, *, interval_s: float) -> None:
    """Refresh the catalogue for ever, off the event loop."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            await anyio.to_thread.run_sync(catalogue.refresh)
        except Exception:  # whatever it was, the versions in memory go on judging, and the next look may succeed
            log.exception("the catalogue could not be refreshed")
