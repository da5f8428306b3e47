"""Routes that inspect images."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, TypeVar
from uuid import uuid4

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api import problems, uploads
from app.api.auth import ApiKeyAuth, KeyName
from app.api.idempotency import IdempotencyCache, IdempotentRequest, Recorder
from app.api.schemas import BatchResponse, InspectionResponse, ProblemResponse
from app.errors import deadline_error
from app.imaging.heatmap import HeatmapKind
from app.inspection.pipeline import Inspection, InspectOptions, Timings
from app.inspection.service import InspectionService, bind_log_context
from app.settings import Settings
from model.bundle import GoodpartError

Result = TypeVar("Result")

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

    def to_response(self, inspection: Inspection) -> InspectionResponse:
        """Return the response with its ids."""
        return InspectionResponse.from_inspection(
            inspection,
            inspection_id=uuid4().hex,
            request_id=self.request_id,
            part_id=self.part_id,
        )


@dataclass(frozen=True)
class InspectDeps:
    """What the inspect routes depend on."""

    service: InspectionService
    recorder: Recorder
    cache: IdempotencyCache


def router(*, deps: InspectDeps, settings: Settings, auth: ApiKeyAuth, on_problem: Callable[[str], None]) -> APIRouter:
    """Return ``/v1/products/{product}/inspect`` and its batch.

    ``on_problem`` gets the slug of a problem within a batch.
    """
    routes = APIRouter(
        prefix="/v1/products/{product}", tags=["inspect"], dependencies=[Depends(auth.require_scope("inspect"))]
    )
    add_single_route(routes, deps, settings)
    add_batch_route(routes, deps, settings, on_problem)
    return routes


def add_single_route(routes: APIRouter, deps: InspectDeps, settings: Settings) -> None:
    """Add the route for one image."""
    service = deps.service

    @routes.post(
        "/inspect",
        response_model=InspectionResponse,
        openapi_extra={"requestBody": {"required": True, "content": {**FORM, **RAW}}},
    )
    async def inspect(  # FastAPI hands over one argument a part of the request
        product: str,
        request: Request,
        query: Annotated[InspectQuery, Query()],
        key: KeyName,
        x_deadline_ms: DeadlineMs = None,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """Inspect one image: raw bytes with an image media type, or the form field ``image``."""
        deadline = compute_deadline(x_deadline_ms, default_ms=settings.deadline_ms)
        version = await service.get_version(product, query.version)
        headers: dict[str, str] = {}

        async def inspect_once(data: bytes, idempotent_request: IdempotentRequest | None = None) -> str:
            inspection = await cancel_on_disconnect(
                request, service.inspect_admitted(data, version, query.to_options(), deadline=deadline)
            )
            bind_log_context(inspection, part_id=query.part_id)
            headers["Server-Timing"] = format_server_timing(inspection.timings)
            answer = get_ids(request, query).to_response(inspection)
            whole = answer.model_dump_json()
            await deps.recorder.record(answer, data, idempotent_request, whole=whole)
            return whole

        with service.inspector.admit():
            data = await uploads.read_image(request, limit_bytes=settings.max_upload_bytes)
            if idempotency_key is None:
                text = await inspect_once(data)
            else:
                idempotent_request = IdempotentRequest.from_parts(
                    idempotency_key, holder=key, product=product, query=query, data=data
                )
                waiting = partial(wait_for_answer, request, deadline=deadline)
                text, is_replayed = await deps.cache.get_or_compute(
                    idempotent_request, lambda: inspect_once(data, idempotent_request), waiting
                )
                headers["Idempotency-Replayed"] = str(is_replayed).lower()
        # Serialised here, since FastAPI would validate the response again.
        return Response(text, media_type="application/json", headers=headers)


def add_batch_route(
    routes: APIRouter, deps: InspectDeps, settings: Settings, on_problem: Callable[[str], None]
) -> None:
    """Add the route for many images."""
    service = deps.service

    @routes.post("/inspect/batch", openapi_extra={"requestBody": {"required": True, "content": BATCH_FORM}})
    async def inspect_batch(
        product: str, request: Request, query: Annotated[InspectQuery, Query()], x_deadline_ms: DeadlineMs = None
    ) -> BatchResponse:
        """Inspect every file of the repeated field ``image``. A file that can't be inspected yields a problem."""
        version = await service.get_version(product, query.version)
        ids = get_ids(request, query)
        by = compute_deadline(x_deadline_ms, default_ms=settings.deadline_ms) if x_deadline_ms else None
        turns = asyncio.Semaphore(service.max_concurrent_per_request)

        async def inspect_item(data: bytes) -> InspectionResponse | ProblemResponse:
            try:
                async with turns:
                    deadline = by or compute_deadline(None, default_ms=settings.deadline_ms)
                    inspection = await service.inspect(data, version, query.to_options(), deadline=deadline)
            except GoodpartError as error:
                problem = problems.problem_from_error(error)
                on_problem(error.kind)
                return ProblemResponse.model_validate(problem)
            answer = ids.to_response(inspection)
            await deps.recorder.record(answer, data)
            return answer

        with service.batch_slot():
            images = await uploads.read_images(
                request, limit_bytes=settings.max_batch_upload_bytes, max_images=settings.max_batch_images
            )
            return BatchResponse(
                items=tuple(await cancel_on_disconnect(request, asyncio.gather(*map(inspect_item, images))))
            )


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


def get_ids(request: Request, query: InspectQuery) -> RequestIds:
    """Return the request's ids."""
    return RequestIds(request_id=request.state.request_id, part_id=query.part_id)
