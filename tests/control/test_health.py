"""`/hello` and `/ready`: open, and honest about the store."""

from __future__ import annotations

import pytest

from aiogate import __version__
from aiogate.control.application import application
from aiogate.stores.base import StoreUnavailable


def take_the_store_away(control, monkeypatch):
    async def away(*_):
        raise StoreUnavailable("disk I/O error")

    monkeypatch.setattr(type(control.site.store.sessions), "get", away)


async def test_hello(control):
    answer = await control.call("GET", "/hello")
    assert (answer.status, answer.json) == (
        200,
        {
            "status": "pass",
            "version": f"v{__version__}",
            "description": "aiogate",
            "generation": 1,
            "details": {
                "memory": {"status": "pass", "componentType": "datastore", "time": "2023-11-14T22:13:20+00:00"}
            },
        },
    )


async def test_ready(control):
    answer = await control.call("GET", "/ready")
    assert (answer.status, answer.json["status"], answer.json["generation"]) == (200, "ready", 1)
    assert answer.json["last_reload"]["ok"] is True
    assert "reason" not in answer.json


async def test_a_store_that_is_away(control, monkeypatch):
    take_the_store_away(control, monkeypatch)
    hello = await control.call("GET", "/hello")
    assert (hello.status, hello.json["status"]) == (200, "fail")
    assert hello.json["details"]["memory"]["output"] == "disk I/O error"
    ready = await control.call("GET", "/ready")
    assert (ready.status, ready.json["reason"]) == (503, "Store connection not available: disk I/O error")


async def test_a_gateway_on_its_way_out_is_not_ready(control):
    control.site.draining = True
    answer = await control.call("GET", "/ready")
    assert (answer.status, answer.json["reason"]) == (503, "Gateway is shutting down")


async def test_a_gateway_that_never_loaded_is_not_ready(make_site):
    from aiohttp.test_utils import TestClient, TestServer

    async with TestClient(TestServer(application(make_site()))) as client, client.get("/ready") as response:
        body = await response.json()
    assert (response.status, body["reason"], body["last_reload"]) == (
        503,
        "A successful API reload did not happen",
        None,
    )


@pytest.mark.parametrize("path", ["/hello", "/ready"])
async def test_a_load_balancer_may_ask_with_head(control, path):
    answer = await control.call("HEAD", path)
    assert (answer.status, answer.text) == (200, "")
