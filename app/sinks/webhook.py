"""Results by HTTP POST, signed: ``Goodpart-Signature: t=<seconds>,v1=<HMAC-SHA256 of "t.body">``."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from app.sinks.outbox import LONGEST_PAUSE_S, MOST_TOGETHER, Message, SinkTrouble

SIGNATURE = "Goodpart-Signature"


@dataclass(frozen=True)
class Webhook:
    """An address that takes results. ``secret``: what it shares with us, None where nothing is signed."""

    name: str
    url: str
    secret: bytes | None
    timeout_s: float
    longest_pause_s: float = LONGEST_PAUSE_S
    most_together: int = MOST_TOGETHER

    @asynccontextmanager
    async def connected(self) -> AsyncIterator["Posting"]:
        """A client."""
        import httpx2  # noqa: PLC0415  # an extra

        async with httpx2.AsyncClient(timeout=self.timeout_s) as client:
            yield Posting(self, client, (httpx2.HTTPError, httpx2.InvalidURL))


@dataclass(frozen=True)
class Posting:
    """A client of a webhook. ``errors``: what it raises where there is no answer."""

    webhook: Webhook
    client: Any  # httpx2's, which may not be there
    errors: tuple[type[Exception], ...]

    async def send(self, message: Message) -> None:
        """Post it; taken where the answer is 2xx. Raises SinkTrouble."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": message.key}
        if self.webhook.secret is not None:
            headers[SIGNATURE] = signature(message.body, self.webhook.secret, at=int(time.time()))
        try:
            # Of the answer only the head is of interest, however long its body.
            async with self.client.stream("POST", self.webhook.url, content=message.body, headers=headers) as answer:
                if not answer.is_success:
                    retry_after_s = seconds_of(answer.headers.get("retry-after"))
                    raise SinkTrouble(f"it answers {answer.status_code}", retry_after_s=retry_after_s)
        except self.errors as error:  # the address may hold a secret, so it is told nowhere
            raise SinkTrouble(f"it does not answer: {type(error).__name__}") from error

    async def lost(self) -> None:
        """There is no connection to lose: each result makes its own, or takes one that is open."""
        await asyncio.Event().wait()


def signature(body: bytes, secret: bytes, *, at: int) -> str:
    """The header's value: a time, so that old messages can't be sent again, and the HMAC of both."""
    digest = hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def seconds_of(retry_after: str | None) -> float | None:
    """What ``Retry-After`` asks for in seconds; a date is not waited for."""
    return min(float(retry_after), 3600.0) if retry_after is not None and retry_after.isdecimal() else None
