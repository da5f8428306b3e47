"""Signatures of versions: Ed25519 over the manifest, which names the digest of every other byte of a version.

A store that others can write to can then still not make the line run foreign weights.
"""

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from model.bundle import BundleError, GoodpartError

SIGNATURE = "manifest.sig"
# Prefix of the signed bytes (domain separation): signatures of other data are not valid here.
PURPOSE = b"goodpart manifest 1\n"
PEM_END = b"-----END PUBLIC KEY-----"


class BadSigningKey(GoodpartError):
    """A file without a usable Ed25519 key."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} holds no usable Ed25519 key: {why}")


class BadSignature(BundleError):
    """A version without a valid signature of a trusted key."""

    def __init__(self, version: str, why: str) -> None:
        super().__init__(f"version {version} {why}")


def generate_key_pair() -> tuple[bytes, bytes]:
    """Return a private key and its public key, as PEM."""
    private = Ed25519PrivateKey.generate()
    return (
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Read the signing key. Raises BadSigningKey."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadSigningKey(path, str(error)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadSigningKey(path, "it is a key of another kind")
    return key


def read_public_keys(path: Path) -> tuple[Ed25519PublicKey, ...]:
    """Read the trusted keys, one or more in a file. Raises BadSigningKey."""
    try:
        pieces = [piece + PEM_END for piece in path.read_bytes().split(PEM_END)[:-1]]
        keys = [load_pem_public_key(piece.strip()) for piece in pieces]
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise BadSigningKey(path, str(error)) from error
    found = tuple(key for key in keys if isinstance(key, Ed25519PublicKey))
    if not found or len(found) != len(keys):
        raise BadSigningKey(path, "a public key is written as PEM, by `goodpart keygen`")
    return found


def sign_manifest(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the signature of a manifest, 64 bytes."""
    return key.sign(PURPOSE + manifest)


def check_signature(
    version: str, manifest: bytes, signature: bytes | None, trusted: tuple[Ed25519PublicKey, ...]
) -> None:
    """Raise BadSignature unless one of the trusted keys signed this manifest."""
    if signature is None:
        raise BadSignature(version, "is not signed, and this service asks for a signature")
    for key in trusted:
        try:
            key.verify(signature, PURPOSE + manifest)
        except InvalidSignature:
            continue
        return
    raise BadSignature(version, "has no valid signature of a trusted key, or was changed since")
