"""Who may do what over HTTP: a bearer key with the scope that a route asks for."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.api.keys import Keyring, Scope
from app.api.problems import Forbidden, FromElsewhere, Unauthorized

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OTHER_SITES = frozenset({"cross-site", "same-site"})

bearer = HTTPBearer(auto_error=False, description="an API key, where the service was given any")


class Gate:
    """Makes the dependencies that let requests through. Without keys everybody is let through."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring

    def asks(self, *scopes: Scope) -> Callable[..., Awaitable[None]]:
        """A dependency, after which ``KeyName`` is known. Raises Unauthorized, Forbidden."""

        async def allowed(
            request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
        ) -> None:
            if not self.keyring.keys:
                refuse_other_sites(request)
                return
            key = self.keyring.holder(given.credentials) if given is not None else None
            if key is None:
                raise Unauthorized
            structlog.contextvars.bind_contextvars(key=key.name)
            if not key.scopes.intersection(scopes):
                raise Forbidden(scopes)
            request.state.key_name = key.name

        return allowed


def refuse_other_sites(request: Request) -> None:
    """Raise FromElsewhere where a page of another site makes a browser change something; a key would not let it in.

    Browsers say so themselves, older ones by the address of the page alone; other clients say nothing of it.
    """
    if request.method in SAFE_METHODS:
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    is_foreign = origin is not None and origin.partition("://")[2] != request.headers.get("host")
    if site in OTHER_SITES or (site is None and is_foreign):
        raise FromElsewhere


async def key_name_of(request: Request) -> str | None:
    """The name of the key that the gate let in, None where no keys are asked for."""
    name: str | None = getattr(request.state, "key_name", None)
    return name


KeyName = Annotated[str | None, Depends(key_name_of)]
