"""Routes that list products and versions, and that change what serves."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Self

import anyio.to_thread
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api.auth import ApiKeyAuth, KeyName
from app.api.schemas import ProductResponse, ProductsResponse, VersionResponse, VersionsResponse
from app.inference.registry import ModelRegistry
from app.inference.status import ProductStatus
from app.inspection.drift import DriftMonitor
from app.inspection.shadow import ShadowRunner
from app.store.errors import Conflict, StoreError, nothing_active_error
from app.store.state import Decision, Override, ShadowDecision
from model.bundle import BundleError

PREFIX = "/v1/products"


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


@dataclass(frozen=True)
class ProductMonitors:
    """Drift and shadow statistics of all products."""

    drift: DriftMonitor
    shadows: ShadowRunner

    def to_response(self, status: ProductStatus) -> ProductResponse:
        """Return a product's response."""
        return ProductResponse.from_status(
            status,
            drift=self.drift.get_window(status.product),
            rule=self.drift.rule,
            stats=self.shadows.get_stats(status),
        )


def router(*, registry: ModelRegistry, monitors: ProductMonitors, auth: ApiKeyAuth) -> APIRouter:
    """Return ``/v1/products`` and its sub-resources, except inspections."""
    routes = APIRouter(tags=["products"])
    routes.include_router(reading_router(registry, monitors, auth))
    for part in (activation_router, threshold_router, shadow_router):
        routes.include_router(part(registry, monitors, auth))
    return routes


def reading_router(registry: ModelRegistry, monitors: ProductMonitors, auth: ApiKeyAuth) -> APIRouter:
    """Return the routes that read; any key may use them."""
    routes = APIRouter(prefix=PREFIX, dependencies=[Depends(auth.require_scope("inspect", "operate"))])

    @routes.get("")
    async def products() -> ProductsResponse:
        """Every product, and which version serves it."""
        return ProductsResponse(products=tuple(map(monitors.to_response, registry.list_statuses())))

    @routes.get("/{product}")
    async def product_(product: str) -> ProductResponse:
        """One product: what serves, what was activated, why that does not serve if it does not, and how it fares."""
        return monitors.to_response(registry.get_status(product))

    @routes.get("/{product}/versions")
    def versions(product: str) -> VersionsResponse:
        """A product's versions, oldest first."""
        serving = registry.get_status(product).serving
        return VersionsResponse(
            product=product,
            versions=tuple(
                to_version_response(registry, product, name, serving.name if serving else None)
                for name in registry.store.list_versions(product)
            ),
        )

    return routes


def activation_router(registry: ModelRegistry, monitors: ProductMonitors, auth: ApiKeyAuth) -> APIRouter:
    """Return the routes that choose the serving version; they require the scope ``operate``."""
    routes = APIRouter(prefix=PREFIX, dependencies=[Depends(auth.require_scope("operate"))])

    @routes.post("/{product}/versions/{version}/activate")
    async def activate(
        product: str, version: str, key: KeyName, decision: DecisionRequest | None = None
    ) -> ProductResponse:
        """Activate a version. It is loaded and verified first; if that fails, the old version keeps serving."""
        return await apply_activation(product, version, decision or DecisionRequest(), key)

    @routes.post("/{product}/rollback")
    async def rollback(product: str, key: KeyName, decision: DecisionRequest | None = None) -> ProductResponse:
        """Make the version before the current one serve again."""
        previous = await anyio.to_thread.run_sync(registry.state.read_previous, product)
        return await apply_activation(product, previous, decision or DecisionRequest(), key)

    async def apply_activation(
        product: str, version: str, decision: DecisionRequest, key: str | None
    ) -> ProductResponse:
        change = partial(registry.activate, product, version, by=decision.attribution(key), why=decision.why)
        return monitors.to_response(await anyio.to_thread.run_sync(change))

    return routes


def threshold_router(registry: ModelRegistry, monitors: ProductMonitors, auth: ApiKeyAuth) -> APIRouter:
    """Return the routes that change the threshold; they require the scope ``operate``."""
    routes = APIRouter(prefix=PREFIX, dependencies=[Depends(auth.require_scope("operate"))])

    @routes.put("/{product}/threshold")
    async def threshold(product: str, decision: ThresholdRequest, key: KeyName) -> ProductResponse:
        """Let another threshold hold: a rate for every version to come, a value for the version that serves now."""
        override = override_from_request(decision, registry.get_status(product), key)
        return monitors.to_response(await anyio.to_thread.run_sync(registry.set_override, product, override))

    @routes.delete("/{product}/threshold")
    async def lift_threshold(
        product: str, key: KeyName, decision: Annotated[DecisionRequest, Query()]
    ) -> ProductResponse:
        """Let the version's own threshold hold again."""
        decided = decision.to_decision(key)
        return monitors.to_response(await anyio.to_thread.run_sync(registry.clear_override, product, decided))

    return routes


def shadow_router(registry: ModelRegistry, monitors: ProductMonitors, auth: ApiKeyAuth) -> APIRouter:
    """Return the routes for shadow inspection; they require the scope ``operate``."""
    routes = APIRouter(prefix=PREFIX, dependencies=[Depends(auth.require_scope("operate"))])

    @routes.put("/{product}/shadow")
    async def shadow(product: str, decision: ShadowRequest, key: KeyName) -> ProductResponse:
        """Run a candidate on a share of the live images; responses stay those of the serving version."""
        order = ShadowDecision(**decision.to_decision(key).model_dump(), version=decision.version, share=decision.share)
        return monitors.to_response(await anyio.to_thread.run_sync(registry.set_shadow, product, order))

    @routes.delete("/{product}/shadow")
    async def end_shadow(product: str, key: KeyName, decision: Annotated[DecisionRequest, Query()]) -> ProductResponse:
        """Let no candidate judge any more."""
        decided = decision.to_decision(key)
        return monitors.to_response(await anyio.to_thread.run_sync(registry.clear_shadow, product, decided))

    return routes


def override_from_request(decision: ThresholdRequest, status: ProductStatus, key: str | None) -> Override:
    """Return the override; a value applies to the version that serves, or will after a reload."""
    serving = status.serving.name if status.serving else status.activated
    if serving is None:
        raise nothing_active_error(status.product)
    if decision.version not in (None, serving):
        raise Conflict(status.product)
    return decision.to_override(serving, decision.to_decision(key))


def to_version_response(registry: ModelRegistry, product: str, version: str, serving: str | None) -> VersionResponse:
    """Return a version as the store describes it, or the error."""
    is_serving = version == serving
    try:
        manifest = registry.store.load_manifest(product, version)
    except (StoreError, BundleError) as error:
        return VersionResponse(version=version, serving=is_serving, fault=str(error))
    return VersionResponse.from_manifest(version, manifest, serving=is_serving)
