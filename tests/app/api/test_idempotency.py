import asyncio

import pytest

from app.api.idempotency import IdempotencyCache, IdempotentRequest


def test_who_waits_for_a_request_that_fails_computes_the_answer():
    request = IdempotentRequest(key="k", fingerprint="f")
    cache = IdempotencyCache(journal=None)
    begun, gate = asyncio.Event(), asyncio.Event()

    async def fail():
        begun.set()
        await gate.wait()
        raise ZeroDivisionError

    async def answer():
        return "answer"

    async def wait(first):
        gate.set()
        return await first

    async def run():
        failing = asyncio.ensure_future(cache.get_or_compute(request, fail, wait))
        await begun.wait()
        found = await cache.get_or_compute(request, answer, wait)
        with pytest.raises(ZeroDivisionError):
            await failing
        return found, await cache.get_or_compute(request, fail, wait)

    assert asyncio.run(run()) == (("answer", False), ("answer", True))
