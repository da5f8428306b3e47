"""Results by HTTP POST, signed: ``Goodpart-Signature: t=<seconds>,v1=<HMAC-SHA256 of "t.body">``."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from app.sinks.outbox import MAX_BATCH, MAX_PAUSE_S, DeliveryError, Message

SIGNATURE = "Goodpart-Signature"


@dataclass(frozen=True)
class Webhook:
    """A webhook. ``secret``: the shared secret, or None where nothing is signed."""

    name: str
    url: str
    secret: bytes | None
    timeout_s: float
    max_pause_s: float = MAX_PAUSE_S
    max_batch: int = MAX_BATCH

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["WebhookConnection"]:
        """Yield a client."""
        import httpx2  # noqa: PLC0415  # an extra

        async with httpx2.AsyncClient(timeout=self.timeout_s) as client:
            yield WebhookConnection(self, client, (httpx2.HTTPError, httpx2.InvalidURL))


@dataclass(frozen=True)
class WebhookConnection:
    """A client of a webhook. ``errors``: the exceptions that it raises."""

    webhook: Webhook
    client: Any  # httpx2's, which may not be there
    errors: tuple[type[Exception], ...]

    async def send(self, message: Message) -> None:
        """Post a message; an answer of 2xx takes it. Raises DeliveryError."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": message.key}
        if self.webhook.secret is not None:
            headers[SIGNATURE] = sign_body(message.body, self.webhook.secret, at=int(time.time()))
        try:
            # Only the status and headers of the response are read, not its body.
            async with self.client.stream("POST", self.webhook.url, content=message.body, headers=headers) as answer:
                if not answer.is_success:
                    retry_after_s = parse_retry_after(answer.headers.get("retry-after"))
                    raise DeliveryError(f"it answers {answer.status_code}", retry_after_s=retry_after_s)
        except self.errors as error:  # the URL may contain a secret, so it is not reported
            raise DeliveryError(f"it does not answer: {type(error).__name__}") from error

    async def wait_until_lost(self) -> None:
        """Never return: there is no permanent connection."""
        await asyncio.Event().wait()


def sign_body(body: bytes, secret: bytes, *, at: int) -> str:
    """Return the header's value: a time, which prevents replays, and the HMAC of both."""
    digest = hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def parse_retry_after(retry_after: str | None) -> float | None:
    """Return ``Retry-After`` in seconds, or None; dates are ignored."""
    return min(float(retry_after), 3600.0) if retry_after is not None and retry_after.isdecimal() else None
