"""What is not needed any more, taken out of a store while services read it.

A folder is renamed before it is emptied, and on object storage a version loses its manifest first, so that a reader
sees it whole or not at all. What serves, what served before it, what judges in the shadow and what was made a short
while ago is never touched.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from app.store import paths
from app.store.errors import MissingFile, StoreUnusable, UnknownProduct
from app.store.files import INCOMING, is_locked, reporting_trouble
from app.store.labels import Feedback
from app.store.paths import Place
from app.store.state import State
from app.store.store import Store
from model.bundle import MANIFEST, VERSION_PATTERN, BundleError, check_product

# A trainer writes a teacher before the version that names it, and a version's folder before its name.
GRACE = timedelta(days=1)


class StillTrained(StoreUnusable):
    """A product that is to be removed and is being trained."""

    def __init__(self, store: Store, product: str) -> None:
        super().__init__(store.root, f"a training of product '{product}' is running; end it first")


class StillServes(StoreUnusable):
    """A product that is to be removed and serves."""

    def __init__(self, store: Store, product: str) -> None:
        super().__init__(store.root, f"product '{product}' has an active version; say --yes to remove it all the same")


@dataclass(frozen=True)
class Pruner:
    """Removes from a store and its state. ``now``: by which ages are told."""

    store: Store
    state: State
    now: datetime

    def prune(self, *, keep: int) -> Iterator[Place]:
        """All but the ``keep`` newest versions of each product, and what nothing names; each path once it is gone.

        Raises StoreError or BundleError; a version whose manifest can't be read keeps every teacher.
        """
        for product in self._products():
            for version in self._old_versions(product, keep=keep):
                yield from self._remove_version(product, version)
            yield from self._orphaned_training(product)
        yield from self._orphaned_teachers()
        yield from self._leftovers()

    def remove(self, product: str, *, even_if_active: bool) -> Iterator[Place]:
        """A product with all that is known of it. Raises UnknownProduct, StillServes, StillTrained."""
        folder, state = self.store.product_folder(product), self.state.root / check_product(product)
        if not paths.is_folder(folder) and not paths.is_folder(state):
            raise UnknownProduct(product)
        with paths.only_fresh(self.state.root):
            current = self.state.current(product)
        if not even_if_active and current is not None:
            raise StillServes(self.store, product)
        work = self._work / product
        if any(is_locked(lock) for lock in work.glob("*/lock")):
            raise StillTrained(self.store, product)
        for place in (state, folder, work):  # the state first: then nothing serves
            if paths.is_folder(place):
                yield removed(place)
        yield from self._orphaned_teachers()

    def expire(self, product: str, *, days: float) -> Iterator[str]:
        """Confirmed images labelled longer ago than so many days: the digest of each once it is gone."""
        feedback = Feedback(self.state)
        for one in feedback.all(product):
            if one.at < self.now - timedelta(days=days):
                feedback.forget(product, [one])
                yield one.sha256

    def _old_versions(self, product: str, *, keep: int) -> Iterator[str]:
        """The versions that nobody needs, oldest first, each looked at when its turn has come."""
        versions = self._versions(product)
        for version in versions[: max(0, len(versions) - keep)]:
            if version not in self._needed(product) and self._is_old(self.store.version_folder(product, version)):
                yield version

    def _needed(self, product: str) -> set[str]:
        """What serves, what served before it, and what judges in the shadow."""
        with paths.only_fresh(self.state.root):
            orders = self.state.orders(product)
        shadowed = {orders.shadow.version} if orders.shadow else set()
        if orders.current is None:
            return shadowed
        return shadowed | {orders.current.version, orders.current.previous or orders.current.version}

    def _remove_version(self, product: str, version: str) -> Iterator[Place]:
        """A version, then what the trainer keeps of it."""
        for place in (self.store.version_folder(product, version), self.store.training_folder(product, version)):
            if paths.is_folder(place):
                yield removed(place)

    def _orphaned_training(self, product: str) -> Iterator[Place]:
        """The trainer's folders of versions that are not there."""
        versions = set(self._versions(product))
        for name in paths.names_in(self.store.product_folder(product) / "training", VERSION_PATTERN):
            place = self.store.training_folder(product, name)
            if name not in versions and self._is_old(place):
                yield removed(place)

    def _orphaned_teachers(self) -> Iterator[Place]:
        """Teachers that no version names; none where some version can't say which it needs."""
        needed = set()
        for product in self._products():
            for version in self._versions(product):
                try:
                    needed.add(self.store.manifest(product, version).teacher.sha256)
                except (BundleError, MissingFile):
                    return
        for name in paths.files_in(self.store.root / "teachers", r"[0-9a-f]{64}\.onnx"):
            place = self.store.root / "teachers" / name
            if name.removesuffix(".onnx") not in needed and self._is_old(place):
                paths.remove(place)
                yield place

    def _leftovers(self) -> Iterator[Place]:
        """What a killed trainer or pruner left: half-written versions, and the workplaces of trainings."""
        for product in self._products():
            folder = self.store.product_folder(product) / "versions"
            whole = set(self._versions(product))
            for name in paths.names_in(folder, VERSION_PATTERN):
                if name not in whole and self._is_old(folder / name):
                    yield removed(folder / name)
        here = self.store.machine_folder
        with reporting_trouble(here):
            left = [*here.rglob(f"{INCOMING}*"), *self._work.glob("*/*")]
        for path in left:
            if path.exists() and self._is_old(path) and not is_locked(path / "lock"):
                if path.is_dir():
                    yield removed(path)
                else:
                    paths.remove(path)
                    yield path

    def _products(self) -> list[str]:
        """The store's own products: what is to go is decided by nothing that was seen some time ago."""
        with paths.only_fresh(self.store.root):
            return self.store.products()

    def _versions(self, product: str) -> list[str]:
        with paths.only_fresh(self.store.root):
            return self.store.versions(product)

    @property
    def _work(self) -> Path:
        return self.store.machine_folder / "work"

    def _is_old(self, place: Place) -> bool:
        """Whether nobody can still be at work on it."""
        return datetime.fromtimestamp(paths.modified(place), self.now.tzinfo) < self.now - GRACE


def removed(place: Place) -> Place:
    """A folder, once it is gone; a version's manifest goes first. Raises StoreUnusable."""
    paths.remove_folder(place, first=MANIFEST)
    return place
