"""An API that is written over HTTP, on a whole gateway: served after a reload, and checked by the plugins before."""

from __future__ import annotations

import json

from aiogate.testing import running_gateway

CLASSIC = {
    "api_id": "stock",
    "use_keyless": True,
    "version_data": {"not_versioned": True, "versions": {"Default": {"name": "Default"}}},
    "proxy": {"listen_path": "/stock/", "strip_listen_path": True},
}


def leading_to(upstream):
    return json.dumps({**CLASSIC, "proxy": {**CLASSIC["proxy"], "target_url": upstream}})


async def test_a_written_api_is_served_after_the_reload_and_gone_after_the_next(upstream):
    async with running_gateway({}) as gateway:
        assert (await gateway.tyk("POST", "/tyk/apis", json.loads(leading_to(upstream.url)))).json[
            "pending"
        ] == "reload"
        assert (await gateway.get("/stock/a")).status == 404
        assert (await gateway.tyk("GET", "/tyk/reload?block=true")).status == 200
        assert (await gateway.get("/stock/a")).status == 200
        assert (await gateway.tyk("DELETE", "/tyk/apis/stock")).status == 200
        assert (await gateway.get("/stock/a")).status == 200
        await gateway.reload()
        assert (await gateway.get("/stock/a")).status == 404


async def test_plugins_have_their_say_before_anything_is_written():
    async with running_gateway({}) as gateway:
        base = {"id": "a", "listen": "/a/", "auth": "none"}
        for wrong, said in (
            ({**base, "plugins": [{"mokc": "hi"}]}, "no plugin is called `mokc`"),
            ({**base, "plugins": [{"rate_limit": 100}], "upstream": "http://127.0.0.1:1/"}, "has no unit"),
            (base, "has no upstream"),
        ):
            answer = await gateway.tyk("POST", "/tyk/apis?format=native", wrong)
            assert answer.status == 400
            assert said in " ".join(answer.json["details"])
        assert list((gateway.folder / "apis.d").iterdir()) == []


async def test_an_api_may_not_lead_to_the_control_port_wherever_it_is():
    async with running_gateway({}, control__listen="same") as gateway:
        host, port = gateway.gateway.control_listener
        answer = await gateway.tyk("POST", "/tyk/apis", json.loads(leading_to(f"http://{host}:{port}/")))
        assert (answer.status, "leads to the control API" in answer.json["message"]) == (400, True)
        assert (await gateway.get("/openapi.json")).json["openapi"] == "3.1.0"
