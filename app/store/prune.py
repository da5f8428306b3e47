"""Removal from a store while services read it.

A folder is renamed before it is emptied, and on object storage a version loses its manifest first, so that a reader
sees it whole or not at all. The serving version, the one before it, the candidate and everything younger than a day
stay.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from app.store import paths
from app.store.errors import MissingFile, StoreUnusable, UnknownProduct
from app.store.files import INCOMING, translate_os_errors
from app.store.labels import LabelStore
from app.store.locks import is_locked
from app.store.paths import StoragePath
from app.store.state import State
from app.store.store import Store
from model.bundle import MANIFEST, VERSION_PATTERN, BundleError, check_product

# Minimum age of what is pruned: a trainer writes a teacher before the version that refers to it.
GRACE = timedelta(days=1)


@dataclass(frozen=True)
class Pruner:
    """Removes from a store and its state. ``now``: the time that ages are relative to."""

    store: Store
    state: State
    now: datetime

    def prune(self, *, keep: int) -> Iterator[StoragePath]:
        """Remove all but the ``keep`` newest versions of each product, and what no version needs.

        Yield each removed path.

        Raises StoreError or BundleError; a version whose manifest can't be read keeps every teacher.
        """
        for product in self._list_products():
            for version in self._find_old_versions(product, keep=keep):
                yield from self._remove_version(product, version)
            yield from self._remove_orphaned_training(product)
        yield from self._remove_orphaned_teachers()
        yield from self._remove_leftovers()

    def remove(self, product: str, *, even_if_active: bool) -> Iterator[StoragePath]:
        """Remove a product with all of its data.

        Raises UnknownProduct, and StoreUnusable while the product serves or is trained.
        """
        folder, state = self.store.product_folder(product), self.state.root / check_product(product)
        if not paths.is_folder(folder) and not paths.is_folder(state):
            raise UnknownProduct(product)
        with paths.refuse_stale(self.state.root):
            current = self.state.read_current(product)
        if not even_if_active and current is not None:
            raise StoreUnusable(
                self.store.root, f"product '{product}' has an active version; use --yes to remove it anyway"
            )
        work = self._work_folder / product
        if any(is_locked(lock) for lock in work.glob("*/lock")):
            raise StoreUnusable(self.store.root, f"a training of product '{product}' is running; stop it first")
        for target in (state, folder, work):  # the state first: then nothing serves
            if paths.is_folder(target):
                yield remove_path(target)
        yield from self._remove_orphaned_teachers()

    def expire(self, product: str, *, days: float) -> Iterator[str]:
        """Remove labelled images older than ``days``; yield the digest of each."""
        feedback = LabelStore(self.state)
        for one in feedback.read_all(product):
            if one.at < self.now - timedelta(days=days):
                feedback.remove(product, [one])
                yield one.sha256

    def _find_old_versions(self, product: str, *, keep: int) -> Iterator[str]:
        """Yield the versions to remove, oldest first; each is checked when its turn comes."""
        versions = self._list_versions(product)
        for version in versions[: max(0, len(versions) - keep)]:
            if version not in self._find_needed(product) and self._is_old(self.store.version_folder(product, version)):
                yield version

    def _find_needed(self, product: str) -> set[str]:
        """Return the serving version, the one before it, and the candidate."""
        with paths.refuse_stale(self.state.root):
            product_state = self.state.read(product)
        shadow_versions = {product_state.shadow.version} if product_state.shadow else set()
        if product_state.current is None:
            return shadow_versions
        return shadow_versions | {
            product_state.current.version,
            product_state.current.previous or product_state.current.version,
        }

    def _remove_version(self, product: str, version: str) -> Iterator[StoragePath]:
        """Remove a version, then the trainer's files of it."""
        for target in (self.store.version_folder(product, version), self.store.training_folder(product, version)):
            if paths.is_folder(target):
                yield remove_path(target)

    def _remove_orphaned_training(self, product: str) -> Iterator[StoragePath]:
        """Remove the trainer's folders of versions that do not exist."""
        versions = set(self._list_versions(product))
        for name in paths.list_folders(self.store.product_folder(product) / "training", VERSION_PATTERN):
            target = self.store.training_folder(product, name)
            if name not in versions and self._is_old(target):
                yield remove_path(target)

    def _remove_orphaned_teachers(self) -> Iterator[StoragePath]:
        """Remove teachers that no version names; none where a manifest can't be read."""
        needed = set()
        for product in self._list_products():
            for version in self._list_versions(product):
                try:
                    needed.add(self.store.load_manifest(product, version).teacher.sha256)
                except (BundleError, MissingFile):
                    return
        for name in paths.list_files(self.store.root / "teachers", r"[0-9a-f]{64}\.onnx"):
            target = self.store.root / "teachers" / name
            if name.removesuffix(".onnx") not in needed and self._is_old(target):
                paths.remove(target)
                yield target

    def _remove_leftovers(self) -> Iterator[StoragePath]:
        """Remove incomplete versions and run directories that a killed process left."""
        for product in self._list_products():
            folder = self.store.product_folder(product) / "versions"
            whole = set(self._list_versions(product))
            for name in paths.list_folders(folder, VERSION_PATTERN):
                if name not in whole and self._is_old(folder / name):
                    yield remove_path(folder / name)
        here = self.store.local_folder
        with translate_os_errors(here):
            left = [*here.rglob(f"{INCOMING}*"), *self._work_folder.glob("*/*")]
        for path in left:
            if path.exists() and self._is_old(path) and not is_locked(path / "lock"):
                if path.is_dir():
                    yield remove_path(path)
                else:
                    paths.remove(path)
                    yield path

    def _list_products(self) -> list[str]:
        """Return the store's products, never from a copy."""
        with paths.refuse_stale(self.store.root):
            return self.store.list_products()

    def _list_versions(self, product: str) -> list[str]:
        with paths.refuse_stale(self.store.root):
            return self.store.list_versions(product)

    @property
    def _work_folder(self) -> Path:
        return self.store.local_folder / "work"

    def _is_old(self, target: StoragePath) -> bool:
        """Whether a path is older than ``GRACE``."""
        return datetime.fromtimestamp(paths.get_mtime(target), self.now.tzinfo) < self.now - GRACE


def remove_path(target: StoragePath) -> StoragePath:
    """Remove a folder, a version's manifest first, and return it. Raises StoreUnusable."""
    paths.remove_folder(target, first=MANIFEST)
    return target
