"""What memory a worker, its APIs, cached keys, idle connections and WebSockets take, and the bytes of a request.

    python bench/footprint.py

Proportional set sizes of the whole process tree, on a Redis of its own; one line for each figure.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from bench.machine import pss
from bench.ours import Ours, ours
from bench.peers import BODY, free_port
from tests.servers import RedisServer

THOUSAND = 1000
_SETTINGS = "redis: {timeout: 5s}\nsessions: {cache: 1h}\n"
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Upstream:
    """Echoes WebSockets, answers everything else with 200 bytes of JSON."""

    port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Upstream]:
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self._serve)
        runner = web.AppRunner(app)
        await runner.setup()
        self.port = free_port()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.Response(body=BODY, content_type="application/json")
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket


async def settled(pid: int) -> float:
    gc.collect()
    await asyncio.sleep(1.0)
    return pss(pid)


async def request_bytes(gateway_port: int, key: str, counted: asyncio.Server, seen: list[int]) -> str:
    """Bytes of a request and its answer on the client's side and on the upstream's, heads included."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway_port)
    sent = f"GET /full/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: {key}\r\n\r\n".encode()
    writer.write(sent)
    head = await reader.readuntil(b"\r\n\r\n")
    back = len(head) + len(await reader.readexactly(len(BODY)))
    writer.close()
    counted.close()
    return f"{len(sent)} from the client, {back} to it, {seen[0]} to the upstream, {len(_ANSWER)} from it"


async def bytes_of_a_request(store: str) -> str:
    seen: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(len(await reader.readuntil(b"\r\n\r\n")))
        writer.write(_ANSWER)
        await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with ours(server.sockets[0].getsockname()[1], "--store", store, settings=_SETTINGS) as gateway:
        port = int(gateway.gateway.url.rsplit(":", 1)[1])
        return await request_bytes(port, gateway.key, server, seen)


async def idle_connections(gateway: Ours, key: str) -> float:
    port = int(gateway.gateway.url.rsplit(":", 1)[1])
    sent = f"GET /keyed/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: {key}\r\n\r\n".encode()
    before = await settled(gateway.pid)
    opened = []
    for _ in range(THOUSAND):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        opened.append(writer)
        writer.write(sent)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(BODY))
    grown = await settled(gateway.pid) - before
    for writer in opened:
        writer.close()
    return grown


async def websockets(gateway: Ours, key: str) -> float:
    before = await settled(gateway.pid)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        opened = []
        for _ in range(THOUSAND):
            socket = await session.ws_connect(gateway.url("keyed"), headers={"Authorization": key})
            await socket.send_str("hello")
            await socket.receive_str()
            opened.append(socket)
        grown = await settled(gateway.pid) - before
        await asyncio.gather(*(socket.close() for socket in opened))
    return grown


async def cached_keys(gateway: Ours) -> float:
    """Of 4,000 keys that were used once each."""
    keys = [await gateway.gateway.create_key("keyed") for _ in range(4 * THOUSAND)]
    before = await settled(gateway.pid)
    async with aiohttp.ClientSession() as session:
        for key in keys:
            async with session.get(gateway.url("keyed"), headers={"Authorization": key}) as reply:
                assert reply.status == 200
                await reply.read()
    return (await settled(gateway.pid) - before) / 4


async def main() -> None:
    server = RedisServer().start()
    try:
        async with Upstream().running() as upstream:
            print(f"bytes of a request: {await bytes_of_a_request(server.url)}", flush=True)
            sizes = []
            for number in (1, 2, 3):
                store = ("--store", server.url, "--workers", str(number))
                async with ours(upstream.port, *store, settings=_SETTINGS) as gateway:
                    sizes.append(await settled(gateway.pid))
            print(f"1, 2 and 3 workers, the parent included: {', '.join(f'{size:.1f} MiB' for size in sizes)}")
            async with ours(upstream.port, "--store", server.url, settings=_SETTINGS, apis=4 * THOUSAND) as gateway:
                print(f"1,000 APIs: {(await settled(gateway.pid) - sizes[0]) / 4:.1f} MiB", flush=True)
            async with ours(upstream.port, "--store", server.url, settings=_SETTINGS) as gateway:
                key = await gateway.gateway.create_key("keyed")
                print(f"1,000 idle connections: {await idle_connections(gateway, key):.1f} MiB", flush=True)
                print(f"1,000 WebSockets: {await websockets(gateway, key):.1f} MiB", flush=True)
            async with ours(upstream.port, "--store", server.url, settings=_SETTINGS) as gateway:
                print(f"1,000 cached keys: {await cached_keys(gateway):.1f} MiB", flush=True)
    finally:
        server.close()


if __name__ == "__main__":
    asyncio.run(main())
