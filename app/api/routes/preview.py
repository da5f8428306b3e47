"""What another threshold would have done to the last inspected parts."""

from datetime import UTC, datetime
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Depends, Query
from pydantic import ConfigDict, Field

from app.api.auth import RequireScope
from app.api.deps import InspectionServiceDep, JournalDep
from app.api.routes.inspections import require_journal
from app.api.routes.products import ThresholdQuery
from app.api.schemas import ResponseModel
from app.history.journal import Journal
from app.history.records import Search
from app.inference.version import Version
from app.store.state import Decision
from model.bundle import PromiseRecord

MAX_PARTS = 2000

router = APIRouter(prefix="/v1/products", tags=["products"], dependencies=[Depends(RequireScope("inspect", "operate"))])


class PreviewQuery(ThresholdQuery):
    """The query of a preview."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: Annotated[int, Field(ge=1, le=MAX_PARTS, description="number of last parts to preview")] = 200


class PreviewResponse(ResponseModel):
    """The last parts of the serving version, by the current and by another threshold."""

    product: str
    version: str
    threshold_now: float
    threshold: float = Field(description="threshold previewed")
    promise: PromiseRecord
    num_parts: int = Field(description="parts of this version found in the history, at most the requested number")
    num_ng_now: int
    num_ng: int
    become_ng: tuple[str, ...] = Field(description="inspection ids, the newest first")
    become_ok: tuple[str, ...]
    scores: tuple[float, ...] = Field(description="of these parts, the newest first")


@router.get("/{product}/threshold/preview")
async def preview(
    product: str, query: Annotated[PreviewQuery, Query()], service: InspectionServiceDep, journal: JournalDep
) -> PreviewResponse:
    """What a threshold, by rate or by value, would have said of the last parts."""
    existing = require_journal(journal)
    version = await service.get_version(product)  # loads an evicted product, as an inspection does
    return await anyio.to_thread.run_sync(compute_preview, existing, version, query)


def compute_preview(journal: Journal, version: Version, query: PreviewQuery) -> PreviewResponse:
    """Apply both thresholds to the last parts of this version. Raises StoreUnusable."""
    decided = Decision(at=datetime.now(UTC), by="preview", why="")
    then = version.with_override(query.to_override(version.name, decided))
    records = journal.search(Search(product=version.product, version=version.name), limit=query.parts)
    ng_now = {record.inspection_id for record in records if record.score > version.threshold}
    ng = {record.inspection_id for record in records if record.score > then.threshold}
    ids = [record.inspection_id for record in records]
    return PreviewResponse(
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
