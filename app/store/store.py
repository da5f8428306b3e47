"""The store: teachers and versions, written once by a trainer, read by any number of services."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from app.store.errors import MissingFile, StoreUnusable, UnknownProduct, UnknownVersion
from app.store.files import READ_ONLY, check_writable, is_folder, replace_file, reporting_trouble, write_folder
from app.store.signing import SIGNATURE, check_signature, signed
from model.bundle import (
    MANIFEST,
    NAME_PATTERN,
    VERSION_PATTERN,
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
    """A folder with ``teachers/`` and ``products/``. Reading needs no write permission.

    ``trusted``: keys of which one must have signed a version; None where versions need no signature.
    """

    root: Path
    trusted: tuple[Ed25519PublicKey, ...] | None = None

    def products(self) -> list[str]:
        """The names of all products that have a folder, sorted. Raises StoreUnusable."""
        return names_in(self.root / "products", NAME_PATTERN)

    def versions(self, product: str) -> list[str]:
        """A product's versions, oldest first; raises UnknownProduct where it has no folder."""
        folder = self.product_folder(product)
        if not is_folder(folder):
            raise UnknownProduct(product)
        return names_in(folder / "versions", VERSION_PATTERN)

    def product_folder(self, product: str) -> Path:
        """Where a product lies; raises BadName, so that no name leads out of the store."""
        return self.root / "products" / check_product(product)

    def version_folder(self, product: str, version: str) -> Path:
        """Where a version lies; raises BadName."""
        return self.product_folder(product) / "versions" / check_version(version)

    def training_folder(self, product: str, version: str) -> Path:
        """Where the trainer keeps what only it needs; raises BadName."""
        return self.product_folder(product) / "training" / check_version(version)

    def teacher_path(self, sha256: str) -> Path:
        """Where the shared graph of a teacher lies."""
        return self.root / "teachers" / f"{sha256}.onnx"

    def manifest(self, product: str, version: str) -> Manifest:
        """A version's manifest, held against the version's name and signature. Raises StoreError or BundleError."""
        folder = self.version_folder(product, version)
        if not is_folder(folder):
            raise UnknownVersion(product, version)
        data = read_file(folder / MANIFEST, f"{version}/{MANIFEST}")
        manifest = read_manifest(data)
        expected = version_of(data)
        if expected != version or manifest.product != product:
            raise DigestMismatch(file=MANIFEST, expected=f"{product}/{version}", found=f"{manifest.product}/{expected}")
        if self.trusted is not None:
            path = folder / SIGNATURE
            signature = read_file(path, f"{version}/{SIGNATURE}") if path.is_file() else None
            check_signature(version, data, signature, self.trusted)
        return manifest

    def bundle(self, product: str, version: str) -> Bundle:
        """Every byte of a version and its teacher, each held against its digest. Raises StoreError, BundleError."""
        manifest = self.manifest(product, version)
        folder = self.version_folder(product, version)
        files = {
            path: check_digest(path, read_file(folder / path, f"{version}/{path}"), record.sha256)
            for path, record in manifest.files.items()
        }
        digest = manifest.teacher.sha256
        teacher = read_file(self.teacher_path(digest), f"teacher {digest[:16]}")
        return Bundle(version, manifest, check_digest("teacher.onnx", teacher, digest), files)

    def check_writable(self, product: str) -> None:
        """Raise StoreUnusable where this user could not publish; found out before an hour is spent on training."""
        folder = self.product_folder(product)
        for place in (self.root / "teachers", folder / "versions", folder / "training"):
            check_writable(place)

    def add_teacher(self, sha256: str, graph: bytes) -> None:
        """Keep a teacher's graph once; bytes that are there already are checked and replaced if damaged."""
        path = self.teacher_path(sha256)
        check_digest("teacher.onnx", graph, sha256)
        with reporting_trouble(path.parent):
            if path.is_file() and path.read_bytes() == graph:
                os.utime(path)  # so that pruning leaves it until a version names it
                return
        replace_file(path, graph, mode=READ_ONLY)

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
            write_folder(self.training_folder(product, version), training)
        write_folder(self.version_folder(product, version), {**files, **signature, MANIFEST: manifest})
        return version


def names_in(folder: Path, pattern: str) -> list[str]:
    """The sorted names of folders in a folder that match; none where it does not exist. Raises StoreUnusable."""
    with reporting_trouble(folder):
        entries = list(folder.iterdir()) if folder.is_dir() else []
        return sorted(entry.name for entry in entries if re.fullmatch(pattern, entry.name) and entry.is_dir())


def read_file(path: Path, what: str) -> bytes:
    """A file's bytes; raises MissingFile or StoreUnusable."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingFile(what) from None
    except OSError as error:
        raise StoreUnusable(path.parent, error.strerror or str(error)) from error
