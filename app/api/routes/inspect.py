"""Routes that inspect images."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Annotated, Self, TypeVar
from uuid import uuid4

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api import problems, uploads
from app.api.auth import RequireScope, get_key_name
from app.api.deps import Services, ServicesDep
from app.api.idempotency import IdempotentRequest
from app.api.schemas import BatchResponse, InspectionResponse, ProblemResponse
from app.errors import deadline_error
from app.imaging.heatmap import HeatmapKind
from app.inference.version import Version
from app.inspection.pipeline import Inspection, InspectOptions, Timings
from app.inspection.service import bind_log_context
from model.bundle import GoodpartError

Result = TypeVar("Result")

router = APIRouter(prefix="/v1/products/{product}", tags=["inspect"], dependencies=[Depends(RequireScope("inspect"))])

FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["image"],
            "properties": {"image": {"type": "string", "format": "binary"}},
        }
    }
}
RAW = {"image/*": {"schema": {"type": "string", "format": "binary"}}}
BATCH_FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["image"],
            "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
        }
    }
}


PartId = Annotated[str | None, Field(max_length=128, description="id of the part; returned and logged")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=128,
        description="unique key of this request; a repeated request gets the first response",
    ),
]
DeadlineMs = Annotated[
    float | None, Header(gt=0, le=3_600_000, description="maximum time that the image may wait, in milliseconds")
]


class InspectQuery(BaseModel):
    """The query of an inspection. A model, since FastAPI runs a plain dependency in a thread."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    heatmap: Annotated[HeatmapKind, Field(description="format of the heat-map, or 'none'")] = "png"
    part_id: PartId = None
    version: Annotated[str | None, Field(description="version to use instead of the active one")] = None
    min_region_area_px: Annotated[int, Field(ge=0)] = 0
    explain: Annotated[bool, Field(description="explain each region by the good patches recalled there")] = False

    def __repr_name__(self) -> str:
        """Return the class's name of earlier releases: journals keep digests of the representation."""
        return "Asked"

    def to_options(self) -> InspectOptions:
        """Return the options of the inspection."""
        return InspectOptions(heatmap=self.heatmap, explain=self.explain, min_region_area_px=self.min_region_area_px)


def compute_deadline(requested_ms: float | None, *, default_ms: float) -> float:
    """Return the deadline by ``time.monotonic``, counted from now."""
    return time.monotonic() + (requested_ms or default_ms) / 1000


@dataclass(frozen=True)
class RequestIds:
    """The ids of an inspection; ``request_id`` is the client's where it sent one."""

    request_id: str
    part_id: str | None

    @classmethod
    def from_request(cls, request: Request, *, part_id: str | None) -> Self:
        """Return the ids of a request."""
        return cls(request_id=request.state.request_id, part_id=part_id)

    def to_response(self, inspection: Inspection) -> InspectionResponse:
        """Return the response with its ids."""
        return InspectionResponse.from_inspection(
            inspection,
            inspection_id=uuid4().hex,
            request_id=self.request_id,
            part_id=self.part_id,
        )


