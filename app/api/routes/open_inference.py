"""The Open Inference Protocol under ``/v2``: a product is a model. Input ``image``; outputs ``score, verdict, map``."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version as installed
from typing import Annotated, Literal

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel

from app.api import uploads
from app.api.auth import Gate
from app.api.routes.health import Sources, health_of
from app.api.routes.inspect import DeadlineMs, Desk, Ids, PartId, deadline_of, unless_gone
from app.api.tensors import HEADER, INPUT, Asked, TensorOut, read_request, written
from app.inference.version import Version
from app.inspection.pipeline import Inspection, Wish
from app.inspection.service import Judging, note
from app.settings import Settings
from app.store.errors import UnknownProduct, UnknownVersion
from model.bundle import BadName, GoodpartError

PLATFORM = "onnxruntime_onnx"
Shape = tuple[int, ...]


Id = Annotated[PartId, Query()]


@dataclass(frozen=True)
class Beside:
    """What was said beside the tensors. ``deadline``: by ``time.monotonic``."""

    part_id: str | None
    deadline: float


class ServerMetadata(BaseModel):
    """What this server is."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(BaseModel):
    """A tensor; -1 stands for the number of images."""

    name: str
    datatype: Literal["BYTES", "FP32"]
    shape: Shape


class ModelMetadata(BaseModel):
    """What a product takes and gives."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class Readiness(BaseModel):
    """Whether a server or a model can judge."""

    ready: bool
    name: str | None = None


def health_routes(sources: Sources) -> APIRouter:
    """``/v2/health``: what ``/livez`` and ``/readyz`` say, in the protocol's words."""
    routes = APIRouter(prefix="/v2/health", tags=["open inference"])

    @routes.get("/live")
    async def live() -> dict[str, bool]:
        """The event loop turns."""
        return {"live": True}

    @routes.get("/ready")
    async def ready(response: Response) -> Readiness:
        """Whether at least one product can be judged."""
        return answered(health_of(sources).ready, response)

    return routes


def router(*, desk: Desk, settings: Settings, gate: Gate) -> APIRouter:
    """``/v2`` but its health."""
    routes = APIRouter(prefix="/v2", tags=["open inference"], dependencies=[Depends(gate.asks("inspect"))])
    describe(routes, desk.judging)
    infer(routes, desk, settings)
    return routes


def describe(routes: APIRouter, judging: Judging) -> None:
    """What is there."""

    @routes.get("")
    async def server() -> ServerMetadata:
        """What this server is."""
        return ServerMetadata(name="goodpart", version=installed("goodpart"), extensions=("binary_tensor_data",))

    @routes.get("/models/{product}")
    async def model(product: str) -> ModelMetadata:
        """What a product takes and gives."""
        return metadata_of(await judging.version(product))

    @routes.get("/models/{product}/versions/{version}")
    async def model_version(product: str, version: str) -> ModelMetadata:
        """What one version of it takes and gives."""
        return metadata_of(await judging.version(product, version))

    @routes.get("/models/{product}/ready")
    async def model_ready(product: str, response: Response) -> Readiness:
        """Whether a product can be judged."""
        return await readiness(judging, product, None, response)

    @routes.get("/models/{product}/versions/{version}/ready")
    async def version_ready(product: str, version: str, response: Response) -> Readiness:
        """Whether it can be judged by that version."""
        return await readiness(judging, product, version, response)


