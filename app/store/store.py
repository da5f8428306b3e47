"""The store: teachers and versions, written once by a trainer, read by any number of services."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from app.store import paths
from app.store.errors import MissingFile, UnknownProduct, UnknownVersion
from app.store.files import READ_ONLY
from app.store.paths import StoragePath
from app.store.signing import SIGNATURE, check_signature, sign_manifest
from model.bundle import (
    MANIFEST,
    NAME_PATTERN,
    VERSION_PATTERN,
    Manifest,
    check_digest,
    check_product,
    check_version,
    compute_version_name,
    digest_error,
    read_manifest,
)


@dataclass(frozen=True)
class Bundle:
    """One version as verified bytes; exactly the bytes whose digest was checked are loaded."""

    version: str
    manifest: Manifest
    teacher: bytes
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Store:
    """A storage with ``teachers/`` and ``products/``. Reading needs no write permission.

    ``trusted``: keys of which one must have signed a version; None where versions need no signature.
    """

    root: StoragePath
    trusted: tuple[Ed25519PublicKey, ...] | None = None

    @property
    def error(self) -> str | None:
        """Why copies of the store are used; None where they are not."""
        return paths.get_error(self.root)

    @property
    def local_folder(self) -> Path:
        """A local folder for work on the store."""
        return paths.get_local_folder(self.root)

    def list_products(self) -> list[str]:
        """Return the names of all products, sorted. Raises StoreUnusable."""
        return paths.list_folders(self.root / "products", NAME_PATTERN)

    def list_versions(self, product: str) -> list[str]:
        """Return a product's versions, oldest first. Raises UnknownProduct."""
        folder = self.product_folder(product)
        names = paths.list_folders(folder / "versions", VERSION_PATTERN, holding=MANIFEST)
        if not names and not paths.is_folder(folder):
            raise UnknownProduct(product)
        return names

    def product_folder(self, product: str) -> StoragePath:
        """Return the path of a product. Raises BadName, so that no name leaves the store."""
        return self.root / "products" / check_product(product)

    def version_folder(self, product: str, version: str) -> StoragePath:
        """Return the path of a version. Raises BadName."""
        return self.product_folder(product) / "versions" / check_version(version)

    def training_folder(self, product: str, version: str) -> StoragePath:
        """Return the path of the trainer's own files. Raises BadName."""
        return self.product_folder(product) / "training" / check_version(version)

    def teacher_path(self, sha256: str) -> StoragePath:
        """Return the path of a teacher's shared graph."""
        return self.root / "teachers" / f"{sha256}.onnx"

    def load_manifest(self, product: str, version: str) -> Manifest:
        """Return a version's manifest, verified against its name and signature. Raises StoreError or BundleError."""
        folder = self.version_folder(product, version)
        try:
            data = paths.read_immutable(folder / MANIFEST, f"{version}/{MANIFEST}")
        except MissingFile:
            if paths.is_folder(folder):
                raise
            raise UnknownVersion(product, version) from None
        with paths.drop_damaged_copies(folder):
            manifest = read_manifest(data)
            expected = compute_version_name(data)
            if expected != version or manifest.product != product:
                found = f"{manifest.product}/{expected}"
                raise digest_error(MANIFEST, expected=f"{product}/{version}", found=found)
            if self.trusted is not None:
                check_signature(version, data, self._read_signature(product, version), self.trusted)
        return manifest

    def _read_signature(self, product: str, version: str) -> bytes | None:
        try:
            return paths.read_immutable(self.version_folder(product, version) / SIGNATURE, f"{version}/{SIGNATURE}")
        except MissingFile:
            return None

    def load_bundle(self, product: str, version: str) -> Bundle:
        """Return every byte of a version and its teacher, verified against the digests.

        Raises StoreError, BundleError.
        """
        manifest = self.load_manifest(product, version)
        folder = self.version_folder(product, version)
        digest = manifest.teacher.sha256
        path = self.teacher_path(digest)
        with paths.drop_damaged_copies(folder, path):
            files = {
                name: check_digest(name, paths.read_immutable(folder / name, f"{version}/{name}"), record.sha256)
                for name, record in manifest.files.items()
            }
            teacher = check_digest("teacher.onnx", paths.read_immutable(path, f"teacher {digest[:16]}"), digest)
        return Bundle(version, manifest, teacher, files)

    def mark_used(self, product: str, version: str, teacher: str) -> None:
        """Mark the copies of a version and its teacher as used, so that they are evicted last."""
        paths.mark_used(self.version_folder(product, version), self.teacher_path(teacher))

    def check_writable(self, product: str) -> None:
        """Raise StoreUnusable where this user can't publish; checked before training starts."""
        folder = self.product_folder(product)
        for path in (self.root / "teachers", folder / "versions", folder / "training"):
            paths.check_writable(path)

    def add_teacher(self, sha256: str, graph: bytes) -> None:
        """Store a teacher's graph once; a damaged one is replaced."""
        path = self.teacher_path(sha256)
        check_digest("teacher.onnx", graph, sha256)
        if paths.read(path) == graph:
            paths.touch(path)  # so that pruning leaves it until a version names it
        else:
            paths.replace(path, graph, mode=READ_ONLY)

    def publish(
        self,
        product: str,
        *,
        manifest: bytes,
        files: Mapping[str, bytes],
        training: Mapping[str, bytes],
        sign_key: Ed25519PrivateKey | None = None,
    ) -> str:
        """Write a version, whole or not at all, and return its name. ``training``: the trainer's own files.

        Those are written first, so that a visible version is complete. Raises StoreUnusable.
        """
        version = compute_version_name(manifest)
        signature = {} if sign_key is None else {SIGNATURE: sign_manifest(manifest, sign_key)}
        if training:
            paths.write_folder(self.training_folder(product, version), training)
        paths.write_folder(self.version_folder(product, version), {**files, **signature, MANIFEST: manifest})
        return version