@router.post(
    "/inspect",
    response_model=InspectionResponse,
    openapi_extra={"requestBody": {"required": True, "content": {**FORM, **RAW}}},
)
async def inspect(
    product: str,
    request: Request,
    query: Annotated[InspectQuery, Query()],
    services: ServicesDep,
    x_deadline_ms: DeadlineMs = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Inspect one image: raw bytes with an image media type, or the form field ``image``."""
    deadline = compute_deadline(x_deadline_ms, default_ms=services.settings.deadline_ms)
    version = await services.inspection.get_version(product, query.version)
    with services.inspection.inspector.admit():
        data = await uploads.read_image(request, limit_bytes=services.settings.max_upload_bytes)
        image = ImageRequest(request, services, query, version, data, deadline)
        if idempotency_key is None:
            text = await image.inspect()
        else:
            holder = await get_key_name(request)
            text = await image.inspect_once(
                IdempotentRequest.from_parts(idempotency_key, holder=holder, product=product, query=query, data=data)
            )
    # Serialised here, since FastAPI would validate the response again.
    return Response(text, media_type="application/json", headers=image.headers)


@dataclass
class ImageRequest:
    """A request with one image, which has been admitted. ``headers``: those of the response so far."""

    request: Request
    services: Services
    query: InspectQuery
    version: Version
    data: bytes
    deadline: float
    headers: dict[str, str] = field(default_factory=dict)

    async def inspect(self, idempotent_request: IdempotentRequest | None = None) -> str:
        """Inspect and record the image, and return the text of the response."""
        inspection = await cancel_on_disconnect(
            self.request,
            self.services.inspection.inspect_admitted(
                self.data, self.version, self.query.to_options(), deadline=self.deadline
            ),
        )
        bind_log_context(inspection, part_id=self.query.part_id)
        self.headers["Server-Timing"] = format_server_timing(inspection.timings)
        answer = RequestIds.from_request(self.request, part_id=self.query.part_id).to_response(inspection)
        whole = answer.model_dump_json()
        await self.services.recorder.record(answer, self.data, idempotent_request, whole=whole)
        return whole

    async def inspect_once(self, idempotent_request: IdempotentRequest) -> str:
        """As ``inspect``; a repeated request gets the text of the first response."""
        compute = partial(self.inspect, idempotent_request)
        wait = partial(wait_for_answer, self.request, deadline=self.deadline)
        text, is_replayed = await self.services.idempotency_cache.get_or_compute(idempotent_request, compute, wait)
        self.headers["Idempotency-Replayed"] = str(is_replayed).lower()
        return text


@router.post("/inspect/batch", openapi_extra={"requestBody": {"required": True, "content": BATCH_FORM}})
async def inspect_batch(
    product: str,
    request: Request,
    query: Annotated[InspectQuery, Query()],
    services: ServicesDep,
    x_deadline_ms: DeadlineMs = None,
) -> BatchResponse:
    """Inspect every file of the repeated field ``image``. A file that can't be inspected yields a problem."""
    settings, service = services.settings, services.inspection
    version = await service.get_version(product, query.version)
    batch = BatchRequest(
        services,
        query,
        version,
        ids=RequestIds.from_request(request, part_id=query.part_id),
        deadline=compute_deadline(x_deadline_ms, default_ms=settings.deadline_ms) if x_deadline_ms else None,
        turns=asyncio.Semaphore(service.max_concurrent_per_request),
    )
    with service.batch_slot():
        images = await uploads.read_images(
            request, limit_bytes=settings.max_batch_upload_bytes, max_images=settings.max_batch_images
        )
        items = await cancel_on_disconnect(request, asyncio.gather(*map(batch.inspect_item, images)))
    return BatchResponse(items=tuple(items))


@dataclass(frozen=True)
class BatchRequest:
    """A request with many images. ``deadline``: None where each image has its own, from its turn on."""

    services: Services
    query: InspectQuery
    version: Version
    ids: RequestIds
    deadline: float | None
    turns: asyncio.Semaphore

    async def inspect_item(self, data: bytes) -> InspectionResponse | ProblemResponse:
        """Inspect and record one image in its turn, and return its response or its problem."""
        services = self.services
        try:
            async with self.turns:
                deadline = self.deadline or compute_deadline(None, default_ms=services.settings.deadline_ms)
                inspection = await services.inspection.inspect(
                    data, self.version, self.query.to_options(), deadline=deadline
                )
        except GoodpartError as error:
            problem = problems.problem_from_error(error)
            services.metrics.count_refusal(error.kind)
            return ProblemResponse.model_validate(problem)
        answer = self.ids.to_response(inspection)
        await services.recorder.record(answer, data)
        return answer


async def wait_for_answer(request: Request, answer: Awaitable[str | None], *, deadline: float) -> str | None:
    """Wait for the answer to the same request. Raises EngineError, RequestError."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return await cancel_on_disconnect(request, answer)
    except TimeoutError:
        raise deadline_error() from None


def format_server_timing(timings: Timings) -> str:
    """Return the ``Server-Timing`` header: milliseconds by step."""
    return ", ".join(f"{step};dur={spent_ms}" for step, spent_ms in asdict(timings).items())


async def cancel_on_disconnect(request: Request, work: Awaitable[Result]) -> Result:
    """Await ``work``, and cancel it where the client disconnects first. Raises RequestError."""
    work = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(wait_for_disconnect(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise problems.client_gone_error()
        return await work
    finally:
        for task in (work, gone):
            task.cancel()


async def wait_for_disconnect(request: Request) -> None:
    """Return once the client has disconnected. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
