"""Routes that tell of inspections: those that were, page by page or as CSV, and those that are being made."""

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

from app.api.auth import Gate
from app.api.problems import NoHistory, NoImage, UnknownInspection
from app.history.broadcast import Live
from app.history.journal import Journal
from app.history.records import Picture, Record, Search, Verdict, members
from app.inspection.admission import Places
from app.inspection.pipeline import Wish
from app.inspection.service import Judging
from app.server.shutdown import Leaving
from app.store.files import safe

MOST_A_PAGE, ROWS_TOGETHER = 500, 1000
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
# How often a silent connection is told that it still is one, and looks whether the service is leaving.
HEARTBEAT_S = 1.0


class Asked(BaseModel):
    """The query of a search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    product: str | None = None
    version: str | None = None
    part_id: str | None = None
    verdict: Verdict | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    before: Annotated[int | None, Field(ge=1, description="the 'next' of the page before")] = None
    limit: Annotated[int, Field(ge=1, le=MOST_A_PAGE)] = 50
    format: Literal["json", "csv"] = "json"

    def search(self) -> Search:
        """What the journal is asked."""
        return Search(
            product=self.product,
            version=self.version,
            part_id=self.part_id,
            verdict=self.verdict,
            since=self.since.timestamp() if self.since else None,
            until=self.until.timestamp() if self.until else None,
            before=self.before,
        )


class InspectionsAnswer(BaseModel):
    """A page, the newest first. ``next``: what ``before`` must be for the following page, null at the end."""

    items: list[dict[str, Any]]
    next: int | None


def router(*, journal: Journal | None, live: Live, leaving: Leaving, judging: Judging, gate: Gate) -> APIRouter:
    """``/v1/inspections``; any key will do."""
    routes = APIRouter(
        prefix="/v1/inspections", tags=["inspections"], dependencies=[Depends(gate.asks("inspect", "operate"))]
    )
    searching(routes, journal)
    watching(routes, live, leaving)
    telling(routes, journal, judging)
    return routes


def searching(routes: APIRouter, journal: Journal | None) -> None:
    """Many records."""

    @routes.get("", response_model=InspectionsAnswer)
    async def inspections(asked: Annotated[Asked, Query()]) -> Response:
        """What was judged, the newest first; as CSV, all that match."""
        kept, search = existing(journal), asked.search()
        if asked.format == "csv":
            named = {"Content-Disposition": 'attachment; filename="inspections.csv"'}
            return StreamingResponse(written(kept, search), media_type="text/csv", headers=named)
        return Response(await anyio.to_thread.run_sync(page, kept, search, asked.limit), media_type="application/json")


def watching(routes: APIRouter, live: Live, leaving: Leaving) -> None:
    """What is being judged now."""

    @routes.get("/live", response_class=StreamingResponse)
    async def watched() -> Response:
        """Each inspection as it is made (server-sent events); one that can't keep up misses some."""
        live.check_room()
        return StreamingResponse(events(live, leaving), media_type="text/event-stream")


def telling(routes: APIRouter, journal: Journal | None, judging: Judging) -> None:
    """One record, its image, and the heat-map that the image gives again."""
    one_at_a_time = Places(1, judging.inspector.refusal)

    @routes.get("/{inspection_id}")
    async def inspection(inspection_id: str) -> dict[str, Any]:
        """One record."""
        record = await anyio.to_thread.run_sync(existing(journal).record, inspection_id)
        if record is None:
            raise UnknownInspection(inspection_id)
        return members(record)

    @routes.get("/{inspection_id}/image", response_class=Response)
    async def image(inspection_id: str) -> Response:
        """The image as it came, where images are kept."""
        picture = await anyio.to_thread.run_sync(kept_picture, existing(journal), inspection_id)
        return Response(picture.data, media_type=picture.media_type)

    @routes.get("/{inspection_id}/heatmap", response_class=Response)
    async def heatmap(inspection_id: str) -> Response:
        """The heat-map as a PNG: the kept image is looked at once more by its version, which counts nowhere.

        Only while no live image waits, and one at a time; else 503.
        """
        kept = existing(journal)
        picture = await anyio.to_thread.run_sync(kept_picture, kept, inspection_id)
        record = await anyio.to_thread.run_sync(kept.record, inspection_id)
        if record is None:
            raise UnknownInspection(inspection_id)
        with one_at_a_time.taken():
            if not judging.inspector.is_idle:
                raise judging.inspector.refusal()
            version = await judging.version(record.product, record.version)
            again = await judging.inspector.inspect(picture.data, version, Wish(heatmap="png"))
        if again.heatmap is None:
            raise NoImage(inspection_id)
        return Response(again.heatmap.data, media_type=again.heatmap.media_type)


def kept_picture(journal: Journal, inspection_id: str) -> Picture:
    """The image of a record. Raises NoImage, StoreUnusable."""
    picture = journal.picture(inspection_id)
    if picture is None:
        raise NoImage(inspection_id)
    return picture


def existing(journal: Journal | None) -> Journal:
    """The journal; raises NoHistory."""
    if journal is None:
        raise NoHistory
    return journal


async def events(live: Live, leaving: Leaving) -> AsyncIterator[str]:
    """Server-sent events, with a comment now and then so that a dead connection is noticed."""
    async with live.watching() as waiting:
        yield ": watching\n\n"
        while leaving.since is None:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    message = await waiting.get()
            except TimeoutError:
                yield ": still watching\n\n"
            else:
                yield f"event: inspection\ndata: {message}\n\n"


def page(journal: Journal, search: Search, limit: int) -> str:
    """A page as JSON. Raises StoreUnusable."""
    found = journal.found(search, most=limit + 1)
    shown = found[:limit]
    following = shown[-1].sequence if len(found) > limit else None
    return InspectionsAnswer(items=[members(record) for record in shown], next=following).model_dump_json()


def written(journal: Journal, search: Search) -> Iterator[str]:
    """All that match as CSV, a row each, some at a time."""
    yield lines_of([CSV_COLUMNS])
    while found := journal.found(search, most=ROWS_TOGETHER):
        yield lines_of(map(row_of, found))
        search = replace(search, before=found[-1].sequence)


def row_of(record: Record) -> Sequence[object]:
    """A record's cells."""
    at = datetime.fromtimestamp(record.at).astimezone().isoformat(timespec="milliseconds")
    told = {**members(record), "at": at}
    return [safe(told.get(column)) for column in CSV_COLUMNS]


def lines_of(rows: Iterable[Sequence[object]]) -> str:
    """Rows as text."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
