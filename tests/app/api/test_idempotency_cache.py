"""How long answers are kept for clients that repeat a request."""

import asyncio

from app.api import idempotency
from app.api.idempotency import IdempotencyCache, IdempotentRequest


async def wait(first):
    return await first


async def ask(cache, key, text):
    async def compute():
        return text

    return await cache.get_or_compute(IdempotentRequest(key=key, fingerprint="f"), compute, wait)


def test_the_oldest_answers_are_dropped_and_computed_again(monkeypatch):
    monkeypatch.setattr(idempotency, "MAX_CACHED_ANSWERS", 3)
    cache = IdempotencyCache(journal=None)

    async def run():
        for number in range(5):
            await ask(cache, f"k{number}", f"first {number}")
        return [await ask(cache, f"k{number}", f"second {number}") for number in (4, 3, 2, 1)]

    assert asyncio.run(run()) == [("first 4", True), ("first 3", True), ("first 2", True), ("second 1", False)]
    assert len(cache._answers) == 3


def test_requests_in_progress_are_not_dropped_and_count_beside_the_finished_ones(monkeypatch):
    monkeypatch.setattr(idempotency, "MAX_CACHED_ANSWERS", 1)
    cache = IdempotencyCache(journal=None)

    async def run():
        begun, gate = asyncio.Event(), asyncio.Event()

        async def compute_late():
            begun.set()
            await gate.wait()
            return "late"

        request = IdempotentRequest(key="late", fingerprint="f")
        pending = asyncio.ensure_future(cache.get_or_compute(request, compute_late, wait))
        await begun.wait()
        for number in range(3):
            await ask(cache, f"k{number}", "text")
        kept = list(cache._answers)
        gate.set()
        return kept, await pending

    assert asyncio.run(run()) == (["late", "k2"], ("late", False))
