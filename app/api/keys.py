"""API keys and their scopes. Only the SHA-256 of a key is kept; keys are random, so no salt is needed."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from app.errors import SettingsError

Scope = Literal["inspect", "operate"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "gp_"
LINE = re.compile(r"(?P<name>[a-z0-9][a-z0-9_-]{0,63})\s+(?P<scopes>[a-z,]+)\s+sha256:(?P<digest>[0-9a-f]{64})")


@dataclass(frozen=True)
class Key:
    """A key's name, scopes and ``digest``: SHA-256 of the key, in hex."""

    name: str
    scopes: frozenset[str]
    digest: str

    def to_line(self) -> str:
        """Return the key as a line of the key file."""
        return f"{self.name} {','.join(sorted(self.scopes))} sha256:{self.digest}"


@dataclass(frozen=True)
class Keyring:
    """All keys. Where there are none, no key is required."""

    keys: tuple[Key, ...] = ()

    def find(self, presented: str) -> Key | None:
        """Return the matching key, or None. Every key is compared, each in constant time."""
        digest = compute_digest(presented)
        found = [key for key in self.keys if hmac.compare_digest(key.digest, digest)]
        return found[0] if found else None


def compute_digest(key: str) -> str:
    """Return the SHA-256 of a key in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def generate_key(name: str, scopes: Iterable[str]) -> tuple[str, Key]:
    """Return a new key of 256 random bits and its record. Raises SettingsError for an invalid name or scope."""
    presented = PREFIX + secrets.token_urlsafe(32)
    return presented, parse_line(f"{name} {','.join(scopes)} sha256:{compute_digest(presented)}", where="the new key")


def read_keys(*, file: Path | None, lines: str | None) -> Keyring:
    """Read the keys of a file and of a setting, one a line. Empty lines and lines that begin with ``#`` are skipped."""
    found = list(parse_keys(lines or "", where="GOODPART_API_KEYS"))
    if file is not None:
        try:
            found += parse_keys(file.read_text(), where=str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"the key file {file} can't be read: {error}") from error
    names = [key.name for key in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(f"two keys have the name {twice[0]}")
    return Keyring(tuple(found))


def parse_keys(text: str, *, where: str) -> Iterable[Key]:
    """Parse one key a line. Raises SettingsError, which names the line and never shows its content."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield parse_line(line.strip(), where=f"{where}, line {number}")


def parse_line(line: str, *, where: str) -> Key:
    """Parse one key. Raises SettingsError."""
    match = LINE.fullmatch(line)
    if match is None:
        raise SettingsError(f"{where}: a key is written '<name> <scope>[,<scope>] sha256:<64 hex digits>'")
    scopes = frozenset(match["scopes"].split(","))
    unknown = sorted(scopes - set(SCOPES))
    if unknown:
        raise SettingsError(f"{where}: unknown scope '{unknown[0]}'; valid scopes are {', '.join(SCOPES)}")
    return Key(match["name"], scopes, match["digest"])
