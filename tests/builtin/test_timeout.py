"""`timeout` through the public door."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from aiogate.builtin import timeout
from aiogate.errors import DiagnosticsFound
from aiogate.testing import make_exchange, recording_upstream, run_middleware, running_gateway

SITE = "{{listen: /x/, auth: none, upstream: '{upstream}', plugins: [{plugins}]}}"


async def test_a_late_upstream_is_504_and_only_where_it_matches():
    async def late(received):
        await asyncio.sleep(0.3 if "/late" in received.target else 0)
        return web.Response(text="at last")

    plugins = "{timeout: 100ms, match: {paths: [/quick/*]}}"
    async with recording_upstream(late) as upstream:
        text = SITE.format(upstream=upstream.url, plugins=plugins)
        async with running_gateway({"apis.d/x.yaml": text}) as gateway:
            reply = await gateway.get("/x/quick/late")
            assert (reply.status, reply.code, reply.error) == (
                504, "upstream_timeout", "Upstream service reached hard timeout.",
            )  # fmt: skip
            assert "no response within 0.1 s" in (await gateway.why(reply))["reason"]
            assert (await gateway.get("/x/late")).body == b"at last"


async def test_it_is_left_for_the_forwarder():
    exchange = make_exchange()
    assert (await run_middleware(timeout.aiogate_middleware(), "1.5s", exchange)).passed
    assert exchange.upstream_timeout == 1.5


async def test_the_later_entry_holds():
    async def late(received):
        await asyncio.sleep(0.2)
        return web.Response()

    async with recording_upstream(late) as upstream:
        plugins = "{timeout: 50ms}, {timeout: 10s, match: {paths: [/slow]}}"
        text = SITE.format(upstream=upstream.url, plugins=plugins)
        async with running_gateway({"apis.d/x.yaml": text}) as gateway:
            assert (await gateway.get("/x/slow")).status == 200
            assert (await gateway.get("/x/other")).status == 504


@pytest.mark.parametrize("config", ["5", "0s", "soon", "{}", "5s, mode: shadow"])
async def test_mistakes_are_told(config):
    text = SITE.format(upstream="http://127.0.0.1:9/", plugins=f"{{timeout: {config}}}")
    with pytest.raises(DiagnosticsFound):
        async with running_gateway({"apis.d/x.yaml": text}):
            pass
