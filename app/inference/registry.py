"""The registry of models: follows the state, loads and verifies versions, then switches.

A refresh reads what was decided, without any lock, then brings one product after the other to it. Changes of one
product exclude each other; those of different products do not. Readers never wait: they see the statuses before or
after a change.
"""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from app.errors import ModelError
from app.inference import reconcile
from app.inference.malloc import trim_malloc
from app.inference.reconcile import RETRY_AFTER_S
from app.inference.status import ProductStatus, Shadow
from app.inference.version import Version
from app.store.errors import StoreError, UnknownProduct, UnknownVersion, nothing_active_error
from app.store.state import Decision, Override, ProductState, ShadowDecision, State
from app.store.state_reader import StateOrError, StateReader
from app.store.store import Bundle, Store
from model.bundle import BadName, BundleError, check_version

# Maximum number of loaded versions that were requested by name and do not serve; each takes some megabytes.
MAX_EXTRA_VERSIONS = 4
MARK_INTERVAL_S = 600.0
UNUSABLE = (StoreError, BundleError, ModelError)
ReloadOutcome = Literal["loaded", "refused"]


def unusable_error(product: str, version: str, why: str) -> ModelError:
    """Return the error of a version that can't serve."""
    return ModelError(f"version {version} of product '{product}' can't serve: {why}", kind="version-unusable")


@dataclass(frozen=True)
class RefreshPlan:
    """What was decided about each product, and how many decisions had been made here before it was read."""

    decided: Mapping[str, StateOrError]
    num_decisions: Mapping[str, int]


