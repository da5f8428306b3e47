"""Routes that list products and versions, and that change what serves."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Self, TypeVar

import anyio.to_thread
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api.auth import KeyName, RequireScope
from app.api.deps import InspectionServiceDep, RegistryDep
from app.api.schemas import ProductResponse, ProductsResponse, VersionResponse, VersionsResponse
from app.inference.registry import ModelRegistry
from app.inference.status import ProductStatus
from app.inspection.service import InspectionService
from app.store.errors import Conflict, StoreError, nothing_active_error
from app.store.state import Decision, Override, ShadowDecision
from model.bundle import BundleError

Decided = TypeVar("Decided")

# Any key may read; changing what serves requires the scope ``operate``.
READ = [Depends(RequireScope("inspect", "operate"))]
CHANGE = [Depends(RequireScope("operate"))]

router = APIRouter(prefix="/v1/products", tags=["products"])


class DecisionRequest(BaseModel):
    """Author and reason of a decision; both are kept in the audit."""

    model_config = ConfigDict(extra="forbid")

    by: Annotated[str, Field(min_length=1, max_length=128)] = "api"
    why: Annotated[str, Field(max_length=1024)] = ""

    def attribution(self, key_name: str | None) -> str:
        """Return the author with the name of the API key, since only that is verified."""
        return f"{self.by} (key {key_name})" if key_name else self.by

    def to_decision(self, key_name: str | None) -> Decision:
        """Return the decision as the state keeps it."""
        return Decision(at=datetime.now(UTC), by=self.attribution(key_name), why=self.why)


class ThresholdQuery(BaseModel):
    """Another threshold: by its false-alarm rate, or by its value."""

    false_alarm_rate: Annotated[float | None, Field(gt=0, lt=1)] = None
    threshold: Annotated[float | None, Field(allow_inf_nan=False)] = None

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if (self.false_alarm_rate is None) == (self.threshold is None):
            raise ValueError("give either false_alarm_rate or threshold")
        return self

    def to_override(self, version: str, decided: Decision) -> Override:
        """Return the override: a rate for every version, a value for this version alone."""
        return Override(
            **decided.model_dump(),
            false_alarm_rate=self.false_alarm_rate,
            threshold=self.threshold,
            version=None if self.threshold is None else version,
        )


class ThresholdRequest(DecisionRequest, ThresholdQuery):
    """A threshold to apply; ``version``: refuse where another version serves."""

    version: str | None = None


class ShadowRequest(DecisionRequest):
    """A candidate, and the share of live images that it inspects."""

    version: str
    share: Annotated[float, Field(gt=0, le=1)] = 0.1


@router.get("", dependencies=READ)
async def products(service: InspectionServiceDep) -> ProductsResponse:
    """Every product, and which version serves it."""
    statuses = service.registry.list_statuses()
    return ProductsResponse(products=tuple(to_product_response(service, status) for status in statuses))


@router.get("/{product}", dependencies=READ)
async def product_(product: str, service: InspectionServiceDep) -> ProductResponse:
    """One product: what serves, what was activated, why that does not serve if it does not, and how it fares."""
    return to_product_response(service, service.registry.get_status(product))


@router.get("/{product}/versions", dependencies=READ)
async def versions(product: str, registry: RegistryDep) -> VersionsResponse:
    """A product's versions, oldest first."""
    return await anyio.to_thread.run_sync(read_versions, registry, product)


@router.post("/{product}/versions/{version}/activate", dependencies=CHANGE)
async def activate(
    product: str,
    version: str,
    service: InspectionServiceDep,
    key: KeyName,
    decision: DecisionRequest | None = None,
) -> ProductResponse:
    """Activate a version. It is loaded and verified first; if that fails, the old version keeps serving."""
    return await apply_activation(service, product, version, by=key, decision=decision)


@router.post("/{product}/rollback", dependencies=CHANGE)
async def rollback(
    product: str, service: InspectionServiceDep, key: KeyName, decision: DecisionRequest | None = None
) -> ProductResponse:
    """Make the version before the current one serve again."""
    previous = await anyio.to_thread.run_sync(service.registry.state.read_previous, product)
    return await apply_activation(service, product, previous, by=key, decision=decision)


