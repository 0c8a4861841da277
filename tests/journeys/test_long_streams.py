"""What lasts longer than a generation: WebSockets, event streams and large bodies, while the gateway reloads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from aiogate.testing import GatewayProcess, RecordingUpstream

Start = Callable[..., Any]
GIB = 1024**3
PIECE = bytes(1024 * 1024)


class Far:
    """An upstream with something to say for a long time."""

    def __init__(self) -> None:
        self.url = ""
        self.received = 0
        self.arrivals = 0
        self.ticks: asyncio.Queue[int] = asyncio.Queue()

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        self.arrivals += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    async def events(self, request: web.Request) -> web.StreamResponse:
        self.arrivals += 1
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while (tick := await self.ticks.get()) >= 0:
            await response.write(b"data: %d\n\n" % tick)
        return response

    async def upload(self, request: web.Request) -> web.Response:
        async for piece in request.content.iter_any():
            self.received += len(piece)
        return web.Response(text=str(self.received))

    async def download(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(GIB)})
        await response.prepare(request)
        for _ in range(GIB // len(PIECE)):
            await response.write(PIECE)
        return response


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    serving = Far()
    application = web.Application(client_max_size=0)
    application.router.add_get("/socket", serving.socket)
    application.router.add_get("/events", serving.events)
    application.router.add_put("/upload", serving.upload)
    application.router.add_get("/download", serving.download)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    serving.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield serving
    await runner.cleanup()


def files(far: Far) -> dict[str, str]:
    return {
        "apis.d/steady.yaml": f"{{listen: /steady/, auth: none, upstream: '{far.url}'}}",
        "apis.d/changing.yaml": "{listen: /changing/, auth: none, plugins: [mock: '0']}",
    }


async def reload_with(gateway: GatewayProcess, http: aiohttp.ClientSession, number: int) -> None:
    """Change the other API, send SIGHUP, and wait until the change serves."""
    path = gateway.folder / "apis.d/changing.yaml"
    aside = path.with_name(".aside")
    aside.write_text(f"{{listen: /changing/, auth: none, plugins: [mock: '{number}']}}")
    aside.replace(path)
    gateway.hangup()
    async with asyncio.timeout(20):
        while True:
            async with http.get(f"{gateway.url}/changing/") as reply:
                if await reply.text() == str(number):
                    return


@pytest.mark.slow
async def test_a_websocket_and_an_event_stream_survive_a_hundred_reloads(start: Start, far: Far) -> None:
    async with start(files(far)) as gateway, aiohttp.ClientSession() as http:
        async with (
            http.ws_connect(f"{gateway.url}/steady/socket") as socket,
            http.get(f"{gateway.url}/steady/events", timeout=aiohttp.ClientTimeout(sock_read=20)) as events,
        ):
            assert events.headers["Content-Type"] == "text/event-stream"
            for number in range(1, 101):
                await reload_with(gateway, http, number)
                await socket.send_str(f"message {number}")
                assert await socket.receive_str(timeout=5) == f"message {number}"
                far.ticks.put_nowait(number)
                assert await events.content.readuntil(b"\n\n") == b"data: %d\n\n" % number
            far.ticks.put_nowait(-1)
            assert await events.content.read() == b"", "the stream ends as the upstream ends it"
            await socket.close()
        ready = (await gateway.tyk("GET", "/ready")).json
        assert ready["generation"] == 101
    assert far.arrivals == 2


def peak(pid: int) -> int:
    """The most memory that the process has had in use, in MiB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at /proc")
@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_gibibyte_passes_while_the_gateway_reloads(start: Start, far: Far, way: str) -> None:
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with start(files(far)) as gateway, aiohttp.ClientSession(timeout=timeout) as http:
        await reload_with(gateway, http, 0)
        for number in range(1, 4):
            await reload_with(gateway, http, number)
        before = peak(gateway.pid)
        transfer = asyncio.create_task((upload if way == "up" else download)(gateway, http))
        reloads = 3
        while not transfer.done():
            reloads += 1
            await reload_with(gateway, http, reloads)
            await asyncio.sleep(0.05)
        assert await transfer == GIB
        assert reloads > 4
        grown = peak(gateway.pid) - before
    assert grown < 24, f"the gateway grew by {grown} MiB over {before} MiB"


async def upload(gateway: GatewayProcess, http: aiohttp.ClientSession) -> int:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(GIB // len(PIECE)):
            yield PIECE

    async with http.put(f"{gateway.url}/steady/upload", data=body(), headers={"Content-Length": str(GIB)}) as reply:
        assert reply.status == 200
        return int(await reply.text())


async def download(gateway: GatewayProcess, http: aiohttp.ClientSession) -> int:
    size = 0
    async with http.get(f"{gateway.url}/steady/download") as reply:
        assert (reply.status, reply.content_length) == (200, GIB)
        async for piece in reply.content.iter_any():
            size += len(piece)
    return size


@pytest.mark.slow
async def test_74_a_million_chunks_of_one_byte(start: Start, upstream: RecordingUpstream) -> None:
    """They cost what bytes cost: the processor for a while, no memory, and nobody else's turn."""
    api = f"{{listen: /api/, auth: none, upstream: '{upstream.url}'}}"
    async with start({"apis.d/api.yaml": api}) as gateway:
        assert (await gateway.get("/api/")).status == 200
        host, port = gateway.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        before = resident(gateway.pid)
        writer.write(b"POST /api/all HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        async with asyncio.timeout(120):
            for _ in range(100):
                writer.write(b"1\r\na\r\n" * 10_000)
                await writer.drain()
                assert (await gateway.get("/api/")).status == 200
            writer.write(b"0\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.transport.abort()
        [whole] = [one.body for one in upstream.received if one.method == "POST"]
        assert whole == b"a" * 1_000_000
        assert resident(gateway.pid) - before < 32 * 1024
        user, system = Path(f"/proc/{gateway.pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
        assert (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") < 30


def resident(pid: int) -> int:
    """The most memory that it has had, in KiB."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0])
