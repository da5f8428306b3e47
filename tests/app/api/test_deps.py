"""What routes depend on: no threads, and nothing that two applications share."""

import inspect

import pytest
from fastapi.routing import APIRoute

from app.api.auth import RequireScope
from app.main import ROUTERS

ROUTES = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]


def list_calls(route):
    """A route's function and those of its dependencies, at any depth."""
    nodes = [route.dependant]  # codespell:ignore dependant  # FastAPI's word
    for node in nodes:
        yield node.call
        nodes += node.dependencies


def is_coroutine(call):
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(type(call).__call__)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_neither_a_route_nor_what_it_depends_on_takes_a_thread(route):
    """FastAPI runs every other function in a pool, where it would wait behind the work of other requests."""
    assert [call for call in list_calls(route) if not is_coroutine(call)] == []


def test_every_route_but_health_and_the_console_requires_a_scope():
    unprotected = {
        route.path for route in ROUTES if not any(isinstance(call, RequireScope) for call in list_calls(route))
    }
    health = {"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}
    assert unprotected == health | {"/", "/console/{name}"}


def test_two_applications_of_one_process_share_no_component(client_over, store_folder, tmp_path):
    first, second = client_over(store_folder), client_over(tmp_path, local=tmp_path / "local")
    assert [one["product"] for one in first.get("/v1/products").json()["products"]] == ["disc"]
    assert second.get("/v1/products").json()["products"] == []
    one, other = vars(first.app.state.services), vars(second.app.state.services)
    assert [name for name in one if one[name] is other[name] and name != "outboxes"] == []
