"""What is not needed any more, taken out of a store while services read it.

A folder is renamed before it is emptied, so that a reader sees a version whole or not at all. What serves, what served
before it, what judges in the shadow and what was made a short while ago is never touched.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

from app.store.confirmed import Feedback
from app.store.errors import MissingFile, StoreUnusable, UnknownProduct
from app.store.files import INCOMING, is_folder, is_locked, reporting_trouble
from app.store.state import State
from app.store.store import Store, names_in
from model.bundle import VERSION_PATTERN, BundleError, check_product

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

    def prune(self, *, keep: int) -> Iterator[Path]:
        """All but the ``keep`` newest versions of each product, and what nothing names; each path once it is gone.

        Raises StoreError or BundleError; a version whose manifest can't be read keeps every teacher.
        """
        for product in self.store.products():
            for version in self._old_versions(product, keep=keep):
                yield from self._remove_version(product, version)
            yield from self._orphaned_training(product)
        yield from self._orphaned_teachers()
        yield from self._leftovers()

    def remove(self, product: str, *, even_if_active: bool) -> Iterator[Path]:
        """A product with all that is known of it. Raises UnknownProduct, StillServes, StillTrained."""
        folder, state = self.store.product_folder(product), self.state.root / check_product(product)
        if not is_folder(folder) and not is_folder(state):
            raise UnknownProduct(product)
        if not even_if_active and self.state.current(product) is not None:
            raise StillServes(self.store, product)
        work = self.store.root / "work" / product
        if any(is_locked(lock) for lock in work.glob("*/lock")):
            raise StillTrained(self.store, product)
        for path in (state, folder, work):  # the state first: then nothing serves
            if is_folder(path):
                yield from removed(path)
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
        versions = self.store.versions(product)
        for version in versions[: max(0, len(versions) - keep)]:
            if version not in self._needed(product) and self._is_old(self.store.version_folder(product, version)):
                yield version

    def _needed(self, product: str) -> set[str]:
        """What serves, what served before it, and what judges in the shadow."""
        orders = self.state.orders(product)
        shadowed = {orders.shadow.version} if orders.shadow else set()
        if orders.current is None:
            return shadowed
        return shadowed | {orders.current.version, orders.current.previous or orders.current.version}

    def _remove_version(self, product: str, version: str) -> Iterator[Path]:
        """A version, then what the trainer keeps of it."""
        for path in (self.store.version_folder(product, version), self.store.training_folder(product, version)):
            if is_folder(path):
                yield from removed(path)

    def _orphaned_training(self, product: str) -> Iterator[Path]:
        """The trainer's folders of versions that are not there."""
        versions = set(self.store.versions(product))
        for name in names_in(self.store.product_folder(product) / "training", VERSION_PATTERN):
            path = self.store.training_folder(product, name)
            if name not in versions and self._is_old(path):
                yield from removed(path)

    def _orphaned_teachers(self) -> Iterator[Path]:
        """Teachers that no version names; none where some version can't say which it needs."""
        needed = set()
        for product in self.store.products():
            for version in self.store.versions(product):
                try:
                    needed.add(self.store.manifest(product, version).teacher.sha256)
                except (BundleError, MissingFile):
                    return
        folder = self.store.root / "teachers"
        with reporting_trouble(folder):
            for path in sorted(folder.glob("*.onnx")):
                if path.stem not in needed and self._is_old(path):
                    path.unlink()
                    yield path

    def _leftovers(self) -> Iterator[Path]:
        """What a killed trainer or pruner left: half-written folders, and the workplaces of trainings."""
        with reporting_trouble(self.store.root):
            left = [*self.store.root.rglob(f"{INCOMING}*"), *(self.store.root / "work").glob("*/*")]
        for path in left:
            if path.exists() and self._is_old(path) and not is_locked(path / "lock"):
                if path.is_dir():
                    yield from removed(path)
                else:
                    path.unlink()
                    yield path

    def _is_old(self, path: Path) -> bool:
        """Whether nobody can still be at work on it."""
        with reporting_trouble(path.parent):
            return datetime.fromtimestamp(path.stat().st_mtime, self.now.tzinfo) < self.now - GRACE


def removed(folder: Path) -> Iterator[Path]:
    """Take a folder away in one moment, then its files; its path. Raises StoreUnusable."""
    beside = folder.with_name(f"{INCOMING}{uuid4().hex}")
    with reporting_trouble(folder.parent):
        folder.rename(beside)
        shutil.rmtree(beside)
    yield folder
