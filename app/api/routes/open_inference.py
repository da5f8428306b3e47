"""The Open Inference Protocol under ``/v2``: a product is a model. Input ``image``; outputs ``score, verdict, map``."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from importlib.metadata import version as installed
from typing import Annotated, Literal

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel

from app.api import uploads
from app.api.auth import RequireScope
from app.api.deps import InspectionServiceDep, Services, ServicesDep
from app.api.routes.health import collect_health
from app.api.routes.inspect import DeadlineMs, PartId, RequestIds, cancel_on_disconnect, compute_deadline
from app.api.tensors import HEADER, INPUT, InferInput, TensorOut, parse_request, serialise_response
from app.inference.version import Version
from app.inspection.pipeline import Inspection, InspectOptions
from app.inspection.service import InspectionService, bind_log_context
from app.store.errors import UnknownProduct, UnknownVersion
from model.bundle import BadName, GoodpartError

PLATFORM = "onnxruntime_onnx"
Shape = tuple[int, ...]
Id = Annotated[PartId, Query()]

router = APIRouter(prefix="/v2", tags=["open inference"], dependencies=[Depends(RequireScope("inspect"))])
health_router = APIRouter(prefix="/v2/health", tags=["open inference"])


@dataclass(frozen=True)
class InferOptions:
    """Options of an infer request beside its tensors. ``deadline``: by ``time.monotonic``."""

    part_id: str | None
    deadline: float


class ServerMetadata(BaseModel):
    """The server's name, version and extensions."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(BaseModel):
    """A tensor; -1 is the number of images."""

    name: str
    datatype: Literal["BYTES", "FP32"]
    shape: Shape


class ModelMetadata(BaseModel):
    """Inputs and outputs of a product."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class Readiness(BaseModel):
    """Whether a server or a model can inspect."""

    ready: bool
    name: str | None = None


@health_router.get("/live")
async def live() -> dict[str, bool]:
    """The event loop turns."""
    return {"live": True}


@health_router.get("/ready")
async def ready(response: Response, services: ServicesDep) -> Readiness:
    """Whether at least one product can be judged."""
    return to_readiness(collect_health(services).ready, response)


@router.get("")
async def server() -> ServerMetadata:
    """What this server is."""
    return ServerMetadata(name="goodpart", version=installed("goodpart"), extensions=("binary_tensor_data",))


@router.get("/models/{product}")
async def model(product: str, service: InspectionServiceDep) -> ModelMetadata:
    """What a product takes and gives."""
    return to_metadata(await service.get_version(product))


@router.get("/models/{product}/versions/{version}")
async def model_version(product: str, version: str, service: InspectionServiceDep) -> ModelMetadata:
    """What one version of it takes and gives."""
    return to_metadata(await service.get_version(product, version))


@router.get("/models/{product}/ready")
async def model_ready(product: str, response: Response, service: InspectionServiceDep) -> Readiness:
    """Whether a product can be judged."""
    return await check_readiness(service, product, None, response)


@router.get("/models/{product}/versions/{version}/ready")
async def version_ready(product: str, version: str, response: Response, service: InspectionServiceDep) -> Readiness:
    """Whether it can be judged by that version."""
    return await check_readiness(service, product, version, response)


@router.post("/models/{product}/infer", response_class=Response)
async def infer_by_serving(
    product: str, request: Request, services: ServicesDep, part_id: Id = None, x_deadline_ms: DeadlineMs = None
) -> Response:
    """Inspect the images of one input tensor. If one of them can't be inspected, the request fails."""
    infer_options = InferOptions(part_id, compute_deadline(x_deadline_ms, default_ms=services.settings.deadline_ms))
    version = await services.inspection.get_version(product)
    return await run_inference(request, services, version, infer_options)


@router.post("/models/{product}/versions/{version}/infer", response_class=Response)
async def infer_by(
    product: str,
    version: str,
    request: Request,
    services: ServicesDep,
    part_id: Id = None,
    x_deadline_ms: DeadlineMs = None,
) -> Response:
    """The same by one version."""
    infer_options = InferOptions(part_id, compute_deadline(x_deadline_ms, default_ms=services.settings.deadline_ms))
    chosen_version = await services.inspection.get_version(product, version)
    return await run_inference(request, services, chosen_version, infer_options)