@router.put("/{product}/threshold", dependencies=CHANGE)
async def threshold(
    product: str, decision: ThresholdRequest, service: InspectionServiceDep, key: KeyName
) -> ProductResponse:
    """Let another threshold hold: a rate for every version to come, a value for the version that serves now."""
    registry = service.registry
    override = override_from_request(decision, registry.get_status(product), key)
    return await apply_change(service, registry.set_override, product, override)


@router.delete("/{product}/threshold", dependencies=CHANGE)
async def lift_threshold(
    product: str, service: InspectionServiceDep, key: KeyName, decision: Annotated[DecisionRequest, Query()]
) -> ProductResponse:
    """Let the version's own threshold hold again."""
    return await apply_change(service, service.registry.clear_override, product, decision.to_decision(key))


@router.put("/{product}/shadow", dependencies=CHANGE)
async def shadow(product: str, decision: ShadowRequest, service: InspectionServiceDep, key: KeyName) -> ProductResponse:
    """Run a candidate on a share of the live images; responses stay those of the serving version."""
    order = ShadowDecision(**decision.to_decision(key).model_dump(), version=decision.version, share=decision.share)
    return await apply_change(service, service.registry.set_shadow, product, order)


@router.delete("/{product}/shadow", dependencies=CHANGE)
async def end_shadow(
    product: str, service: InspectionServiceDep, key: KeyName, decision: Annotated[DecisionRequest, Query()]
) -> ProductResponse:
    """Let no candidate judge any more."""
    return await apply_change(service, service.registry.clear_shadow, product, decision.to_decision(key))


async def apply_activation(
    service: InspectionService, product: str, version: str, *, by: str | None, decision: DecisionRequest | None
) -> ProductResponse:
    """Activate a version. ``by``: name of the API key; ``decision``: None where the request has no body."""
    decision = decision or DecisionRequest()
    activate_version = partial(service.registry.activate, by=decision.attribution(by), why=decision.why)
    return await apply_change(service, activate_version, product, version)


async def apply_change(
    service: InspectionService, change: Callable[[str, Decided], ProductStatus], product: str, decided: Decided
) -> ProductResponse:
    """Change a product by what was decided, in a thread, and return its status."""
    return to_product_response(service, await anyio.to_thread.run_sync(change, product, decided))


def to_product_response(service: InspectionService, status: ProductStatus) -> ProductResponse:
    """Return a product's status, with its drift and its candidate."""
    return ProductResponse.from_status(
        status,
        drift=service.drift.get_window(status.product),
        rule=service.drift.rule,
        stats=service.shadows.get_stats(status),
    )


def override_from_request(decision: ThresholdRequest, status: ProductStatus, key: str | None) -> Override:
    """Return the override; a value applies to the version that serves, or will after a reload."""
    serving = status.serving.name if status.serving else status.activated
    if serving is None:
        raise nothing_active_error(status.product)
    if decision.version not in (None, serving):
        raise Conflict(status.product)
    return decision.to_override(serving, decision.to_decision(key))


def read_versions(registry: ModelRegistry, product: str) -> VersionsResponse:
    """Read a product's versions from the store. Raises StoreError."""
    serving = registry.get_status(product).serving
    return VersionsResponse(
        product=product,
        versions=tuple(
            to_version_response(registry, product, name, serving.name if serving else None)
            for name in registry.store.list_versions(product)
        ),
    )


def to_version_response(registry: ModelRegistry, product: str, version: str, serving: str | None) -> VersionResponse:
    """Return a version as the store describes it, or the error."""
    is_serving = version == serving
    try:
        manifest = registry.store.load_manifest(product, version)
    except (StoreError, BundleError) as error:
        return VersionResponse(version=version, serving=is_serving, fault=str(error))
    return VersionResponse.from_manifest(version, manifest, serving=is_serving)
