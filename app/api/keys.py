"""API keys: who may inspect, who may operate. Keys are kept as SHA-256 digests; they are random, so that suffices."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from model.bundle import GoodpartError

Scope = Literal["inspect", "operate"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "gp_"
LINE = re.compile(r"(?P<name>[a-z0-9][a-z0-9_-]{0,63})\s+(?P<scopes>[a-z,]+)\s+sha256:(?P<digest>[0-9a-f]{64})")


class BadKeys(GoodpartError):
    """A list of API keys that can't be read."""


class NoKeys(BadKeys):
    """Keys are to be asked for, and there are none: nobody could come in."""

    def __init__(self) -> None:
        super().__init__("a key file or setting is given and holds no key; make one with `goodpart key`")


@dataclass(frozen=True)
class Key:
    """One holder's right. ``digest``: SHA-256 of the key, in hex."""

    name: str
    scopes: frozenset[str]
    digest: str

    def line(self) -> str:
        """The key as a line of the key file."""
        return f"{self.name} {','.join(sorted(self.scopes))} sha256:{self.digest}"


@dataclass(frozen=True)
class Keyring:
    """All keys; an empty one asks nobody for a key."""

    keys: tuple[Key, ...] = ()

    def holder(self, presented: str) -> Key | None:
        """Whose key this is, None where it is nobody's. Every key is compared, each in constant time."""
        digest = digest_of(presented)
        found = [key for key in self.keys if hmac.compare_digest(key.digest, digest)]
        return found[0] if found else None


def digest_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key(name: str, scopes: Iterable[str]) -> tuple[str, Key]:
    """A fresh key of 256 random bits, and what is kept of it. Raises BadKeys for a name or scope that is none."""
    presented = PREFIX + secrets.token_urlsafe(32)
    return presented, read_line(f"{name} {','.join(scopes)} sha256:{digest_of(presented)}", where="the new key")


def read_keys(*, file: Path | None, lines: str | None) -> Keyring:
    """The keys of a file and of a setting, a line each; empty lines and those that begin with ``#`` count nothing."""
    found = list(keys_in(lines or "", where="GOODPART_API_KEYS"))
    if file is not None:
        try:
            found += keys_in(file.read_text(), where=str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise BadKeys(f"the key file {file} can't be read: {error}") from error
    names = [key.name for key in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadKeys(f"two keys are called {twice[0]}")
    return Keyring(tuple(found))


def keys_in(text: str, *, where: str) -> Iterable[Key]:
    """The keys in these lines. Raises BadKeys, naming the line and never showing what it holds."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield read_line(line.strip(), where=f"{where}, line {number}")


def read_line(line: str, *, where: str) -> Key:
    """One key. Raises BadKeys."""
    match = LINE.fullmatch(line)
    if match is None:
        raise BadKeys(f"{where}: a key is written '<name> <scope>[,<scope>] sha256:<64 hex digits>'")
    scopes = frozenset(match["scopes"].split(","))
    unknown = sorted(scopes - set(SCOPES))
    if unknown:
        raise BadKeys(f"{where}: no scope is called '{unknown[0]}'; there are {', '.join(SCOPES)}")
    return Key(match["name"], scopes, match["digest"])
