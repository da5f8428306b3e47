"""Routes that say what is there and what serves, and that change what serves."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Self

import anyio.to_thread
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api.auth import Gate, KeyName
from app.api.schemas import ProductAnswer, ProductsAnswer, VersionAnswer, VersionsAnswer
from app.inference.registry import Catalogue, Standing
from app.inspection.drift import Drift
from app.inspection.shadow import Shadows
from app.store.errors import ChangedMeanwhile, NothingActive, StoreError
from app.store.state import Decided, Override, ShadowOrder
from model.bundle import BundleError

PREFIX = "/v1/products"


class Decision(BaseModel):
    """Who decides, and why; both are kept in the audit."""

    model_config = ConfigDict(extra="forbid")

    by: Annotated[str, Field(min_length=1, max_length=128)] = "api"
    why: Annotated[str, Field(max_length=1024)] = ""

    def signed(self, key_name: str | None) -> str:
        """Who decided, with the key that was used, which alone is certain."""
        return f"{self.by} (key {key_name})" if key_name else self.by

    def decided(self, key_name: str | None) -> Decided:
        """The decision as the state keeps it."""
        return Decided(at=datetime.now(UTC), by=self.signed(key_name), why=self.why)


class Threshold(BaseModel):
    """Another threshold: by the rate of false alarms that it should give, or by its value."""

    false_alarm_rate: Annotated[float | None, Field(gt=0, lt=1)] = None
    threshold: Annotated[float | None, Field(allow_inf_nan=False)] = None

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if (self.false_alarm_rate is None) == (self.threshold is None):
            raise ValueError("say either false_alarm_rate or threshold")
        return self

    def override(self, version: str, decided: Decided) -> Override:
        """As the state keeps it: a rate for every version to come, a value for this version alone."""
        return Override(
            **decided.model_dump(),
            false_alarm_rate=self.false_alarm_rate,
            threshold=self.threshold,
            version=None if self.threshold is None else version,
        )


class ThresholdDecision(Decision, Threshold):
    """A threshold that shall hold; ``version``: only if that is the one that serves, as whoever looked at it saw."""

    version: str | None = None


class ShadowDecision(Decision):
    """A candidate, and the share of live images that it judges beside the serving version."""

    version: str
    share: Annotated[float, Field(gt=0, le=1)] = 0.1


@dataclass(frozen=True)
class Watch:
    """What is known of how products fare."""

    drift: Drift
    shadows: Shadows

    def answer(self, standing: Standing) -> ProductAnswer:
        """A product for the wire."""
        return ProductAnswer.of(
            standing,
            drift=self.drift.window(standing.product),
            rule=self.drift.rule,
            tally=self.shadows.tally(standing),
        )


def router(*, catalogue: Catalogue, watch: Watch, gate: Gate) -> APIRouter:
    """``/v1/products`` and what lies under a product, but for inspections."""
    routes = APIRouter(tags=["products"])
    routes.include_router(reading(catalogue, watch, gate))
    for part in (activating, choosing_thresholds, shadowing):
        routes.include_router(part(catalogue, watch, gate))
    return routes


def reading(catalogue: Catalogue, watch: Watch, gate: Gate) -> APIRouter:
    """What is there; any key will do."""
    routes = APIRouter(prefix=PREFIX, dependencies=[Depends(gate.asks("inspect", "operate"))])

    @routes.get("")
    async def products() -> ProductsAnswer:
        """Every product, and which version serves it."""
        return ProductsAnswer(products=tuple(map(watch.answer, catalogue.standings())))

    @routes.get("/{product}")
    async def product_(product: str) -> ProductAnswer:
        """One product: what serves, what was activated, why that does not serve if it does not, and how it fares."""
        return watch.answer(catalogue.standing(product))

    @routes.get("/{product}/versions")
    def versions(product: str) -> VersionsAnswer:
        """A product's versions, oldest first."""
        serving = catalogue.standing(product).serving
        return VersionsAnswer(
            product=product,
            versions=tuple(
                version_answer(catalogue, product, name, serving.name if serving else None)
                for name in catalogue.store.versions(product)
            ),
        )

    return routes


