"""The end of a gateway: nobody who asked goes without an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import ClientConnectionError, web

from aiogate.testing import Received, RecordingUpstream

Start = Callable[..., Any]


def files(upstream: RecordingUpstream) -> dict[str, str]:
    return {
        "apis.d/proxied.yaml": f"{{listen: /proxied/, auth: none, upstream: '{upstream.url}'}}",
        "apis.d/mocked.yaml": "{listen: /mocked/, auth: none, plugins: [mock: hi]}",
    }


@pytest.mark.slow
@pytest.mark.parametrize("run", range(10))
async def test_a_stop_under_load(start: Start, load: Any, upstream: RecordingUpstream, run: int) -> None:
    async with start(files(upstream)) as gateway:
        clients = load(gateway)
        clients.send("/proxied/", "/mocked/", clients=16)
        await clients.has_answered(300 + 37 * run)
        gateway.terminate()
        await clients.ended()
        assert await gateway.ended() == 0
    assert clients.failures == []
    assert clients.gone == 16, "every client was told to go, and found nobody when it came again"
    assert clients.connections == 16


@pytest.mark.slow
async def test_a_slow_answer_is_waited_for_and_new_clients_go_elsewhere(
    start: Start, upstream: RecordingUpstream
) -> None:
    asked, finish = asyncio.Event(), asyncio.Event()

    async def slowly(received: Received) -> web.StreamResponse:
        asked.set()
        await finish.wait()
        return web.Response(body=b"at last")

    upstream.answer = slowly
    async with start(files(upstream)) as gateway:
        waiting = asyncio.create_task(gateway.request("POST", "/proxied/", data=b"x"))
        await asked.wait()
        gateway.terminate()
        host, port = gateway.url.removeprefix("http://").split(":")
        async with asyncio.timeout(10):
            while await connects(host, int(port)):
                await asyncio.sleep(0.01)
        assert not waiting.done()
        finish.set()
        reply = await waiting
        assert (reply.status, reply.body, reply.headers["Connection"]) == (200, b"at last", "close")
        assert await gateway.ended(10) == 0


async def connects(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return False
    writer.transport.abort()
    return True


@pytest.mark.slow
async def test_a_second_signal_cuts_what_is_left(start: Start, upstream: RecordingUpstream) -> None:
    asked = asyncio.Event()

    async def never(received: Received) -> web.StreamResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    upstream.answer = never
    async with start(files(upstream)) as gateway:
        waiting = asyncio.create_task(gateway.request("POST", "/proxied/", data=b"x"))
        await asked.wait()
        gateway.terminate()
        host, port = gateway.url.removeprefix("http://").split(":")
        async with asyncio.timeout(10):
            while await connects(host, int(port)):
                await asyncio.sleep(0.01)
        gateway.terminate()
        assert await gateway.ended(5) == 0
        with pytest.raises(ClientConnectionError):
            await waiting
        assert "1 requests did not finish in time and were cut" in gateway.log.read_text()
