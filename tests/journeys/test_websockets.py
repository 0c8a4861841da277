"""WebSockets through the gateway, with aiohttp's server behind it and aiohttp's client before it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web

from aiogate.testing import running_gateway


@dataclass
class Chat:
    """An upstream: `/echo` sends back what it gets, and every socket says who the client is first."""

    url: str = ""
    requests: list[web.Request] = field(default_factory=list)
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    codes: asyncio.Queue[int | None] = field(default_factory=asyncio.Queue)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        self.requests.append(request)
        socket = web.WebSocketResponse(protocols=("chat",), max_msg_size=64 * 1024 * 1024)
        await socket.prepare(request)
        self.sockets.append(socket)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        self.codes.put_nowait(socket.close_code)
        return socket


@pytest.fixture
async def chat() -> AsyncIterator[Chat]:
    serving = Chat()
    application = web.Application()
    application.router.add_get("/{path:.*}", serving.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    serving.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield serving
    await runner.cleanup()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.mark.parametrize("compress", [0, 15])
async def test_messages_go_both_ways(chat: Chat, http: aiohttp.ClientSession, compress: int) -> None:
    api = f"{{listen: /chat/, auth: none, upstream: '{chat.url}'}}"
    async with running_gateway({"apis.d/chat.yaml": api}) as gateway:
        async with http.ws_connect(
            f"{gateway.url}/chat/room?x=1", protocols=["chat"], compress=compress, max_msg_size=2**26
        ) as socket:
            assert socket.protocol == "chat"
            assert bool(socket.compress) == bool(compress)
            for message in ("hello", "grüße", "x" * 100_000):
                await socket.send_str(message)
                assert await socket.receive_str(timeout=5) == message
            large = os.urandom(8 * 1024 * 1024)
            await socket.send_bytes(large)
            assert await socket.receive_bytes(timeout=20) == large
            await socket.close(code=4001)
        assert await chat.codes.get() == 4001
    (request,) = chat.requests
    assert (request.path_qs, request.headers["X-Forwarded-For"]) == ("/room?x=1", "127.0.0.1")


async def test_the_chain_decides_first(chat: Chat, http: aiohttp.ClientSession) -> None:
    api = f"""
        listen: /chat/
        upstream: {chat.url}
        auth: key
        versions: {{by: header, default: v1, list: {{v1: {{}}, v2: {{}}}}}}
        plugins:
          - rate_limit: 1/1h
            mode: shadow
          - rate_limit: 2/1h
            match: {{versions: [v2]}}
        """
    async with running_gateway({"apis.d/chat.yaml": api}) as gateway:
        key = await gateway.create_key(access_rights={"chat": {"versions": ["v1", "v2"]}})

        async def connected(**headers: str) -> int:
            try:
                async with http.ws_connect(f"{gateway.url}/chat/", headers=headers) as socket:
                    await socket.send_str("hi")
                    assert await socket.receive_str(timeout=5) == "hi"
                    return 101
            except aiohttp.WSServerHandshakeError as refused:
                return refused.status

        assert await connected() == 401
        assert await connected(Authorization="no-such-key") == 403
        for _ in range(3):
            assert await connected(Authorization=key) == 101, "a rule in shadow mode refuses nobody"
        for expected in (101, 101, 429):
            assert await connected(Authorization=key, **{"X-Api-Version": "v2"}) == expected
        assert await connected(Authorization=key, **{"X-Api-Version": "v3"}) == 403
    assert len(chat.requests) == 5


async def test_counted_and_logged_at_its_end(chat: Chat, http: aiohttp.ClientSession, tmp_path: object) -> None:
    files = {
        "apis.d/chat.yaml": f"{{listen: /chat/, auth: none, upstream: '{chat.url}'}}",
        "aiogate.yaml": "access_log: {format: json, file: access.log}",
    }
    async with running_gateway(files) as gateway:
        log = gateway.folder / "access.log"
        async with http.ws_connect(f"{gateway.url}/chat/") as socket:
            await socket.send_str("x" * 100)
            await socket.receive_str(timeout=5)
            text = (await gateway.tyk("GET", "/metrics")).text
            assert 'aiogate_tunnels_open{api="chat"} 1' in text
            assert 'aiogate_tunnel_bytes_total{api="chat",direction="received"} 106' in text
            assert 'aiogate_tunnel_bytes_total{api="chat",direction="sent"} 102' in text
            assert log.read_text() == ""
        async with asyncio.timeout(10):
            while not (text := log.read_text()):
                await asyncio.sleep(0.05)
        assert '"status":101,"bytes":106' in text, "100 bytes of text and a Close frame, with their heads"
        text = (await gateway.tyk("GET", "/metrics")).text
        assert 'aiogate_tunnels_open{api="chat"} 0' in text
        assert 'aiogate_tunnels_total{api="chat"} 1' in text
        assert 'aiogate_requests_total{api="chat",status="1xx"} 1' in text
        assert 'aiogate_tunnel_ends_total{api="chat",reason="' in text
