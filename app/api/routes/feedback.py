"""The route for labels: ``ok`` images are used by the next training, ``ng`` images by the release gate."""

from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from app.api import uploads
from app.api.auth import KeyName, RequireScope
from app.api.deps import RegistryDep, SettingsDep
from app.api.routes.inspect import FORM, RAW
from app.api.schemas import FeedbackResponse
from app.inspection.feedback import label_image
from app.store.labels import Label, LabelDecision

router = APIRouter(prefix="/v1/products/{product}", tags=["feedback"], dependencies=[Depends(RequireScope("operate"))])


class FeedbackQuery(BaseModel):
    """The query of a feedback request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: Label
    part_id: Annotated[str, Field(max_length=128)] = ""
    by: Annotated[str, Field(min_length=1, max_length=128)] = "api"
    why: Annotated[str, Field(max_length=1024)] = ""

    def to_decision(self, *, version: str | None, key_name: str | None) -> LabelDecision:
        """Return the label with its author; the API key's name is added, since only that is verified."""
        by = f"{self.by} (key {key_name})" if key_name else self.by
        return LabelDecision(
            at=datetime.now(UTC), by=by, why=self.why, label=self.label, part_id=self.part_id, version=version
        )


@router.post(
    "/feedback", status_code=201, openapi_extra={"requestBody": {"required": True, "content": {**FORM, **RAW}}}
)
async def feedback(
    product: str,
    request: Request,
    query: Annotated[FeedbackQuery, Query()],
    key: KeyName,
    registry: RegistryDep,
    settings: SettingsDep,
) -> FeedbackResponse:
    """Store an image with its label; the next training uses it."""
    status = registry.get_status(product)
    data = await uploads.read_image(request, limit_bytes=settings.max_upload_bytes)
    keep = partial(
        label_image,
        registry.store,
        registry.state,
        product,
        data,
        decision=query.to_decision(version=status.activated, key_name=key),
        max_pixels=settings.max_pixels,
    )
    return FeedbackResponse.model_validate(await anyio.to_thread.run_sync(keep))