def infer(routes: APIRouter, desk: Desk, settings: Settings) -> None:
    """Judgements."""
    judging = desk.judging

    @routes.post("/models/{product}/infer", response_class=Response)
    async def infer_by_serving(
        product: str, request: Request, part_id: Id = None, x_deadline_ms: DeadlineMs = None
    ) -> Response:
        """Judge the images of one input tensor; where one of them can't be judged, none is answered."""
        beside = Beside(part_id, deadline_of(x_deadline_ms, default_ms=settings.deadline_ms))
        return await inferred(product, None, request, beside)

    @routes.post("/models/{product}/versions/{version}/infer", response_class=Response)
    async def infer_by(
        product: str, version: str, request: Request, part_id: Id = None, x_deadline_ms: DeadlineMs = None
    ) -> Response:
        """The same by one version."""
        beside = Beside(part_id, deadline_of(x_deadline_ms, default_ms=settings.deadline_ms))
        return await inferred(product, version, request, beside)

    async def inferred(product: str, version: str | None, request: Request, beside: Beside) -> Response:
        chosen = await judging.version(product, version)
        is_small = uploads.declared_bytes(request) <= settings.max_upload_bytes
        # While it is read, a small body takes the place of one image; its images then take places of their own.
        place = judging.inspector.admitted if is_small else judging.place_for_many
        limit_bytes = settings.max_upload_bytes if is_small else settings.max_batch_upload_bytes
        with place():
            body = await uploads.read_body(request, limit_bytes=limit_bytes)
        json_length = request.headers.get(HEADER)
        asked = await anyio.to_thread.run_sync(
            lambda: read_request(body, json_length=json_length, most=settings.max_batch_images)
        )
        inspections = await unless_gone(request, all_of(judging, asked.images, chosen, beside.deadline))
        note(inspections[-1], part_id=beside.part_id)
        ids = Ids(request_id=request.state.request_id, part_id=beside.part_id)
        told = zip(asked.images, inspections, strict=True)
        await asyncio.gather(*(desk.recording.told(ids.named(one), data) for data, one in told))
        return infer_response(inspections, asked)


async def all_of(judging: Judging, images: Sequence[bytes], version: Version, deadline: float) -> list[Inspection]:
    """All images judged, in order, few at a time, since others come too; where one fails, the others are called off."""
    turns = asyncio.Semaphore(judging.most_of_one_request)

    async def one(data: bytes) -> Inspection:
        async with turns:
            return await judging.inspect(data, version, Wish(), deadline=deadline)

    tasks = [asyncio.ensure_future(one(data)) for data in images]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def infer_response(inspections: list[Inspection], asked: Asked) -> Response:
    """Judgements as the protocol has them. Raises BadTensors for an output that there is not."""
    version = inspections[0].version
    answer: dict[str, object] = {
        "model_name": version.product,
        "model_version": version.name,
        "parameters": {"threshold": version.threshold, "threshold_from": version.threshold_from},
    }
    if asked.id is not None:
        answer["id"] = asked.id
    content, num_json = written(answer, outputs_of(inspections), asked)
    if num_json is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={HEADER: str(num_json)})


async def readiness(judging: Judging, product: str, version: str | None, response: Response) -> Readiness:
    """Whether a product, or a version of it, can be judged. Raises what is a 404."""
    if version is None and judging.catalogue.standing(product).is_resting:
        return answered(is_ready=True, response=response, name=product)  # nobody is asked to make room for a question
    try:
        await judging.version(product, version)
    except (UnknownProduct, UnknownVersion, BadName):
        raise
    except GoodpartError:
        return answered(is_ready=False, response=response, name=product)
    return answered(is_ready=True, response=response, name=product)


def answered(is_ready: bool, response: Response, name: str | None = None) -> Readiness:  # noqa: FBT001  # a fact, no switch
    """Readiness, with the status that says the same."""
    if not is_ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return Readiness(ready=is_ready, name=name)


def metadata_of(version: Version) -> ModelMetadata:
    """A version as a model."""
    return ModelMetadata(
        name=version.product,
        versions=(version.name,),
        platform=PLATFORM,
        inputs=(TensorMetadata(name=INPUT, datatype="BYTES", shape=(-1,)),),
        outputs=(
            TensorMetadata(name="score", datatype="FP32", shape=(-1,)),
            TensorMetadata(name="verdict", datatype="BYTES", shape=(-1,)),
            TensorMetadata(name="map", datatype="FP32", shape=(-1, *version.manifest.map_size)),
        ),
    )


def outputs_of(inspections: list[Inspection]) -> tuple[TensorOut, ...]:
    """Judgements as tensors, the images first."""
    return (
        TensorOut("score", "FP32", np.array([one.score for one in inspections], np.float32)),
        TensorOut("verdict", "BYTES", np.array([one.verdict for one in inspections])),
        TensorOut("map", "FP32", np.stack([one.map for one in inspections])),
    )
