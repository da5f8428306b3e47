"""Routes for past inspections, as pages or CSV, and for live ones as server-sent events."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.api.auth import RequireScope
from app.api.deps import JournalDep, ServicesDep
from app.api.problems import RequestError
from app.history.broadcast import EventBroadcaster
from app.history.journal import Journal
from app.history.records import InspectionRecord, Search, StoredImage, Verdict, to_json_fields
from app.inspection.pipeline import InspectOptions
from app.server.shutdown import ShutdownState
from app.store.files import escape_cell

MAX_PAGE_SIZE, CSV_BATCH_SIZE = 500, 1000
CSV_COLUMNS = (
    "sequence",
    "at",
    "inspection_id",
    "part_id",
    "product",
    "version",
    "verdict",
    "score",
    "threshold",
    "p_value",
)
# Interval of keep-alive comments on an idle stream, and of checks for a shutdown.
HEARTBEAT_S = 1.0

router = APIRouter(
    prefix="/v1/inspections", tags=["inspections"], dependencies=[Depends(RequireScope("inspect", "operate"))]
)


class InspectionFilter(BaseModel):
    """The query of a search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    product: str | None = None
    version: str | None = None
    part_id: str | None = None
    verdict: Verdict | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    before: Annotated[int | None, Field(ge=1, description="'next' of the previous page")] = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE)] = 50
    format: Literal["json", "csv"] = "json"

    def to_search(self) -> Search:
        """Return the search for the journal."""
        return Search(
            product=self.product,
            version=self.version,
            part_id=self.part_id,
            verdict=self.verdict,
            since=self.since.timestamp() if self.since else None,
            until=self.until.timestamp() if self.until else None,
            before=self.before,
        )


class InspectionsResponse(BaseModel):
    """A page, newest first. ``next``: the value of ``before`` for the following page, or null."""

    items: list[dict[str, Any]]
    next: int | None


@router.get("", response_model=InspectionsResponse)
async def inspections(query: Annotated[InspectionFilter, Query()], journal: JournalDep) -> Response:
    """What was judged, the newest first; as CSV, all that match."""
    existing, search = require_journal(journal), query.to_search()
    if query.format == "csv":
        named = {"Content-Disposition": 'attachment; filename="inspections.csv"'}
        return StreamingResponse(stream_csv(existing, search), media_type="text/csv", headers=named)
    text = await anyio.to_thread.run_sync(read_page, existing, search, query.limit)
    return Response(text, media_type="application/json")


@router.get("/live", response_class=StreamingResponse)
async def live_inspections(services: ServicesDep) -> Response:
    """Each inspection as it is made (server-sent events); one that can't keep up misses some."""
    services.broadcaster.check_capacity()
    events = stream_events(services.broadcaster, services.shutdown_state)
    return StreamingResponse(events, media_type="text/event-stream")


@router.get("/{inspection_id}")
async def inspection(inspection_id: str, journal: JournalDep) -> dict[str, Any]:
    """One record."""
    return to_json_fields(await anyio.to_thread.run_sync(read_record, require_journal(journal), inspection_id))


@router.get("/{inspection_id}/image", response_class=Response)
async def image(inspection_id: str, journal: JournalDep) -> Response:
    """The image as it came, where images are kept."""
    picture = await anyio.to_thread.run_sync(read_image, require_journal(journal), inspection_id)
    return Response(picture.data, media_type=picture.media_type)


@router.get("/{inspection_id}/heatmap", response_class=Response)
async def heatmap(inspection_id: str, services: ServicesDep) -> Response:
    """The heat-map as a PNG: the kept image is looked at once more by its version, which counts nowhere.

    Only while no live image waits, and one at a time; else 503.
    """
    journal, service = require_journal(services.journal), services.inspection
    picture = await anyio.to_thread.run_sync(read_image, journal, inspection_id)
    record = await anyio.to_thread.run_sync(read_record, journal, inspection_id)
    with services.heatmap_limiter.slot():
        if not service.inspector.is_idle:
            raise service.inspector.queue_full_error()
        version = await service.get_version(record.product, record.version)
        again = await service.inspector.inspect(picture.data, version, InspectOptions(heatmap="png"))
    if again.heatmap is None:
        raise no_image_error(inspection_id)
    return Response(again.heatmap.data, media_type=again.heatmap.media_type)


def read_record(journal: Journal, inspection_id: str) -> InspectionRecord:
    """Return a record. Raises RequestError, StoreUnusable."""
    record = journal.read_record(inspection_id)
    if record is None:
        raise RequestError(f"no inspection '{inspection_id[:64]}' is kept", kind="unknown-inspection")
    return record


def read_image(journal: Journal, inspection_id: str) -> StoredImage:
    """Return the image of a record. Raises RequestError, StoreUnusable."""
    picture = journal.read_image(inspection_id)
    if picture is None:
        raise no_image_error(inspection_id)
    return picture


def no_image_error(inspection_id: str) -> RequestError:
    """Return the error of a record without its image."""
    return RequestError(
        f"the image of inspection '{inspection_id[:64]}' is not kept: see GOODPART_KEEP_IMAGES", kind="no-image"
    )


def require_journal(journal: Journal | None) -> Journal:
    """Return the journal. Raises RequestError."""
    if journal is None:
        raise RequestError("this service keeps no history: GOODPART_HISTORY_RECORDS is 0", kind="no-history")
    return journal


async def stream_events(broadcaster: EventBroadcaster, shutdown_state: ShutdownState) -> AsyncIterator[str]:
    """Yield server-sent events, with a comment every ``HEARTBEAT_S`` so that dead connections are noticed."""
    async with broadcaster.subscribe() as waiting:
        yield ": watching\n\n"
        while shutdown_state.since is None:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    message = await waiting.get()
            except TimeoutError:
                yield ": still watching\n\n"
            else:
                yield f"event: inspection\ndata: {message}\n\n"


def read_page(journal: Journal, search: Search, limit: int) -> str:
    """Return a page as JSON. Raises StoreUnusable."""
    found = journal.search(search, limit=limit + 1)
    shown = found[:limit]
    following = shown[-1].sequence if len(found) > limit else None
    return InspectionsResponse(items=[to_json_fields(record) for record in shown], next=following).model_dump_json()


def stream_csv(journal: Journal, search: Search) -> Iterator[str]:
    """Yield all matching records as CSV, a batch at a time."""
    yield format_rows([CSV_COLUMNS])
    while found := journal.search(search, limit=CSV_BATCH_SIZE):
        yield format_rows(map(to_row, found))
        search = replace(search, before=found[-1].sequence)


def to_row(record: InspectionRecord) -> Sequence[object]:
    """Return the cells of a record."""
    at = datetime.fromtimestamp(record.at).astimezone().isoformat(timespec="milliseconds")
    fields = {**to_json_fields(record), "at": at}
    return [escape_cell(fields.get(column)) for column in CSV_COLUMNS]


def format_rows(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV text."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