def activating(catalogue: Catalogue, watch: Watch, gate: Gate) -> APIRouter:
    """Which version serves; takes a key that may operate."""
    routes = APIRouter(prefix=PREFIX, dependencies=[Depends(gate.asks("operate"))])

    @routes.post("/{product}/versions/{version}/activate")
    async def activate(product: str, version: str, key: KeyName, decision: Decision | None = None) -> ProductAnswer:
        """Make a version serve; it is loaded and proven first, and if that fails the old one goes on."""
        return await activated(product, version, decision or Decision(), key)

    @routes.post("/{product}/rollback")
    async def rollback(product: str, key: KeyName, decision: Decision | None = None) -> ProductAnswer:
        """Make the version before the current one serve again."""
        previous = await anyio.to_thread.run_sync(catalogue.state.previous, product)
        return await activated(product, previous, decision or Decision(), key)

    async def activated(product: str, version: str, decision: Decision, key: str | None) -> ProductAnswer:
        change = partial(catalogue.activate, product, version, by=decision.signed(key), why=decision.why)
        return watch.answer(await anyio.to_thread.run_sync(change))

    return routes


def choosing_thresholds(catalogue: Catalogue, watch: Watch, gate: Gate) -> APIRouter:
    """The threshold while the line runs; takes a key that may operate."""
    routes = APIRouter(prefix=PREFIX, dependencies=[Depends(gate.asks("operate"))])

    @routes.put("/{product}/threshold")
    async def threshold(product: str, decision: ThresholdDecision, key: KeyName) -> ProductAnswer:
        """Let another threshold hold: a rate for every version to come, a value for the version that serves now."""
        override = override_of(decision, catalogue.standing(product), key)
        return watch.answer(await anyio.to_thread.run_sync(catalogue.override, product, override))

    @routes.delete("/{product}/threshold")
    async def lift_threshold(product: str, key: KeyName, decision: Annotated[Decision, Query()]) -> ProductAnswer:
        """Let the version's own threshold hold again."""
        decided = decision.decided(key)
        return watch.answer(await anyio.to_thread.run_sync(catalogue.lift_override, product, decided))

    return routes


def shadowing(catalogue: Catalogue, watch: Watch, gate: Gate) -> APIRouter:
    """A candidate beside the serving version; takes a key that may operate."""
    routes = APIRouter(prefix=PREFIX, dependencies=[Depends(gate.asks("operate"))])

    @routes.put("/{product}/shadow")
    async def shadow(product: str, decision: ShadowDecision, key: KeyName) -> ProductAnswer:
        """Let a candidate judge a share of the live images too; answers stay those of the version that serves."""
        order = ShadowOrder(**decision.decided(key).model_dump(), version=decision.version, share=decision.share)
        return watch.answer(await anyio.to_thread.run_sync(catalogue.shadow, product, order))

    @routes.delete("/{product}/shadow")
    async def end_shadow(product: str, key: KeyName, decision: Annotated[Decision, Query()]) -> ProductAnswer:
        """Let no candidate judge any more."""
        decided = decision.decided(key)
        return watch.answer(await anyio.to_thread.run_sync(catalogue.end_shadow, product, decided))

    return routes


def override_of(decision: ThresholdDecision, standing: Standing, key: str | None) -> Override:
    """The decision as the state keeps it; a value holds for the version that serves, or will once it is awake."""
    serving = standing.serving.name if standing.serving else standing.activated
    if serving is None:
        raise NothingActive(standing.product)
    if decision.version not in (None, serving):
        raise ChangedMeanwhile(standing.product)
    return decision.override(serving, decision.decided(key))


def version_answer(catalogue: Catalogue, product: str, version: str, serving: str | None) -> VersionAnswer:
    """What the store knows of a version, or why it knows nothing."""
    is_serving = version == serving
    try:
        manifest = catalogue.store.manifest(product, version)
    except (StoreError, BundleError) as error:
        return VersionAnswer(version=version, serving=is_serving, fault=str(error))
    return VersionAnswer.of(version, manifest, serving=is_serving)
