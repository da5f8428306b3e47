"""The registry of models: follows the state, loads and verifies versions, then switches."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from app.errors import ModelError
from app.inference.malloc import trim_malloc
from app.inference.version import Version
from app.store.errors import StoreError, UnknownProduct, UnknownVersion, nothing_active_error
from app.store.state import Decision, Override, ProductState, ShadowDecision, State
from app.store.store import Bundle, Store
from model.bundle import BadName, BundleError, check_version

# Maximum number of loaded versions that were requested by name and do not serve; each takes some megabytes.
MAX_EXTRA_VERSIONS = 4
# Interval between retries of a failed version: the cause may go away. Each retry reads all its files.
RETRY_AFTER_S = 30.0
MARK_INTERVAL_S = 600.0
UNUSABLE = (StoreError, BundleError, ModelError)
ReloadOutcome = Literal["loaded", "refused"]


def unusable_error(product: str, version: str, why: str) -> ModelError:
    """Return the error of a version that can't serve."""
    return ModelError(f"version {version} of product '{product}' can't serve: {why}", kind="version-unusable")


@dataclass(frozen=True)
class Shadow:
    """The candidate that runs in shadow; ``error`` says why it does not."""

    version: str
    share: float
    candidate: Version | None = None
    error: str | None = None
    retry_at_s: float = 0.0


@dataclass(frozen=True)
class ProductStatus:
    """The status of a product: the serving and the activated version; ``error`` says why the latter does not serve.

    ``is_evicted``: it was unloaded to free memory, and is loaded again on request.
    """

    product: str
    serving: Version | None = None
    activated: str | None = None
    override: Override | None = None
    shadow: Shadow | None = None
    is_evicted: bool = False
    error: str | None = None
    retry_at_s: float = 0.0


