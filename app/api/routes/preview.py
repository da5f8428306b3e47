"""What another threshold would have done to the parts that were judged last, before anybody lets it hold."""

from datetime import UTC, datetime
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Depends, Query
from pydantic import ConfigDict, Field

from app.api.auth import Gate
from app.api.routes.inspections import existing
from app.api.routes.products import Threshold
from app.api.schemas import Answer
from app.history.journal import Journal
from app.history.records import Search
from app.inference.version import Version
from app.inspection.service import Judging
from app.store.state import Decided
from model.bundle import PromiseRecord

MOST_PARTS = 2000


class Asked(Threshold):
    """The query of a preview."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: Annotated[int, Field(ge=1, le=MOST_PARTS, description="how many of the last parts are looked at")] = 200


class PreviewAnswer(Answer):
    """The last parts that the serving version judged, by the threshold that holds and by another."""

    product: str
    version: str
    threshold_now: float
    threshold: float = Field(description="that would hold")
    promise: PromiseRecord
    num_parts: int = Field(description="parts that the history has of this version, at most as many as were asked for")
    num_ng_now: int
    num_ng: int
    become_ng: tuple[str, ...] = Field(description="inspection ids, the newest first")
    become_ok: tuple[str, ...]
    scores: tuple[float, ...] = Field(description="of these parts, the newest first")


def router(*, judging: Judging, journal: Journal | None, gate: Gate) -> APIRouter:
    """``/v1/products/{product}/threshold/preview``; any key will do.

    It changes nothing, but that it wakes a product that rests, as judging does.
    """
    routes = APIRouter(
        prefix="/v1/products", tags=["products"], dependencies=[Depends(gate.asks("inspect", "operate"))]
    )

    @routes.get("/{product}/threshold/preview")
    async def preview(product: str, asked: Annotated[Asked, Query()]) -> PreviewAnswer:
        """What a threshold, by rate or by value, would have said of the last parts."""
        kept, version = existing(journal), await judging.version(product)
        return await anyio.to_thread.run_sync(previewed, kept, version, asked)

    return routes


def previewed(journal: Journal, version: Version, asked: Asked) -> PreviewAnswer:
    """The last parts of this version, judged by both thresholds. Raises StoreUnusable."""
    decided = Decided(at=datetime.now(UTC), by="preview", why="")
    then = version.ruled(asked.override(version.name, decided))
    records = journal.found(Search(product=version.product, version=version.name), most=asked.parts)
    ng_now = {record.inspection_id for record in records if record.score > version.threshold}
    ng = {record.inspection_id for record in records if record.score > then.threshold}
    ids = [record.inspection_id for record in records]
    return PreviewAnswer(
        product=version.product,
        version=version.name,
        threshold_now=version.threshold,
        threshold=then.threshold,
        promise=then.promise,
        num_parts=len(records),
        num_ng_now=len(ng_now),
        num_ng=len(ng),
        become_ng=tuple(one for one in ids if one in ng - ng_now),
        become_ok=tuple(one for one in ids if one in ng_now - ng),
        scores=tuple(record.score for record in records),
    )
