"""Which version serves each product: follows the state, loads beside what serves, then switches."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from app.engine.errors import ModelError
from app.engine.version import Loader, Version
from app.store.errors import NothingActive, StoreError, UnknownProduct
from app.store.state import State
from app.store.store import Store
from model.bundle import BadName, BundleError

# Versions that were asked for by name and do not serve; each holds a student of some megabytes.
MOST_EXTRA_VERSIONS = 4
# A version that failed is tried again: a missing file may arrive, a full device may empty. Each try reads it whole.
RETRY_AFTER_S = 30.0


class VersionUnusable(ModelError):
    """A version that can't serve, with the reason."""

    def __init__(self, product: str, version: str, why: str) -> None:
        super().__init__(f"version {version} of product '{product}' can't serve: {why}")


@dataclass(frozen=True)
class Standing:
    """How a product stands: what serves, what was activated, and why that does not serve if it does not."""

    product: str
    serving: Version | None = None
    activated: str | None = None
    fault: str | None = None
    retry_at_s: float = 0.0


class Catalogue:
    """The products of a store. ``refresh``, ``activate`` and ``named`` may take seconds; ``serving`` never waits."""

    def __init__(
        self,
        *,
        store: Store,
        state: State,
        loader: Loader,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.state = state
        self._loader = loader
        self._clock = clock
        self.fault: str | None = None
        self._standings: dict[str, Standing] = {}
        self._extra: OrderedDict[tuple[str, str], Version] = OrderedDict()
        self._loading = threading.Lock()

    @property
    def provider(self) -> str:
        """Where the versions run."""
        return self._loader.device.provider

    def standings(self) -> list[Standing]:
        """How every product stands, by name."""
        return [self._standings[product] for product in sorted(self._standings)]

    def standing(self, product: str) -> Standing:
        """How one product stands; raises UnknownProduct."""
        try:
            return self._standings[product]
        except KeyError:
            raise UnknownProduct(product) from None

    def serving(self, product: str) -> Version:
        """The version that judges now. Raises UnknownProduct, NothingActive, VersionUnusable."""
        standing = self.standing(product)
        if standing.serving is not None:
            return standing.serving
        if standing.activated is None and standing.fault is None:
            raise NothingActive(product)
        raise VersionUnusable(product, standing.activated or "?", standing.fault or "not loaded yet")

    def named(self, product: str, version: str) -> Version:
        """A version by name, loaded if need be. Raises StoreError, BundleError, ModelError, BadName."""
        serving = self.standing(product).serving
        if serving is not None and serving.name == version:
            return serving
        with self._loading:
            key = (product, version)
            if key not in self._extra:
                self._extra[key] = self._loader.load(self.store.bundle(product, version))
                while len(self._extra) > MOST_EXTRA_VERSIONS:
                    self._extra.popitem(last=False)
            return self._extra[key]

    def refresh(self) -> None:
        """Follow the state of every product; a version that fails leaves the old one serving.

        A store that can't be read leaves everything as it was, and ``fault`` says why.
        """
        with self._loading:
            try:
                products = self.store.products()
            except StoreError as error:
                self.fault = str(error)
                return
            self.fault = None
            self._standings = {product: self._followed(product) for product in products}

    def activate(self, product: str, version: str, *, by: str, why: str) -> Standing:
        """Load a version, and only if that works make it the one that serves.

        Raises StoreError, BundleError, ModelError or BadName; then nothing has changed.
        """
        with self._loading:
            loaded = self._loader.load(self.store.bundle(product, version))
            self.state.activate(product, version, at=datetime.now(UTC), by=by, why=why)
            standing = Standing(product, serving=loaded, activated=version)
            self._standings = {**self._standings, product: standing}
            return standing

    def _followed(self, product: str) -> Standing:
        old = self._standings.get(product, Standing(product))
        try:
            current = self.state.current(product)
        except (StoreError, BadName) as error:
            return replace(old, fault=str(error))
        if current is None:
            return Standing(product)
        if old.serving is not None and old.serving.name == current.version:
            return replace(old, activated=current.version, fault=None)
        if old.activated == current.version and self._clock() < old.retry_at_s:
            return old
        return self._switched(old, current.version)

    def _switched(self, old: Standing, version: str) -> Standing:
        try:
            loaded = self._loader.load(self.store.bundle(old.product, version))
        except (StoreError, BundleError, ModelError) as error:
            retry_at_s = self._clock() + RETRY_AFTER_S
            return replace(old, activated=version, fault=str(error), retry_at_s=retry_at_s)
        return Standing(old.product, serving=loaded, activated=version)
