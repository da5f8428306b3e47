"""Routes that say what is there and what serves, and that change what serves."""

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from app.api.answers import ProductAnswer, ProductsAnswer, VersionAnswer, VersionsAnswer
from app.engine.catalogue import Catalogue
from app.store.errors import StoreError
from model.bundle import BundleError


class Decision(BaseModel):
    """Who decides, and why; both are kept in the audit."""

    model_config = ConfigDict(extra="forbid")

    by: Annotated[str, Field(min_length=1, max_length=128)] = "api"
    why: Annotated[str, Field(max_length=1024)] = ""


def router(*, catalogue: Catalogue) -> APIRouter:
    """``/v1/products`` and what lies under a product, but for inspections."""
    routes = APIRouter(prefix="/v1/products", tags=["products"])

    @routes.get("")
    async def products() -> ProductsAnswer:
        """Every product, and which version serves it."""
        return ProductsAnswer(products=tuple(map(ProductAnswer.of, catalogue.standings())))

    @routes.get("/{product}")
    async def product_(product: str) -> ProductAnswer:
        """One product: what serves, what was activated, and why that does not serve if it does not."""
        return ProductAnswer.of(catalogue.standing(product))

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

    @routes.post("/{product}/versions/{version}/activate")
    async def activate(product: str, version: str, decision: Decision | None = None) -> ProductAnswer:
        """Make a version serve; it is loaded first, and if that fails the old one goes on."""
        return await activated(product, version, decision or Decision())

    @routes.post("/{product}/rollback")
    async def rollback(product: str, decision: Decision | None = None) -> ProductAnswer:
        """Make the version before the current one serve again."""
        previous = await anyio.to_thread.run_sync(catalogue.state.previous, product)
        return await activated(product, previous, decision or Decision())

    async def activated(product: str, version: str, decision: Decision) -> ProductAnswer:
        standing = await anyio.to_thread.run_sync(
            lambda: catalogue.activate(product, version, by=decision.by, why=decision.why)
        )
        return ProductAnswer.of(standing)

    return routes


def version_answer(catalogue: Catalogue, product: str, version: str, serving: str | None) -> VersionAnswer:
    """What the store knows of a version, or why it knows nothing."""
    is_serving = version == serving
    try:
        manifest = catalogue.store.manifest(product, version)
    except (StoreError, BundleError) as error:
        return VersionAnswer(version=version, serving=is_serving, fault=str(error))
    return VersionAnswer.of(version, manifest, serving=is_serving)
