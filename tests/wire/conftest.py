"""A real listener, upstreams that do as they are told, and clients that speak in bytes; all in one loop.

Each test runs on asyncio's loop and on uvloop: the promises of the data path hold on both.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from aiogate.chain.exchange import Exchange, Response, problem_response
from aiogate.clock import SystemClock
from aiogate.domain.policy import PolicySet
from aiogate.errors import Problem
from aiogate.proxy.balance import Target
from aiogate.proxy.forward import CompiledUpstream, forward
from aiogate.proxy.listener import Door, Listener, ListenerOptions
from aiogate.proxy.pool import Origin, PoolOptions, UpstreamPools
from aiogate.proxy.router import Current, RouteTable
from aiogate.telemetry.decisions import Decision
from aiogate.telemetry.metrics import Counts


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@dataclass
class Reply:
    """A response as a client reads it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    head: bytes

    def __getitem__(self, name: str) -> str:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) == 1, f"{name} stands {len(found)} times"
        return found[0]

    def __contains__(self, name: str) -> bool:
        return any(key.lower() == name.lower() for key, _ in self.headers)

    @property
    def code(self) -> str:
        import json

        return str(json.loads(self.body)["code"])


class Client:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, *, to_head: bool = False) -> Reply:
        """The next response, interim ones included. Fails when it is cut short."""
        async with asyncio.timeout(5):
            head = await self.reader.readuntil(b"\r\n\r\n")
            status_line, *lines = head[:-4].decode("latin-1").split("\r\n")
            headers = [(line.partition(": ")[0], line.partition(": ")[2]) for line in lines]
            reply = Reply(int(status_line.split()[1]), headers, b"", head)
            if to_head or reply.status in (100, 204, 304):
                return reply
            if "Content-Length" in reply:
                reply.body = await self.reader.readexactly(int(reply["Content-Length"]))
            elif "Transfer-Encoding" in reply:
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    reply.body += (await self.reader.readexactly(size + 2))[:-2]
                assert await self.reader.readexactly(2) == b"\r\n"
            else:
                reply.body = await self.reader.read(-1)
            return reply

    async def ask(self, data: bytes) -> Reply:
        await self.send(data)
        return await self.reply(to_head=data.startswith(b"HEAD"))

    async def rest(self, within: float = 5.0) -> bytes:
        """What comes until the other side closes; fails when it does not."""
        async with asyncio.timeout(within):
            return await self.reader.read(-1)

    async def is_open(self) -> bool:
        """Whether the connection still serves."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            return (await self.ask(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
        return False

    def reset(self) -> None:
        """End the connection by RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@dataclass
class Received:
    """A request as the upstream reads it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool
    connection: int

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Upstream:
    """Records what comes and answers with `answer`: bytes, or a coroutine function of (request, writer)."""

    answer: bytes | Callable[[Received, asyncio.StreamWriter], Awaitable[None]] = OK
    received: list[Received] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0
    port: int = 0
    server: asyncio.Server | None = None
    close_after: bool = False
    read_bodies: bool = True
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self.serve(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def stop(self) -> None:
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            while await self.serve_one(reader, writer, number):
                pass
        except ConnectionError:
            pass
        finally:
            self.lost.set()
            writer.transport.abort()

    async def serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return False
        first, *lines = head[:-4].split("\r\n")
        method, target, _ = first.split(" ")
        headers = [(line.partition(": ")[0], line.partition(": ")[2]) for line in lines]
        request = Received(method, target, headers, b"", False, number)
        self.received.append(request)
        self.begun.set()
        if self.read_bodies:
            try:
                await self.read_body(reader, request)
            except asyncio.IncompleteReadError as error:
                request.body += error.partial
                return False
        request.complete = True
        if isinstance(self.answer, bytes):
            writer.write(self.answer)
        else:
            await self.answer_unless_gone(self.answer, request, reader, writer)
        if writer.transport.is_closing():
            return False
        await writer.drain()
        if not self.read_bodies:
            await reader.read(1)
            await asyncio.Event().wait()
        return not self.close_after

    async def answer_unless_gone(
        self,
        answer: Callable[[Received, asyncio.StreamWriter], Awaitable[None]],
        request: Received,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if not self.read_bodies:
            await answer(request, writer)
            return
        answering = asyncio.ensure_future(answer(request, writer))
        watching = asyncio.ensure_future(reader.read(1))
        tasks = (answering, watching)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome
        if not isinstance(ended[1], BaseException):
            assert not ended[1], "a request arrived before its predecessor was answered"
            raise ConnectionResetError("the gateway is gone")

    async def read_body(self, reader: asyncio.StreamReader, request: Received) -> None:
        if request.values("Transfer-Encoding"):
            while size := int(await reader.readuntil(b"\r\n"), 16):
                request.body += (await reader.readexactly(size + 2))[:-2]
            assert await reader.readexactly(2) == b"\r\n"
        else:
            for length in request.values("Content-Length"):
                request.body += await reader.readexactly(int(length))

    def silence(self) -> None:
        """Take requests and never answer."""

        async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        self.answer = answer


@dataclass
class Lease:
    active: int = 0

    def done(self) -> None:
        assert self.active == 0


class Api:
    """As much of a compiled API as the listener sees; its chain is itself."""

    org = "default"
    definition = SimpleNamespace(file="", expires=None, versions=None)

    def __init__(self, listen_path: str, upstream: CompiledUpstream | None, host: str | None = None) -> None:
        self.id = listen_path.strip("/").replace("/", "-") or "root"
        self.listen_path = listen_path
        self.host = host
        self.upstream = upstream
        self.lease = Lease()
        self.counts = Counts()
        self.credential_query: frozenset[str] = frozenset()
        self.seen: list[Exchange] = []
        self.before: Callable[[Exchange], Any] | None = None

    def select(self, exchange: Exchange) -> Api:
        exchange.tail = exchange.path[len(self.listen_path) - 1 :] or "/"
        return self


async def answer(chain: Any, exchange: Exchange) -> Response:
    """A chain of at most one step before the upstream."""
    chain.seen.append(exchange)
    outcome: Any = None
    if chain.before is not None:
        outcome = chain.before(exchange)
        if isinstance(outcome, Awaitable):
            outcome = await outcome
    if outcome is None:
        outcome = await forward(exchange, chain.upstream)
    if isinstance(outcome, Problem):
        exchange.problem = outcome
        return problem_response(outcome, exchange.request_id)
    assert isinstance(outcome, Response)
    return outcome


@dataclass
class Gate:
    """A running listener with the API `/api/` in front of `upstream`."""

    listener: Listener
    upstream: Upstream
    api: Api
    pools: UpstreamPools
    current: Current
    decisions: list[Decision]
    stack: contextlib.AsyncExitStack

    @property
    def port(self) -> int:
        return self.listener.addresses[0][1]

    @property
    def pool(self) -> Any:
        assert self.api.upstream is not None
        return self.api.upstream.target.pool

    async def client(self, *, first: bytes = b"", tls: ssl.SSLContext | None = None) -> Client:
        """A connection that sends `first` before anything else, and then does the handshake of `tls`."""
        sock = socket.create_connection(("127.0.0.1", self.port))
        sock.sendall(first)
        sock.setblocking(False)
        name = "localhost" if tls is not None else None
        client = Client(*await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=name, limit=2**24))
        self.stack.push_async_callback(client.close)
        return client

    async def ask(self, data: bytes) -> Reply:
        return await (await self.client()).ask(data)

    def buffered(self) -> int:
        """Bytes of bodies that the gateway holds, in both directions, the kernel's buffers excluded."""
        held = 0
        assert self.listener._clients is not None
        for client in self.listener._clients._open:
            held += client.transport.get_write_buffer_size() if client.transport is not None else 0
            held += client._latest._size if not client._latest.is_eof() else 0
        for connection in self.pool._connections:
            held += connection._transport.get_write_buffer_size()
            held += connection._body.read_ahead if connection._body is not None else 0
        return held

    async def elapse(self, seconds: float) -> None:
        """What the sweeper would do that much later, now."""
        for _ in range(20):
            await asyncio.sleep(0)
        now = asyncio.get_running_loop().time() + seconds
        self.listener._sweep(now)
        self.pools.sweep(now)