class ModelRegistry:
    """The products of a store. ``get_serving`` and the statuses never wait; everything else may take seconds."""

    def __init__(
        self,
        *,
        store: Store,
        state: State,
        prepare: Callable[[Bundle], Version],
        max_loaded: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.state = state
        self.error: str | None = None
        self.on_reload: Callable[[str, ReloadOutcome], None] = lambda _product, _outcome: None
        self._prepare = prepare
        self._max_loaded = max_loaded
        self._clock = clock
        self._statuses: dict[str, ProductStatus] = {}
        self._used_at: dict[str, float] = {}
        self._extra: OrderedDict[tuple[str, str], Version] = OrderedDict()
        self._failures: dict[tuple[str, str], tuple[float, str]] = {}
        self._has_reloaded = False
        self._marked_at = -MARK_INTERVAL_S
        self._loading = threading.Lock()

    def list_statuses(self) -> list[ProductStatus]:
        """Return the status of every product, by name."""
        statuses = self._statuses
        return [statuses[product] for product in sorted(statuses)]

    def get_status(self, product: str) -> ProductStatus:
        """Return the status of one product. Raises UnknownProduct."""
        try:
            return self._statuses[product]
        except KeyError:
            raise UnknownProduct(product) from None

    def get_serving(self, product: str) -> Version:
        """Return the serving version. Raises UnknownProduct, StoreError, ModelError."""
        status = self.get_status(product)
        if status.serving is not None:
            self._used_at[product] = self._clock()
            return status.serving
        if status.activated is None and status.error is None:
            raise nothing_active_error(product)
        raise unusable_error(product, status.activated or "?", status.error or "not loaded yet")

    def reload(self, product: str) -> Version:
        """Return the serving version, loaded again if it was evicted; raises as ``get_serving``."""
        with self._loading:
            status = self.get_status(product)
            if status.is_evicted and status.activated is not None:
                self._set_status(self._switch(status, status.activated))
                self._evict_for(product)
            return self.get_serving(product)

    def get_loaded(self, product: str, version: str) -> Version | None:
        """Return a version by name, or None where it is not in memory; never waits. Raises UnknownProduct."""
        status = self.get_status(product)
        if status.serving is not None and status.serving.name == version:
            return status.serving
        extra = self._extra.get((product, version))
        return extra.with_override(status.override) if extra is not None else None

    def get_or_load(self, product: str, version: str) -> Version:
        """Return a version by name, loaded if needed. Raises StoreError, BundleError, ModelError, BadName."""
        with self._loading:
            found = self.get_loaded(product, version)
            if found is not None:
                return found
            key = (product, version)
            self._refuse_recent_failure(key)
            try:
                self._extra[key] = self._load_and_verify(product, version)
            except UNUSABLE as error:
                self._failures[key] = (self._clock() + RETRY_AFTER_S, str(error))
                raise
            while len(self._extra) > MAX_EXTRA_VERSIONS:
                self._extra.popitem(last=False)
            return self._extra[key].with_override(self.get_status(product).override)

    def _refuse_recent_failure(self, key: tuple[str, str]) -> None:
        """Raise ModelError for a version that failed recently, instead of reading it again."""
        now = self._clock()
        self._failures = {other: failure for other, failure in self._failures.items() if failure[0] > now}
        if key in self._failures:
            raise unusable_error(*key, self._failures[key][1])

    def refresh(self) -> None:
        """Follow the state of every product. A version that fails leaves the old one serving.

        A store that can't be read changes nothing, and ``error`` says why.
        """
        try:
            products = self.store.list_products()  # before taking the lock: a hanging storage must block only this call
        except StoreError as error:
            self.error = str(error)
            return
        with self._loading:
            if self._statuses and not products:
                self.error = "the store shows no product any more; what is in memory goes on judging"
                return
            self.error = None
            self._statuses = {name: self._statuses[name] for name in products if name in self._statuses}
            for product in products:
                self._set_status(self._reconcile(product))
            self.error = self.store.error or self.state.error
            self._mark_used()
            if self._has_reloaded:
                self._has_reloaded = False
                trim_malloc()

    def _mark_used(self) -> None:
        """From time to time, mark the copies of serving versions as used, so that they are evicted last."""
        if self._clock() - self._marked_at < MARK_INTERVAL_S:
            return
        self._marked_at = self._clock()
        for status in self._statuses.values():
            if status.serving is not None:
                serving = status.serving
                self.store.mark_used(status.product, serving.name, serving.manifest.teacher.sha256)

    def activate(self, product: str, version: str, *, by: str, why: str) -> ProductStatus:
        """Load and verify a version, then make it the serving one.

        Raises StoreError, BundleError, ModelError or BadName; then nothing has changed.
        """
        with self._loading:
            self._check_listed(product, version)
            loaded = self._load_and_verify(product, version)
            product_state = self.state.read(product)
            self.state.activate(product, version, at=datetime.now(UTC), by=by, why=why)
            status = self._set_status(self._make_status(product, product_state, serving=loaded))
            self._evict_for(product)
            return status

    def _check_listed(self, product: str, version: str) -> None:
        """Raise UnknownVersion if the store does not list the version, even if copies exist. Raises StoreError."""
        if version not in self.store.list_versions(product):
            raise UnknownVersion(product, check_version(version))

    def set_override(self, product: str, override: Override) -> ProductStatus:
        """Apply another threshold, now and after a restart. Raises UnknownProduct, StoreError, BadName."""
        with self._loading:
            self.get_status(product)
            self.state.set_override(product, override)
            return self._set_status(self._reconcile(product))

    def clear_override(self, product: str, decided: Decision) -> ProductStatus:
        """Apply the version's own threshold again. Raises UnknownProduct, StoreError."""
        with self._loading:
            self.get_status(product)
            self.state.clear_override(product, decided)
            return self._set_status(self._reconcile(product))

    def set_shadow(self, product: str, decision: ShadowDecision) -> ProductStatus:
        """Load and verify a candidate, then run it in shadow. Raises as ``activate``."""
        with self._loading:
            self._check_listed(product, decision.version)
            candidate = self._load_and_verify(product, decision.version)
            self.state.set_shadow(product, decision)
            shadow = Shadow(decision.version, decision.share, candidate)
            return self._set_status(replace(self.get_status(product), shadow=shadow))

    def clear_shadow(self, product: str, decided: Decision) -> ProductStatus:
        """Stop the candidate. Raises UnknownProduct, StoreError."""
        with self._loading:
            self.get_status(product)
            self.state.clear_shadow(product, decided)
            return self._set_status(replace(self.get_status(product), shadow=None))

    def _set_status(self, status: ProductStatus) -> ProductStatus:
        """Replace a status; readers see either the old or the new statuses."""
        self._statuses = {**self._statuses, status.product: status}
        return status

    def _load_and_verify(self, product: str, version: str) -> Version:
        """Load and verify a version, and report the outcome. Raises StoreError, BundleError, ModelError, BadName."""
        self._has_reloaded = True
        try:
            loaded = self._prepare(self.store.load_bundle(product, version))
        except (UnknownProduct, UnknownVersion, BadName):
            raise  # not counted: any name can be requested
        except UNUSABLE:
            self.on_reload(product, "refused")
            raise
        except Exception as error:  # an unexpected error in one version must not stop the other products
            self.on_reload(product, "refused")
            raise unusable_error(product, version, f"{type(error).__name__}: {error}") from error
        self.on_reload(product, "loaded")
        return loaded

    def _reconcile(self, product: str) -> ProductStatus:
        """Return a product's status by its state."""
        old = self._statuses.get(product, ProductStatus(product))
        try:
            product_state = self.state.read(product)
        except (StoreError, BadName) as error:
            return replace(old, error=str(error))
        if product_state.current is None:
            gone = "it was activated, and its current.json is gone; what is in memory goes on judging"
            return replace(old, error=gone) if old.serving is not None else ProductStatus(product)
        status = self._reconcile_serving(replace(old, override=product_state.override), product_state.current.version)
        return replace(status, shadow=self._reconcile_shadow(status, product_state))

    def _reconcile_serving(self, old: ProductStatus, version: str) -> ProductStatus:
        if old.serving is not None:
            old = replace(old, serving=old.serving.with_override(old.override))
        if old.serving is not None and old.serving.name == version:
            return replace(old, activated=version, error=None)
        if old.activated == version and self._clock() < old.retry_at_s:
            return old
        if old.serving is None and self._num_loaded() >= self._max_loaded:
            is_broken = old.error is not None and old.activated == version
            return old if is_broken else replace(old, activated=version, is_evicted=True, error=None)
        return self._switch(old, version)

    def _switch(self, old: ProductStatus, version: str) -> ProductStatus:
        try:
            loaded = self._load_and_verify(old.product, version)
        except UNUSABLE as error:
            retry_at_s = self._clock() + RETRY_AFTER_S
            return replace(old, activated=version, is_evicted=False, error=str(error), retry_at_s=retry_at_s)
        serving = loaded.with_override(old.override)
        return replace(old, serving=serving, activated=version, is_evicted=False, error=None, retry_at_s=0.0)

    def _make_status(self, product: str, product_state: ProductState, *, serving: Version) -> ProductStatus:
        """Return the status of a product by its state, with this version serving."""
        old = self._statuses.get(product, ProductStatus(product))
        ruled = serving.with_override(product_state.override)
        now = ProductStatus(
            product, serving=ruled, activated=serving.name, override=product_state.override, shadow=old.shadow
        )
        return replace(now, shadow=self._reconcile_shadow(now, product_state))

    def _reconcile_shadow(self, old: ProductStatus, product_state: ProductState) -> Shadow | None:
        order = product_state.shadow
        if order is None:
            return Shadow("?", 0.0, error=product_state.shadow_error) if product_state.shadow_error else None
        if old.serving is None:
            return Shadow(order.version, order.share)
        known = old.shadow or Shadow(order.version, order.share)
        is_settled = known.candidate is not None or self._clock() < known.retry_at_s
        if known.version == order.version and is_settled:
            return replace(known, share=order.share)
        try:
            candidate = self._load_and_verify(old.product, order.version)
        except UNUSABLE as error:
            retry_at_s = self._clock() + RETRY_AFTER_S
            return Shadow(order.version, order.share, error=str(error), retry_at_s=retry_at_s)
        return Shadow(order.version, order.share, candidate)

    def _num_loaded(self) -> int:
        return sum(status.serving is not None for status in self._statuses.values())

    def _evict_for(self, product: str) -> None:
        """Evict the least recently used product where there is no room for this one."""
        others = [one for one in self._statuses.values() if one.serving is not None and one.product != product]
        if self.get_status(product).serving is None or len(others) < self._max_loaded:
            return
        oldest = min(others, key=lambda one: self._used_at.get(one.product, 0.0))
        self._set_status(replace(oldest, serving=None, shadow=None, is_evicted=True))
