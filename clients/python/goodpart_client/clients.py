"""The two clients: one that waits, one that is awaited."""

import asyncio
import time
from pathlib import Path
from typing import Self

import httpx2

from goodpart_client.answers import Inspection
from goodpart_client.asking import Call, Kind, make_call

DEADLINE_S = 10.0


def make_headers(key: str | None) -> dict[str, str]:
    """Return the headers of every request."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}


class Client:
    """Asks a service at ``url``. ``key``: an API key, where the service asks for one."""

    def __init__(self, url: str, *, key: str | None = None) -> None:
        self._http = httpx2.Client(base_url=url, headers=make_headers(key))

    def inspect(  # what an inspection has
        self,
        product: str,
        image: bytes | str | Path,
        *,
        part_id: str | None = None,
        heatmap: Kind = "none",
        version: str | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> Inspection:
        """Inspect one image, given as bytes or as a file name. Raises ProblemError, NoAnswerError."""
        call = make_call(product, image, part_id=part_id, heatmap=heatmap, version=version, deadline_s=deadline_s)
        while True:
            answer = self._tried(call)
            inspection = call.parse_response(answer) if answer is not None else None
            if inspection is not None:
                return inspection
            time.sleep(call.pause_s(answer))

    def _tried(self, call: Call) -> httpx2.Response | None:
        try:
            return self._http.post(**call.request())
        except httpx2.TransportError as error:
            call.trouble = str(error) or type(error).__name__
            return None

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """``Client``, awaited."""

    def __init__(self, url: str, *, key: str | None = None) -> None:
        self._http = httpx2.AsyncClient(base_url=url, headers=make_headers(key))

    async def inspect(  # what an inspection has
        self,
        product: str,
        image: bytes | str | Path,
        *,
        part_id: str | None = None,
        heatmap: Kind = "none",
        version: str | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> Inspection:
        """Inspect one image, given as bytes or as a file name. Raises ProblemError, NoAnswerError."""
        call = make_call(product, image, part_id=part_id, heatmap=heatmap, version=version, deadline_s=deadline_s)
        while True:
            answer = await self._tried(call)
            inspection = call.parse_response(answer) if answer is not None else None
            if inspection is not None:
                return inspection
            await asyncio.sleep(call.pause_s(answer))

    async def _tried(self, call: Call) -> httpx2.Response | None:
        try:
            return await self._http.post(**call.request())
        except httpx2.TransportError as error:
            call.trouble = str(error) or type(error).__name__
            return None

    async def close(self) -> None:
        """Close connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
