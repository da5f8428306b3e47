"""Clients of the load bench: requests at random moments, whatever the service does (open loop), and what came of them.

A latency counts from the moment at which a request should have been sent, so that a generator which falls behind does
not hide what a user would have waited.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import numpy as np

DEADLINE_S = 2.0
PROBE_EVERY_S = 0.1
# A sleep ends up to so much too late; the generator has a processor of its own to turn on instead.
SLEEP_IS_LATE_S = 0.003


@dataclass(frozen=True)
class Outcome:
    """One request. ``due_s``: when it should have been sent, from the start of its phase; ``status`` 0: no answer."""

    due_s: float
    latency_s: float
    status: int
    retry_after: str | None = None
    version: str | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def engine_ms(self) -> float:
        """What decoding and the graphs took of it."""
        return self.timings_ms.get("decode", 0.0) + self.timings_ms.get("inference", 0.0)

    @property
    def is_good(self) -> bool:
        """A verdict within its deadline."""
        return self.status == 200 and self.latency_s <= DEADLINE_S


class Line:
    """What a line's software does: posts images to one product, each with a deadline."""

    def __init__(self, session: aiohttp.ClientSession, url: str, images: Sequence[bytes]) -> None:
        self.session = session
        self.url = url
        self.images = images
        self.headers = {"content-type": "image/png", "x-deadline-ms": str(int(DEADLINE_S * 1000))}

    async def post(self, number: int, *, due: float, began: float) -> Outcome:
        """Post one image; ``due`` and ``began`` by ``time.perf_counter``."""
        try:
            async with self.session.post(
                self.url, data=self.images[number % len(self.images)], headers=self.headers
            ) as response:
                content = await response.json(content_type=None)
                latency_s = time.perf_counter() - due
                return Outcome(
                    due_s=due - began,
                    latency_s=latency_s,
                    status=response.status,
                    retry_after=response.headers.get("Retry-After"),
                    version=content.get("version"),
                    timings_ms=content.get("timings_ms", {}),
                )
        except (aiohttp.ClientError, TimeoutError):
            return Outcome(due_s=due - began, latency_s=time.perf_counter() - due, status=0)

    async def post_until_judged(self, number: int, *, due: float, began: float) -> Outcome:
        """Post one image, and retry it after ``Retry-After``, until it is judged or the tries are used up."""
        generator = np.random.default_rng(number)
        outcome = await self.post(number, due=due, began=began)
        for _ in range(5):
            if outcome.status not in (0, 503, 504):
                break
            await asyncio.sleep(float(outcome.retry_after or 1) * generator.uniform(1, 2))
            outcome = await self.post(number, due=due, began=began)
        return outcome


@asynccontextmanager
async def line_to(address: str, product: str, images: Sequence[bytes]) -> AsyncIterator[Line]:
    """A line with as many connections as it needs; heat-maps are not requested."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Line(session, f"{address}/v1/products/{product}/inspect?heatmap=none", images)


async def poisson(line: Line, *, rate: float, seconds: float, seed: int = 0, retrying: bool = False) -> list[Outcome]:
    """Requests at the moments of a Poisson process of so many a second, and what came of each."""
    generator = np.random.default_rng(seed)
    moments = np.cumsum(generator.exponential(1 / rate, size=int(rate * seconds * 1.5) + 10))
    moments = moments[moments < seconds]
    began = time.perf_counter()
    send = line.post_until_judged if retrying else line.post
    tasks = []
    for number, moment in enumerate(moments):
        await until(began + moment)
        tasks.append(asyncio.ensure_future(send(number, due=began + moment, began=began)))
    return list(await asyncio.gather(*tasks))


async def until(moment: float) -> None:
    """Returns at a moment of ``time.perf_counter``: sleeps most of the way, and turns on the spot for the rest."""
    while (wait_s := moment - time.perf_counter()) > 0:  # noqa: ASYNC110  # there is no event but the time
        await asyncio.sleep(max(0.0, wait_s - SLEEP_IS_LATE_S))


async def run_closed_loop(line: Line, *, num_clients: int, seconds: float) -> list[Outcome]:
    """Run clients that each wait for their answer before they send again: the maximum rate."""
    began = time.perf_counter()

    async def client(first: int) -> list[Outcome]:
        outcomes = []
        while time.perf_counter() - began < seconds:
            outcomes.append(await line.post(first + len(outcomes), due=time.perf_counter(), began=began))
        return outcomes

    answered = await asyncio.gather(*(client(1000 * index) for index in range(num_clients)))
    return [outcome for outcomes in answered for outcome in outcomes]


async def probing(session: aiohttp.ClientSession, address: str, latencies_s: list[float]) -> None:
    """Ask ``/livez`` for ever, as an orchestrator does, and note how long each answer took; infinity for none."""
    while True:
        began = time.perf_counter()
        try:
            async with session.get(f"{address}/livez") as response:
                await response.read()
                latencies_s.append(time.perf_counter() - began if response.status == 200 else math.inf)
        except (aiohttp.ClientError, TimeoutError):
            latencies_s.append(math.inf)
        await asyncio.sleep(PROBE_EVERY_S)