async def run_inference(
    request: Request, services: Services, version: Version, infer_options: InferOptions
) -> Response:
    """Read, inspect and record the images of a request. Raises GoodpartError."""
    infer_input = await read_input(request, services)
    inspections = await cancel_on_disconnect(
        request, inspect_all(services.inspection, infer_input.images, version, infer_options.deadline)
    )
    bind_log_context(inspections[-1], part_id=infer_options.part_id)
    ids = RequestIds.from_request(request, part_id=infer_options.part_id)
    pairs = zip(infer_input.images, inspections, strict=True)
    await asyncio.gather(*(services.recorder.record(ids.to_response(one), data) for data, one in pairs))
    return to_infer_response(inspections, infer_input)


async def read_input(request: Request, services: Services) -> InferInput:
    """Read the body of a request and parse it, off the event loop. Raises QueueFull, RequestError."""
    settings, service = services.settings, services.inspection
    is_small = uploads.get_content_length(request) <= settings.max_upload_bytes
    # While it is read, a small body counts as one image; then each of its images counts.
    slot = service.inspector.admit if is_small else service.batch_slot
    limit_bytes = settings.max_upload_bytes if is_small else settings.max_batch_upload_bytes
    with slot():
        body = await uploads.read_body(request, limit_bytes=limit_bytes)
    parse = partial(parse_request, body, json_length=request.headers.get(HEADER), max_images=settings.max_batch_images)
    return await anyio.to_thread.run_sync(parse)


async def inspect_all(
    service: InspectionService, images: Sequence[bytes], version: Version, deadline: float
) -> list[Inspection]:
    """Inspect all images, in order of the input, a few at a time. The first error cancels the others."""
    turns = asyncio.Semaphore(service.max_concurrent_per_request)

    async def one(data: bytes) -> Inspection:
        async with turns:
            return await service.inspect(data, version, InspectOptions(), deadline=deadline)

    tasks = [asyncio.ensure_future(one(data)) for data in images]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def to_infer_response(inspections: list[Inspection], infer_input: InferInput) -> Response:
    """Return inspections as the protocol's response. Raises RequestError for an unknown output."""
    version = inspections[0].version
    answer: dict[str, object] = {
        "model_name": version.product,
        "model_version": version.name,
        "parameters": {"threshold": version.threshold, "threshold_from": version.threshold_from},
    }
    if infer_input.id is not None:
        answer["id"] = infer_input.id
    content, num_json = serialise_response(answer, to_outputs(inspections), infer_input)
    if num_json is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={HEADER: str(num_json)})


async def check_readiness(
    service: InspectionService, product: str, version: str | None, response: Response
) -> Readiness:
    """Return whether a product, or a version of it, can inspect. Raises errors that are a 404."""
    if version is None and service.registry.get_status(product).is_evicted:
        return to_readiness(
            is_ready=True, response=response, name=product
        )  # a metadata request must not evict a product
    try:
        await service.get_version(product, version)
    except (UnknownProduct, UnknownVersion, BadName):
        raise
    except GoodpartError:
        return to_readiness(is_ready=False, response=response, name=product)
    return to_readiness(is_ready=True, response=response, name=product)


def to_readiness(is_ready: bool, response: Response, name: str | None = None) -> Readiness:  # noqa: FBT001  # a fact, no switch
    """Return the readiness and set the matching status."""
    if not is_ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return Readiness(ready=is_ready, name=name)


def to_metadata(version: Version) -> ModelMetadata:
    """Return a version as a model."""
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


def to_outputs(inspections: list[Inspection]) -> tuple[TensorOut, ...]:
    """Return inspections as tensors; the first axis is the image."""
    return (
        TensorOut("score", "FP32", np.array([one.score for one in inspections], np.float32)),
        TensorOut("verdict", "BYTES", np.array([one.verdict for one in inspections])),
        TensorOut("map", "FP32", np.stack([one.map for one in inspections])),
    )