class Wire:
    """Makes gates; everything it made ends with the test."""

    OK = OK
    Response = Response

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self.stack = stack

    async def upstream(
        self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", path: Path | None = None
    ) -> Upstream:
        upstream = Upstream()
        if path is not None:
            server = await asyncio.start_unix_server(upstream.accept, path, ssl=tls)
        else:
            server = await asyncio.start_server(upstream.accept, host, 0, ssl=tls)
            upstream.port = server.sockets[0].getsockname()[1]
        upstream.server = server
        self.stack.push_async_callback(upstream.stop)
        self.stack.callback(server.close)
        return upstream

    async def gate(
        self,
        *,
        options: ListenerOptions | None = None,
        pool: PoolOptions | None = None,
        response_timeout: float = 30.0,
        idle_timeout: float = 60.0,
        port: int | None = None,
        origin: Origin | None = None,
        base_path: str = "",
        base_query: str = "",
        tls: Callable[[], ssl.SSLContext] | None = None,
        proxy_protocol: bool = False,
        **upstream_options: Any,
    ) -> Gate:
        upstream = await self.upstream()
        pools = UpstreamPools()
        leased = pools.lease(origin or Origin("http", "127.0.0.1", port or upstream.port), pool or PoolOptions())
        api = Api(
            "/api/",
            CompiledUpstream(
                Target(leased, "127.0.0.1", base_path, base_query),
                response_timeout=response_timeout,
                idle_timeout=idle_timeout,
                **upstream_options,
            ),
        )
        decisions: list[Decision] = []
        current = Current(RouteTable(1, [api], PolicySet(()), 0.0))  # type: ignore[list-item]
        listener = Listener(
            current,
            answer,
            clock=SystemClock(),
            decide=decisions.append,
            hello=lambda: (200, b'{"status":"pass"}'),
            pools=pools,
            options=options,
        )
        if tls is None and not proxy_protocol:
            await listener.start([("127.0.0.1", 0)])
        else:
            await listener.start(doors=[Door(socket.create_server(("127.0.0.1", 0)), tls, proxy_protocol)])

        async def stop() -> None:
            await listener.drain(0)
            pools.close()
            for _ in range(3):
                await asyncio.sleep(0)

        self.stack.push_async_callback(stop)
        return Gate(listener, upstream, api, pools, current, decisions, self.stack)


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with contextlib.AsyncExitStack() as stack:
        yield Wire(stack)


@pytest.fixture
async def gate(wire: Wire) -> Gate:
    return await wire.gate()


async def until(condition: Callable[[], Any], within: float = 5.0) -> None:
    """Wait until something holds that no event tells."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture(autouse=True)
def _quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may leave an error or a traceback in the log, unless it takes it out."""
    yield
    loud = [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL") or record.exc_info]
    assert not loud, f"in the log: {[record.getMessage() for record in loud]}"
