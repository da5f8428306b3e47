"""Which version serves each product: follows the state, loads and proves beside what serves, then switches."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from app.errors import ModelError
from app.inference.malloc import give_back
from app.inference.version import Version
from app.store.errors import NothingActive, StoreError, UnknownProduct, UnknownVersion
from app.store.state import Decided, Orders, Override, ShadowOrder, State
from app.store.store import Bundle, Store
from model.bundle import BadName, BundleError, check_version

# Versions that were asked for by name and do not serve; each holds a student of some megabytes.
MOST_EXTRA_VERSIONS = 4
# A version that failed is tried again: a missing file may arrive, a full device may empty. Each try reads it whole.
RETRY_AFTER_S = 30.0
MARK_EVERY_S = 600.0
UNUSABLE = (StoreError, BundleError, ModelError)
Outcome = Literal["loaded", "refused"]


class VersionUnusable(ModelError):
    """A version that can't serve, with the reason."""

    def __init__(self, product: str, version: str, why: str) -> None:
        super().__init__(f"version {version} of product '{product}' can't serve: {why}")


@dataclass(frozen=True)
class Shadow:
    """The candidate that judges beside the serving version; ``fault`` says why it does not."""

    version: str
    share: float
    candidate: Version | None = None
    fault: str | None = None
    retry_at_s: float = 0.0


@dataclass(frozen=True)
class Standing:
    """How a product stands: what serves, what was activated, and why that does not serve if it does not.

    ``is_resting``: nothing is wrong, but it was unloaded for want of room, and is loaded again when it is asked for.
    """

    product: str
    serving: Version | None = None
    activated: str | None = None
    override: Override | None = None
    shadow: Shadow | None = None
    is_resting: bool = False
    fault: str | None = None
    retry_at_s: float = 0.0


