"""The route by which people say what a part is: ok teaches the next training, ng is what its version must catch."""

from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from app.api import uploads
from app.api.auth import Gate, KeyName
from app.api.routes.inspect import FORM, RAW
from app.api.schemas import FeedbackAnswer
from app.inference.registry import Catalogue
from app.inspection.feedback import confirm
from app.settings import Settings
from app.store.labels import Confirmation, Label


class Said(BaseModel):
    """The query of a feedback."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: Label
    part_id: Annotated[str, Field(max_length=128)] = ""
    by: Annotated[str, Field(min_length=1, max_length=128)] = "api"
    why: Annotated[str, Field(max_length=1024)] = ""

    def confirmation(self, *, version: str | None, key_name: str | None) -> Confirmation:
        """The label as the state keeps it, with the key that was used, which alone is certain."""
        by = f"{self.by} (key {key_name})" if key_name else self.by
        return Confirmation(
            at=datetime.now(UTC), by=by, why=self.why, label=self.label, part_id=self.part_id, version=version
        )


def router(*, catalogue: Catalogue, settings: Settings, gate: Gate) -> APIRouter:
    """``/v1/products/{product}/feedback``; takes a key that may operate."""
    routes = APIRouter(prefix="/v1/products/{product}", tags=["feedback"], dependencies=[Depends(gate.asks("operate"))])

    @routes.post(
        "/feedback",
        status_code=201,
        openapi_extra={"requestBody": {"required": True, "content": {**FORM, **RAW}}},
    )
    async def feedback(product: str, request: Request, said: Annotated[Said, Query()], key: KeyName) -> FeedbackAnswer:
        """Keep an image and what a person says that it shows; the next training uses it."""
        standing = catalogue.standing(product)
        data = await uploads.read_image(request, limit_bytes=settings.max_upload_bytes)
        keep = partial(
            confirm,
            catalogue.store,
            catalogue.state,
            product,
            data,
            confirmation=said.confirmation(version=standing.activated, key_name=key),
            max_pixels=settings.max_pixels,
        )
        return FeedbackAnswer.model_validate(await anyio.to_thread.run_sync(keep))

    return routes
