import asyncio

import pytest

from app.errors import EngineError
from app.history import broadcast
from app.history.broadcast import EventBroadcaster


def drain(queue):
    return [queue.get_nowait() for _ in range(queue.qsize())]


def test_every_subscriber_gets_the_messages_from_its_subscription_on():
    async def run():
        broadcaster = EventBroadcaster()
        broadcaster.broadcast("to nothing")
        async with broadcaster.subscribe() as first:
            broadcaster.broadcast("one")
            async with broadcaster.subscribe() as second:
                broadcaster.broadcast("two")
            broadcaster.broadcast("three")
            return drain(first), drain(second)

    assert asyncio.run(run()) == (["one", "two", "three"], ["two"])


def test_a_slow_subscriber_misses_the_oldest_messages_and_no_other_does(monkeypatch):
    monkeypatch.setattr(broadcast, "MAX_QUEUED_EVENTS", 2)

    async def run():
        broadcaster, seen = EventBroadcaster(), []
        async with broadcaster.subscribe() as slow, broadcaster.subscribe() as quick:
            for message in "abcd":
                broadcaster.broadcast(message)
                seen += drain(quick)
            return drain(slow), seen

    assert asyncio.run(run()) == (["c", "d"], ["a", "b", "c", "d"])


def test_subscribers_are_refused_beyond_their_limit_until_one_leaves(monkeypatch):
    monkeypatch.setattr(broadcast, "MAX_SUBSCRIBERS", 2)

    async def run():
        broadcaster = EventBroadcaster()
        assert not broadcaster.has_subscribers
        async with broadcaster.subscribe():
            assert broadcaster.has_subscribers
            broadcaster.check_capacity()
            async with broadcaster.subscribe():
                with pytest.raises(EngineError, match="2 subscribers are connected"):
                    broadcaster.check_capacity()
            broadcaster.check_capacity()
        assert not broadcaster.has_subscribers

    asyncio.run(run())


def test_a_subscriber_that_fails_is_removed():
    async def run():
        broadcaster = EventBroadcaster()
        with pytest.raises(ZeroDivisionError):
            async with broadcaster.subscribe():
                raise ZeroDivisionError
        return broadcaster.has_subscribers

    assert not asyncio.run(run())
