"""The store: teachers and versions, written once by a trainer, read by any number of services."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from app.store import paths
from app.store.errors import MissingFile, UnknownProduct, UnknownVersion
from app.store.files import READ_ONLY
from app.store.paths import Place
from app.store.signing import SIGNATURE, check_signature, signed
from model.bundle import (
    MANIFEST,
    NAME_PATTERN,
    VERSION_PATTERN,
    BundleError,
    DigestMismatch,
    Manifest,
    check_digest,
    check_product,
    check_version,
    read_manifest,
    version_of,
)


@dataclass(frozen=True)
class Bundle:
    """One version as verified bytes: what a file was when its digest was taken is what is loaded."""

    version: str
    manifest: Manifest
    teacher: bytes
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Store:
    """A place with ``teachers/`` and ``products/``. Reading needs no write permission.

    ``trusted``: keys of which one must have signed a version; None where versions need no signature.
    """

    root: Place
    trusted: tuple[Ed25519PublicKey, ...] | None = None

    @property
    def trouble(self) -> str | None:
        """Why copies stand in for the store, None where they do not."""
        return paths.trouble_of(self.root)

    @property
    def machine_folder(self) -> Path:
        """A folder of this machine for what is done with the store."""
        return paths.machine_folder(self.root)

    def products(self) -> list[str]:
        """The names of all products that have a folder, sorted. Raises StoreUnusable."""
        return paths.names_in(self.root / "products", NAME_PATTERN)

    def versions(self, product: str) -> list[str]:
        """A product's versions, oldest first; raises UnknownProduct where it has no folder."""
        folder = self.product_folder(product)
        names = paths.names_in(folder / "versions", VERSION_PATTERN, holding=MANIFEST)
        if not names and not paths.is_folder(folder):
            raise UnknownProduct(product)
        return names

    def product_folder(self, product: str) -> Place:
        """Where a product lies; raises BadName, so that no name leads out of the store."""
        return self.root / "products" / check_product(product)

    def version_folder(self, product: str, version: str) -> Place:
        """Where a version lies; raises BadName."""
        return self.product_folder(product) / "versions" / check_version(version)

    def training_folder(self, product: str, version: str) -> Place:
        """Where the trainer keeps what only it needs; raises BadName."""
        return self.product_folder(product) / "training" / check_version(version)

    def teacher_path(self, sha256: str) -> Place:
        """Where the shared graph of a teacher lies."""
        return self.root / "teachers" / f"{sha256}.onnx"

    def manifest(self, product: str, version: str) -> Manifest:
        """A version's manifest, held against the version's name and signature. Raises StoreError or BundleError."""
        folder = self.version_folder(product, version)
        try:
            data = paths.read_fixed(folder / MANIFEST, f"{version}/{MANIFEST}")
        except MissingFile:
            if paths.is_folder(folder):
                raise
            raise UnknownVersion(product, version) from None
        with paths.forgetting_damage(folder, error=BundleError):
            manifest = read_manifest(data)
            expected = version_of(data)
            if expected != version or manifest.product != product:
                found = f"{manifest.product}/{expected}"
                raise DigestMismatch(file=MANIFEST, expected=f"{product}/{version}", found=found)
            if self.trusted is not None:
                check_signature(version, data, self._signature(product, version), self.trusted)
        return manifest

    def _signature(self, product: str, version: str) -> bytes | None:
        try:
            return paths.read_fixed(self.version_folder(product, version) / SIGNATURE, f"{version}/{SIGNATURE}")
        except MissingFile:
            return None

    def bundle(self, product: str, version: str) -> Bundle:
        """Every byte of a version and its teacher, each held against its digest. Raises StoreError, BundleError."""
        manifest = self.manifest(product, version)
        folder = self.version_folder(product, version)
        digest = manifest.teacher.sha256
        path = self.teacher_path(digest)
        with paths.forgetting_damage(folder, path, error=BundleError):
            files = {
                name: check_digest(name, paths.read_fixed(folder / name, f"{version}/{name}"), record.sha256)
                for name, record in manifest.files.items()
            }
            teacher = check_digest("teacher.onnx", paths.read_fixed(path, f"teacher {digest[:16]}"), digest)
        return Bundle(version, manifest, teacher, files)

    def mark_used(self, product: str, version: str, teacher: str) -> None:
        """Let the copies of a version and its teacher, where there are any, be the last to go for want of room."""
        paths.mark_used(self.version_folder(product, version), self.teacher_path(teacher))

    def check_writable(self, product: str) -> None:
        """Raise StoreUnusable where this user could not publish; found out before an hour is spent on training."""
        folder = self.product_folder(product)
        for place in (self.root / "teachers", folder / "versions", folder / "training"):
            paths.check_writable(place)

    def add_teacher(self, sha256: str, graph: bytes) -> None:
        """Keep a teacher's graph once; bytes that are there already are checked and replaced if damaged."""
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
        """Write a version, whole or not at all, and return its name. ``training`` is the trainer's own.

        The trainer's folder goes first: a version that can be seen is complete. Raises StoreUnusable.
        """
        version = version_of(manifest)
        signature = {} if sign_key is None else {SIGNATURE: signed(manifest, sign_key)}
        if training:
            paths.write_folder(self.training_folder(product, version), training)
        paths.write_folder(self.version_folder(product, version), {**files, **signature, MANIFEST: manifest})
        return version
