import asyncio
import signal
import time

import pytest
import uvicorn

from app.server.shutdown import DrainingServer, ShutdownState


@pytest.fixture
def server():
    return DrainingServer(uvicorn.Config(app=None), shutdown_state=ShutdownState(), drain_s=5.0)


def ticks(server):
    return asyncio.run(server.on_tick(0))


def test_a_server_without_a_signal_keeps_running(server):
    assert server.shutdown_state.reason is None
    assert not ticks(server)


def test_sigterm_is_visible_at_once_and_the_listener_closes_after_the_drain_time(server):
    server.handle_exit(signal.SIGTERM, None)
    assert server.shutdown_state.reason == "the service is shutting down"
    assert not ticks(server)
    server.shutdown_state.since = time.monotonic() - 5.0
    assert ticks(server)


def test_a_second_sigterm_cuts_the_wait_short(server):
    server.handle_exit(signal.SIGTERM, None)
    server.handle_exit(signal.SIGTERM, None)
    assert ticks(server)


def test_an_interrupt_from_the_keyboard_does_not_wait(server):
    server.handle_exit(signal.SIGINT, None)
    assert ticks(server)
