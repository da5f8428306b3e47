"""Who may do what over HTTP: a bearer key with the scope that a route asks for."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.access import Keyring, Scope
from app.api.problems import Forbidden, Unauthorized

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
                return
            key = self.keyring.holder(given.credentials) if given is not None else None
            if key is None:
                raise Unauthorized
            structlog.contextvars.bind_contextvars(key=key.name)
            if not key.scopes.intersection(scopes):
                raise Forbidden(scopes)
            request.state.key_name = key.name

        return allowed


async def key_name_of(request: Request) -> str | None:
    """The name of the key that the gate let in, None where no keys are asked for."""
    name: str | None = getattr(request.state, "key_name", None)
    return name


KeyName = Annotated[str | None, Depends(key_name_of)]