class Catalogue:
    """The products of a store. ``serving`` never waits; all else but the standings may take seconds."""

    def __init__(
        self,
        *,
        store: Store,
        state: State,
        prepare: Callable[[Bundle], Version],
        most_loaded: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.state = state
        self.fault: str | None = None
        self.on_reload: Callable[[str, Outcome], None] = lambda _product, _outcome: None
        self._prepare = prepare
        self._most_loaded = most_loaded
        self._clock = clock
        self._standings: dict[str, Standing] = {}
        self._used_at: dict[str, float] = {}
        self._extra: OrderedDict[tuple[str, str], Version] = OrderedDict()
        self._failures: dict[tuple[str, str], tuple[float, str]] = {}
        self._has_reloaded = False
        self._marked_at = -MARK_EVERY_S
        self._loading = threading.Lock()

    def standings(self) -> list[Standing]:
        """How every product stands, by name."""
        standings = self._standings
        return [standings[product] for product in sorted(standings)]

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
            self._used_at[product] = self._clock()
            return standing.serving
        if standing.activated is None and standing.fault is None:
            raise NothingActive(product)
        raise VersionUnusable(product, standing.activated or "?", standing.fault or "not loaded yet")

    def woken(self, product: str) -> Version:
        """The version that judges, loaded again if it rests; as ``serving``."""
        with self._loading:
            standing = self.standing(product)
            if standing.is_resting and standing.activated is not None:
                self._put(self._switched(standing, standing.activated))
                self._make_room_for(product)
            return self.serving(product)

    def known(self, product: str, version: str) -> Version | None:
        """A version by name, None where it is not in memory; never waits. Raises UnknownProduct."""
        standing = self.standing(product)
        if standing.serving is not None and standing.serving.name == version:
            return standing.serving
        extra = self._extra.get((product, version))
        return extra.ruled(standing.override) if extra is not None else None

    def named(self, product: str, version: str) -> Version:
        """A version by name, loaded if need be. Raises StoreError, BundleError, ModelError, BadName."""
        with self._loading:
            found = self.known(product, version)
            if found is not None:
                return found
            key = (product, version)
            self._refuse_if_failed_lately(key)
            try:
                self._extra[key] = self._tried(product, version)
            except UNUSABLE as error:
                self._failures[key] = (self._clock() + RETRY_AFTER_S, str(error))
                raise
            while len(self._extra) > MOST_EXTRA_VERSIONS:
                self._extra.popitem(last=False)
            return self._extra[key].ruled(self.standing(product).override)

    def _refuse_if_failed_lately(self, key: tuple[str, str]) -> None:
        """Raise VersionUnusable, rather than read a broken version whole for everybody who asks for it."""
        now = self._clock()
        self._failures = {other: failure for other, failure in self._failures.items() if failure[0] > now}
        if key in self._failures:
            raise VersionUnusable(*key, self._failures[key][1])

    def refresh(self) -> None:
        """Follow the state of every product; a version that fails leaves the old one serving.

        A store that can't be read leaves everything as it was, and ``fault`` says why.
        """
        try:
            products = self.store.products()  # before the lock: a storage that hangs holds up nobody but this
        except StoreError as error:
            self.fault = str(error)
            return
        with self._loading:
            if self._standings and not products:
                self.fault = "the store shows no product any more; what is in memory goes on judging"
                return
            self.fault = None
            self._standings = {name: self._standings[name] for name in products if name in self._standings}
            for product in products:
                self._put(self._followed(product))
            self.fault = self.store.trouble or self.state.trouble
            self._mark_used()
            if self._has_reloaded:
                self._has_reloaded = False
                give_back()

    def _mark_used(self) -> None:
        """Now and then: copies of what serves must not make room for what was only looked at."""
        if self._clock() - self._marked_at < MARK_EVERY_S:
            return
        self._marked_at = self._clock()
        for standing in self._standings.values():
            if standing.serving is not None:
                serving = standing.serving
                self.store.mark_used(standing.product, serving.name, serving.manifest.teacher.sha256)

    def activate(self, product: str, version: str, *, by: str, why: str) -> Standing:
        """Load and prove a version, and only if that works make it the one that serves.

        Raises StoreError, BundleError, ModelError or BadName; then nothing has changed.
        """
        with self._loading:
            self._check_listed(product, version)
            loaded = self._tried(product, version)
            orders = self.state.orders(product)
            self.state.activate(product, version, at=datetime.now(UTC), by=by, why=why)
            standing = self._put(self._standing_of(product, orders, serving=loaded))
            self._make_room_for(product)
            return standing

    def _check_listed(self, product: str, version: str) -> None:
        """Raise UnknownVersion where the store does not have it, whatever copies there are. Raises StoreError."""
        if version not in self.store.versions(product):
            raise UnknownVersion(product, check_version(version))

    def override(self, product: str, override: Override) -> Standing:
        """Let another threshold hold, now and after a restart. Raises UnknownProduct, StoreError, BadName."""
        with self._loading:
            self.standing(product)
            self.state.override(product, override)
            return self._put(self._followed(product))

    def lift_override(self, product: str, decided: Decided) -> Standing:
        """Let the version's own threshold hold again. Raises UnknownProduct, StoreError."""
        with self._loading:
            self.standing(product)
            self.state.lift_override(product, decided)
            return self._put(self._followed(product))

    def shadow(self, product: str, order: ShadowOrder) -> Standing:
        """Let a candidate judge beside the serving version, once it is loaded and proven. Raises as ``activate``."""
        with self._loading:
            self._check_listed(product, order.version)
            candidate = self._tried(product, order.version)
            self.state.shadow(product, order)
            shadow = Shadow(order.version, order.share, candidate)
            return self._put(replace(self.standing(product), shadow=shadow))

    def end_shadow(self, product: str, decided: Decided) -> Standing:
        """Let no candidate judge any more. Raises UnknownProduct, StoreError."""
        with self._loading:
            self.standing(product)
            self.state.end_shadow(product, decided)
            return self._put(replace(self.standing(product), shadow=None))

    def _put(self, standing: Standing) -> Standing:
        """Make a standing the one that holds; readers see either the old ones or the new."""
        self._standings = {**self._standings, standing.product: standing}
        return standing

    def _tried(self, product: str, version: str) -> Version:
        """A version loaded and proven; the outcome is told. Raises StoreError, BundleError, ModelError, BadName."""
        self._has_reloaded = True
        try:
            loaded = self._prepare(self.store.bundle(product, version))
        except (UnknownProduct, UnknownVersion, BadName):
            raise  # not counted: these names are whatever somebody typed
        except UNUSABLE:
            self.on_reload(product, "refused")
            raise
        except Exception as error:  # what nobody has thought of in a foreign version must not stop the other products
            self.on_reload(product, "refused")
            raise VersionUnusable(product, version, f"{type(error).__name__}: {error}") from error
        self.on_reload(product, "loaded")
        return loaded

    def _followed(self, product: str) -> Standing:
        """How a product stands by what was decided of it."""
        old = self._standings.get(product, Standing(product))
        try:
            orders = self.state.orders(product)
        except (StoreError, BadName) as error:
            return replace(old, fault=str(error))
        if orders.current is None:
            gone = "it was activated, and its current.json is gone; what is in memory goes on judging"
            return replace(old, fault=gone) if old.serving is not None else Standing(product)
        standing = self._serving_by(replace(old, override=orders.override), orders.current.version)
        return replace(standing, shadow=self._shadow_by(standing, orders))

    def _serving_by(self, old: Standing, version: str) -> Standing:
        if old.serving is not None:
            old = replace(old, serving=old.serving.ruled(old.override))
        if old.serving is not None and old.serving.name == version:
            return replace(old, activated=version, fault=None)
        if old.activated == version and self._clock() < old.retry_at_s:
            return old
        if old.serving is None and self._num_loaded() >= self._most_loaded:
            is_broken = old.fault is not None and old.activated == version
            return old if is_broken else replace(old, activated=version, is_resting=True, fault=None)
        return self._switched(old, version)

    def _switched(self, old: Standing, version: str) -> Standing:
        try:
            loaded = self._tried(old.product, version)
        except UNUSABLE as error:
            retry_at_s = self._clock() + RETRY_AFTER_S
            return replace(old, activated=version, is_resting=False, fault=str(error), retry_at_s=retry_at_s)
        serving = loaded.ruled(old.override)
        return replace(old, serving=serving, activated=version, is_resting=False, fault=None, retry_at_s=0.0)

    def _standing_of(self, product: str, orders: Orders, *, serving: Version) -> Standing:
        """A product under these orders, with this version serving."""
        old = self._standings.get(product, Standing(product))
        ruled = serving.ruled(orders.override)
        now = Standing(product, serving=ruled, activated=serving.name, override=orders.override, shadow=old.shadow)
        return replace(now, shadow=self._shadow_by(now, orders))

    def _shadow_by(self, old: Standing, orders: Orders) -> Shadow | None:
        order = orders.shadow
        if order is None:
            return Shadow("?", 0.0, fault=orders.shadow_fault) if orders.shadow_fault else None
        if old.serving is None:
            return Shadow(order.version, order.share)
        known = old.shadow or Shadow(order.version, order.share)
        is_settled = known.candidate is not None or self._clock() < known.retry_at_s
        if known.version == order.version and is_settled:
            return replace(known, share=order.share)
        try:
            candidate = self._tried(old.product, order.version)
        except UNUSABLE as error:
            retry_at_s = self._clock() + RETRY_AFTER_S
            return Shadow(order.version, order.share, fault=str(error), retry_at_s=retry_at_s)
        return Shadow(order.version, order.share, candidate)

    def _num_loaded(self) -> int:
        return sum(standing.serving is not None for standing in self._standings.values())

    def _make_room_for(self, product: str) -> None:
        """Let the product rest that was asked for least recently, where there is no room for one more."""
        others = [one for one in self._standings.values() if one.serving is not None and one.product != product]
        if self.standing(product).serving is None or len(others) < self._most_loaded:
            return
        oldest = min(others, key=lambda one: self._used_at.get(one.product, 0.0))
        self._put(replace(oldest, serving=None, shadow=None, is_resting=True))
