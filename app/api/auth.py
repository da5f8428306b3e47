"""Authorisation: a bearer API key with the scope that a route requires."""

from typing import Annotated

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.api.deps import get_services
from app.api.keys import Scope
from app.api.problems import RequestError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CROSS_SITES = frozenset({"cross-site", "same-site"})

bearer = HTTPBearer(auto_error=False, description="API key, if the service has any")


class RequireScope:
    """A dependency that requires a key with one of these scopes. An empty keyring lets every request pass."""

    def __init__(self, *scopes: Scope) -> None:
        self.scopes = scopes

    async def __call__(
        self, request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> None:
        """Check the key of a request. Raises RequestError."""
        keyring = (await get_services(request)).keyring  # a nested dependency would cost 15 us a request
        if not keyring.keys:
            refuse_cross_site(request)
            return
        key = keyring.find(given.credentials) if given is not None else None
        if key is None:
            raise RequestError("send a valid API key as 'Authorization: Bearer <key>'", kind="unauthorized")
        structlog.contextvars.bind_contextvars(key=key.name)
        if not key.scopes.intersection(self.scopes):
            raise RequestError(f"this requires an API key with the scope {' or '.join(self.scopes)}", kind="forbidden")
        request.state.key_name = key.name


def refuse_cross_site(request: Request) -> None:
    """Raise RequestError where a page of another site makes a browser change something.

    Newer browsers send ``Sec-Fetch-Site``, older ones ``Origin`` alone; other clients send neither.
    """
    if request.method in SAFE_METHODS:
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    is_foreign = origin is not None and origin.partition("://")[2] != request.headers.get("host")
    if site in CROSS_SITES or (site is None and is_foreign):
        raise RequestError("cross-site requests are refused; configure API keys to allow them", kind="from-elsewhere")


async def get_key_name(request: Request) -> str | None:
    """Return the name of the key that was used, or None where no keys are required."""
    name: str | None = getattr(request.state, "key_name", None)
    return name


KeyName = Annotated[str | None, Depends(get_key_name)]
