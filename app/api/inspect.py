"""Routes that judge images. They await one ``inspect`` and don't see inside it."""

import asyncio
from dataclasses import dataclass
from typing import Annotated
from uuid import uuid4

import anyio.to_thread
from fastapi import APIRouter, Depends, Query, Request

from app.api import bodies, problems
from app.api.answers import BatchAnswer, InspectionAnswer, ProblemAnswer
from app.engine.catalogue import Catalogue
from app.engine.heatmap import Kind
from app.engine.inspector import Inspection, Inspector, Wish
from app.engine.version import Version
from app.settings import Settings
from model.bundle import GoodpartError

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


@dataclass(frozen=True)
class Asked:
    """The query of an inspection."""

    heatmap: Annotated[Kind, Query(description="how the heat-map is drawn, or 'none'")] = "png"
    part_id: Annotated[str | None, Query(max_length=128)] = None
    version: Annotated[str | None, Query(description="judge by this version instead")] = None
    min_region_area_px: Annotated[int, Query(ge=0)] = 0
    explain: Annotated[bool, Query(description="name for each region what was expected there")] = False

    def wish(self) -> Wish:
        """What the engine is told of it."""
        return Wish(heatmap=self.heatmap, explain=self.explain, min_region_area_px=self.min_region_area_px)


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


def router(*, catalogue: Catalogue, inspector: Inspector, settings: Settings) -> APIRouter:
    """``/v1/products/{product}/inspect`` and its batch."""
    routes = APIRouter(prefix="/v1/products/{product}", tags=["inspect"])

    async def chosen(product: str, asked: Asked) -> Version:
        if asked.version is None:
            return catalogue.serving(product)
        return await anyio.to_thread.run_sync(catalogue.named, product, asked.version)

    @routes.post("/inspect", openapi_extra={"requestBody": {"required": True, "content": {**FORM, **RAW}}})
    async def inspect(product: str, request: Request, asked: Annotated[Asked, Depends()]) -> InspectionAnswer:
        """Judge one image: raw bytes with an image media type, or the form field ``image``."""
        version = await chosen(product, asked)
        data = await bodies.read_image(request, limit_bytes=settings.max_upload_bytes)
        inspection = await inspector.inspect(data, version, asked.wish())
        return ids_of(request, asked).named(inspection)

    @routes.post("/inspect/batch", openapi_extra={"requestBody": {"required": True, "content": BATCH_FORM}})
    async def inspect_batch(product: str, request: Request, asked: Annotated[Asked, Depends()]) -> BatchAnswer:
        """Judge every file of the repeated field ``image``; one that can't be judged is a problem in its place."""
        version = await chosen(product, asked)
        images = await bodies.read_images(
            request, limit_bytes=settings.max_batch_upload_bytes, most=settings.max_batch_images
        )
        ids = ids_of(request, asked)

        async def item(data: bytes) -> InspectionAnswer | ProblemAnswer:
            try:
                return ids.named(await inspector.inspect(data, version, asked.wish()))
            except GoodpartError as error:
                return ProblemAnswer.model_validate(problems.problem_of(error))

        return BatchAnswer(items=tuple(await asyncio.gather(*map(item, images))))

    return routes


def ids_of(request: Request, asked: Asked) -> Ids:
    """The request's ids."""
    return Ids(request_id=request.headers.get("x-request-id", "")[:128] or uuid4().hex, part_id=asked.part_id)
