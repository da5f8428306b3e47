"""Routes that judge images. They await one ``inspect`` and don't see inside it."""

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
from app.api.auth import Gate, KeyName
from app.api.idempotency import Recording, Replays
from app.api.idempotency import Request as Named
from app.api.schemas import BatchAnswer, InspectionAnswer, ProblemAnswer
from app.errors import DeadlinePassed
from app.imaging.heatmap import Kind
from app.inspection.pipeline import Inspection, Timings, Wish
from app.inspection.service import Judging, note
from app.settings import Settings
from model.bundle import GoodpartError

Answered = TypeVar("Answered")

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


PartId = Annotated[str | None, Field(max_length=128, description="the part's own id, given back and logged")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=128,
        description="the client's name of this request; sent again with the same image, it gets the first answer",
    ),
]
DeadlineMs = Annotated[
    float | None, Header(gt=0, le=3_600_000, description="not judged if its turn comes later than this")
]


class Asked(BaseModel):
    """The query of an inspection. A model and no dependency, which would run in a thread of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    heatmap: Annotated[Kind, Field(description="how the heat-map is drawn, or 'none'")] = "png"
    part_id: PartId = None
    version: Annotated[str | None, Field(description="judge by this version instead")] = None
    min_region_area_px: Annotated[int, Field(ge=0)] = 0
    explain: Annotated[bool, Field(description="name for each region what was expected there")] = False

    def wish(self) -> Wish:
        """What the engine is told of it."""
        return Wish(heatmap=self.heatmap, explain=self.explain, min_region_area_px=self.min_region_area_px)


def deadline_of(asked_ms: float | None, *, default_ms: float) -> float:
    """When an image must have had its turn, counted from now, by ``time.monotonic``."""
    return time.monotonic() + (asked_ms or default_ms) / 1000


@dataclass(frozen=True)
class Ids:
    """What names an inspection: the request's id is the client's own where it sent one."""

    request_id: str
    part_id: str | None

    def named(self, inspection: Inspection) -> InspectionAnswer:
        """The answer with its ids."""
        return InspectionAnswer.of(
            inspection,
            inspection_id=uuid4().hex,
            request_id=self.request_id,
            part_id=self.part_id,
        )


@dataclass(frozen=True)
class Desk:
    """Who takes part in answering: who judges, who is told of it, and what clients may ask for again."""

    judging: Judging
    recording: Recording
    replays: Replays


def router(*, desk: Desk, settings: Settings, gate: Gate, on_problem: Callable[[str], None]) -> APIRouter:
    """``/v1/products/{product}/inspect`` and its batch. ``on_problem`` gets the slug of a problem within a batch."""
    routes = APIRouter(prefix="/v1/products/{product}", tags=["inspect"], dependencies=[Depends(gate.asks("inspect"))])
    single(routes, desk, settings)
    batch(routes, desk, settings, on_problem)
    return routes


def single(routes: APIRouter, desk: Desk, settings: Settings) -> None:
    """One image."""
    judging = desk.judging

    @routes.post(
        "/inspect",
        response_model=InspectionAnswer,
        openapi_extra={"requestBody": {"required": True, "content": {**FORM, **RAW}}},
    )
    async def inspect(  # FastAPI hands over one argument a part of the request
        product: str,
        request: Request,
        asked: Annotated[Asked, Query()],
        key: KeyName,
        x_deadline_ms: DeadlineMs = None,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """Judge one image: raw bytes with an image media type, or the form field ``image``."""
        deadline = deadline_of(x_deadline_ms, default_ms=settings.deadline_ms)
        version = await judging.version(product, asked.version)
        headers: dict[str, str] = {}

        async def judged(data: bytes, named: Named | None = None) -> str:
            inspection = await unless_gone(request, judging.judge(data, version, asked.wish(), deadline=deadline))
            note(inspection, part_id=asked.part_id)
            headers["Server-Timing"] = server_timing(inspection.timings)
            answer = ids_of(request, asked).named(inspection)
            whole = answer.model_dump_json()
            await desk.recording.told(answer, data, named, whole=whole)
            return whole

        with judging.inspector.admitted():
            data = await uploads.read_image(request, limit_bytes=settings.max_upload_bytes)
            if idempotency_key is None:
                text = await judged(data)
            else:
                named = Named.of(idempotency_key, holder=key, product=product, query=asked, data=data)
                waiting = partial(answered_by, request, deadline=deadline)
                text, is_replayed = await desk.replays.answered(named, lambda: judged(data, named), waiting)
                headers["Idempotency-Replayed"] = str(is_replayed).lower()
        # Made here, since FastAPI would validate once more what has just been made.
        return Response(text, media_type="application/json", headers=headers)


def batch(routes: APIRouter, desk: Desk, settings: Settings, on_problem: Callable[[str], None]) -> None:
    """Many images in one request."""
    judging = desk.judging

    @routes.post("/inspect/batch", openapi_extra={"requestBody": {"required": True, "content": BATCH_FORM}})
    async def inspect_batch(
        product: str, request: Request, asked: Annotated[Asked, Query()], x_deadline_ms: DeadlineMs = None
    ) -> BatchAnswer:
        """Judge every file of the repeated field ``image``; one that can't be judged is a problem in its place."""
        version = await judging.version(product, asked.version)
        ids = ids_of(request, asked)
        by = deadline_of(x_deadline_ms, default_ms=settings.deadline_ms) if x_deadline_ms else None
        turns = asyncio.Semaphore(judging.most_of_one_request)

        async def item(data: bytes) -> InspectionAnswer | ProblemAnswer:
            try:
                async with turns:
                    deadline = by or deadline_of(None, default_ms=settings.deadline_ms)
                    inspection = await judging.inspect(data, version, asked.wish(), deadline=deadline)
            except GoodpartError as error:
                on_problem(problems.kind_of(error).slug)
                return ProblemAnswer.model_validate(problems.problem_of(error))
            answer = ids.named(inspection)
            await desk.recording.told(answer, data)
            return answer

        with judging.place_for_many():
            images = await uploads.read_images(
                request, limit_bytes=settings.max_batch_upload_bytes, most=settings.max_batch_images
            )
            return BatchAnswer(items=tuple(await unless_gone(request, asyncio.gather(*map(item, images)))))


async def answered_by(request: Request, answer: Awaitable[str], *, deadline: float) -> str:
    """The answer to the same request. Raises DeadlinePassed, ClientGone."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return await unless_gone(request, answer)
    except TimeoutError:
        raise DeadlinePassed from None


def server_timing(timings: Timings) -> str:
    """The ``Server-Timing`` header: milliseconds by step."""
    return ", ".join(f"{step};dur={spent_ms}" for step, spent_ms in asdict(timings).items())


async def unless_gone(request: Request, judging: Awaitable[Answered]) -> Answered:
    """What is awaited, unless the client hangs up before: then it is cancelled, and ClientGone is raised."""
    work = asyncio.ensure_future(judging)
    gone = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise problems.ClientGone
        return await work
    finally:
        for task in (work, gone):
            task.cancel()


async def disconnected(request: Request) -> None:
    """Returns once the client has hung up; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def ids_of(request: Request, asked: Asked) -> Ids:
    """The request's ids."""
    return Ids(request_id=request.state.request_id, part_id=asked.part_id)