class ModelRegistry:
    """The products of a store. ``get_serving`` and the statuses never wait; everything else may take seconds.

    ``on_reload``: called with each version that was read to be loaded, by the thread that read it.
    """

    def __init__(
        self,
        *,
        store: Store,
        state: State,
        prepare: Callable[[Bundle], Version],
        max_loaded: int = 64,
        on_reload: Callable[[str, ReloadOutcome], None] = lambda _product, _outcome: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.state = state
        self.error: str | None = None
        self._on_reload = on_reload
        self._prepare = prepare
        self._max_loaded = max_loaded
        self._clock = clock
        self._reader = StateReader(state)
        self._statuses: dict[str, ProductStatus] = {}
        self._used_at: dict[str, float] = {}
        self._extra: OrderedDict[tuple[str, str], Version] = OrderedDict()
        self._failures: dict[tuple[str, str], tuple[float, str]] = {}
        self._num_decisions: Counter[str] = Counter()
        self._has_reloaded = False
        self._marked_at = -MARK_INTERVAL_S
        # For the length of a swap of what is above.
        self._swap = threading.Lock()
        # For the length of a change of one product: of what serves, and of what was requested by name.
        self._changes: dict[str, threading.Lock] = {}
        self._extra_loads: dict[str, threading.Lock] = {}
        self._refreshing = threading.Lock()

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
        self.get_status(product)
        with self._change(product):
            status = self.get_status(product)
            if status.is_evicted and status.activated is not None:
                self._set_status(self._load_serving(status, status.activated))
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
        self.get_status(product)
        with self._extra_loads.setdefault(product, threading.Lock()):
            found = self.get_loaded(product, version)
            if found is not None:
                return found
            key = (product, version)
            self._refuse_recent_failure(key)
            try:
                loaded = self._load_and_verify(product, version)
            except UNUSABLE as error:
                with self._swap:
                    self._failures[key] = (self._clock() + RETRY_AFTER_S, str(error))
                raise
            with self._swap:
                self._extra[key] = loaded
                while len(self._extra) > MAX_EXTRA_VERSIONS:
                    self._extra.popitem(last=False)
            return loaded.with_override(self.get_status(product).override)

    def _refuse_recent_failure(self, key: tuple[str, str]) -> None:
        """Raise ModelError for a version that failed recently, instead of reading it again."""
        with self._swap:
            now_s = self._clock()
            self._failures = {other: failure for other, failure in self._failures.items() if failure[0] > now_s}
        if key in self._failures:
            raise unusable_error(*key, self._failures[key][1])

    def refresh(self) -> None:
        """Follow the state of every product. A version that fails leaves the old one serving.

        A store that can't be read changes nothing, and ``error`` says why.
        """
        with self._refreshing:
            plan = self._read_plan()
            if plan is None:
                return
            with self._swap:
                self._statuses = {name: one for name, one in self._statuses.items() if name in plan.decided}
            for product, decided in plan.decided.items():
                self._follow(product, decided, num_decisions=plan.num_decisions[product])
            self.error = self.store.error or self.state.error
            self._mark_used()
            if self._has_reloaded:
                self._has_reloaded = False
                trim_malloc()

    def _read_plan(self) -> RefreshPlan | None:
        """Return what was decided about each product of the store; None where the store can't be read."""
        try:
            products = self.store.list_products()
        except StoreError as error:
            self.error = str(error)
            return None
        if self._statuses and not products:
            self.error = "the store shows no product any more; what is in memory goes on judging"
            return None
        num_decisions = {product: self._num_decisions[product] for product in products}
        return RefreshPlan(self._reader.read_all(products), num_decisions)

    def _follow(self, product: str, decided: StateOrError, *, num_decisions: int) -> None:
        """Bring a product to what was decided; skipped where it is being changed, or has been since."""
        lock = self._get_lock(product)
        if not lock.acquire(blocking=False):
            return
        try:
            if self._num_decisions[product] == num_decisions:
                self._set_status(self._reconcile(product, decided))
        finally:
            lock.release()

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
        self._check_listed(product, version)
        with self._change(product):
            loaded = self._load_and_verify(product, version)
            decided = self.state.read(product)
            self.state.activate(product, version, at=datetime.now(UTC), by=by, why=why)
            status = replace(self._statuses.get(product, ProductStatus(product)), override=decided.override)
            status = self._set_status(self._load_shadow(reconcile.set_loaded(status, loaded), decided))
            self._evict_for(product)
            return status

    def _check_listed(self, product: str, version: str) -> None:
        """Raise UnknownVersion if the store does not list the version, even if copies exist. Raises StoreError."""
        if version not in self.store.list_versions(product):
            raise UnknownVersion(product, check_version(version))

    def set_override(self, product: str, override: Override) -> ProductStatus:
        """Apply another threshold, now and after a restart. Raises UnknownProduct, StoreError, BadName."""
        self.get_status(product)
        with self._change(product):
            self.state.set_override(product, override)
            return self._set_status(self._reconcile_now(product))

    def clear_override(self, product: str, decided: Decision) -> ProductStatus:
        """Apply the version's own threshold again. Raises UnknownProduct, StoreError."""
        self.get_status(product)
        with self._change(product):
            self.state.clear_override(product, decided)
            return self._set_status(self._reconcile_now(product))

    def set_shadow(self, product: str, decision: ShadowDecision) -> ProductStatus:
        """Load and verify a candidate, then run it in shadow. Raises as ``activate``."""
        self._check_listed(product, decision.version)
        with self._change(product):
            candidate = self._load_and_verify(product, decision.version)
            self.state.set_shadow(product, decision)
            shadow = Shadow(decision.version, decision.share, candidate)
            return self._set_status(replace(self.get_status(product), shadow=shadow))

    def clear_shadow(self, product: str, decided: Decision) -> ProductStatus:
        """Stop the candidate. Raises UnknownProduct, StoreError."""
        self.get_status(product)
        with self._change(product):
            self.state.clear_shadow(product, decided)
            return self._set_status(replace(self.get_status(product), shadow=None))

    @contextmanager
    def _change(self, product: str) -> Iterator[None]:
        """Exclude other changes of a product; a refresh that read its state before skips it."""
        with self._get_lock(product):
            try:
                yield
            finally:
                self._num_decisions[product] += 1

    def _get_lock(self, product: str) -> threading.Lock:
        """Return the lock of changes of a product."""
        return self._changes.setdefault(product, threading.Lock())

    def _set_status(self, status: ProductStatus) -> ProductStatus:
        """Replace a status; readers see either the old or the new statuses."""
        with self._swap:
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
            self._on_reload(product, "refused")
            raise
        except Exception as error:  # an unexpected error in one version must not stop the other products
            self._on_reload(product, "refused")
            raise unusable_error(product, version, f"{type(error).__name__}: {error}") from error
        self._on_reload(product, "loaded")
        return loaded

    def _reconcile_now(self, product: str) -> ProductStatus:
        """Return a product's status by its state as it is now."""
        try:
            return self._reconcile(product, self.state.read(product))
        except (StoreError, BadName) as error:
            return self._reconcile(product, error)

    def _reconcile(self, product: str, decided: StateOrError) -> ProductStatus:
        """Return a product's status by the decisions about it; loads what they ask for."""
        old = self._statuses.get(product, ProductStatus(product))
        if not isinstance(decided, ProductState):
            return replace(old, error=str(decided))
        step = reconcile.plan_serving(old, decided, now_s=self._clock(), has_room=self._num_loaded() < self._max_loaded)
        status = step.status if step.load is None else self._load_serving(step.status, step.load)
        return status if decided.current is None else self._load_shadow(status, decided)

    def _load_serving(self, status: ProductStatus, version: str) -> ProductStatus:
        try:
            return reconcile.set_loaded(status, self._load_and_verify(status.product, version))
        except UNUSABLE as error:
            return reconcile.set_failed(status, version, error, now_s=self._clock())

    def _load_shadow(self, status: ProductStatus, decided: ProductState) -> ProductStatus:
        """Return the status with the candidate that was decided, loaded if needed."""
        step = reconcile.plan_shadow(status, decided, now_s=self._clock())
        if step.load is None:
            return step.status
        try:
            return reconcile.set_candidate(step.status, self._load_and_verify(status.product, step.load))
        except UNUSABLE as error:
            return reconcile.set_candidate_failed(step.status, error, now_s=self._clock())

    def _num_loaded(self) -> int:
        return sum(status.serving is not None for status in self._statuses.values())

    def _evict_for(self, product: str) -> None:
        """Evict the least recently used product where there is no room for this one."""
        with self._swap:
            others = [one for one in self._statuses.values() if one.serving is not None and one.product != product]
            if self.get_status(product).serving is None or len(others) < self._max_loaded:
                return
            oldest = min(others, key=lambda one: self._used_at.get(one.product, 0.0))
            evicted = replace(oldest, serving=None, shadow=None, is_evicted=True)
            self._statuses = {**self._statuses, oldest.product: evicted}
