"""The doors to the request side: sockets that accept, and the connections that they made.

What happens on a connection is in `client`, which is the journey of a request.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp.http_parser
from aiohttp.http_parser import HttpRequestParser
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE, RequestPayloadError
from aiohttp.web_server import Server

from aiogate.chain.exchange import Exchange, Response
from aiogate.proxy.account import Account
from aiogate.proxy.client import ClientConnection
from aiogate.proxy.doors import BACKLOG, Admission, Door
from aiogate.proxy.requests import Network
from aiogate.proxy.sweeper import Sweeper
from aiogate.proxy.tunnels import Tunnels
from aiogate.telemetry.decisions import Decision
from aiogate.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from aiogate.chain.compile import Chain
    from aiogate.clock import Clock
    from aiogate.proxy.pool import UpstreamPools
    from aiogate.proxy.router import Current
    from aiogate.stores.repositories import SessionDirectory

__all__ = ["Clients", "Door", "Listener", "ListenerOptions", "RuntimeUnfit", "check_runtime"]

_READ_AHEAD: Final = 64 * 1024
_AT_ONCE: Final = 16
_LINES: Final[dict[str, Any]] = {"max_field_size": 8190, "max_headers": 100, "max_line_size": 8190}
"""The most that the parser takes: bytes of a header, headers, bytes of a request line."""
_FAREWELL: Final = 0.5
"""Seconds for idle clients to answer the end of TLS."""


class RuntimeUnfit(Exception):
    """The interpreter, as it was started, cannot serve safely."""


def check_runtime() -> None:
    """Refuse to start where the promises of the listener do not hold. Raises `RuntimeUnfit`.

    aiohttp's fallback parser in Python disagrees with the C parser about framing; `python -O` drops the assertions that
    both aiohttp and we rely on.
    """
    if aiohttp.http_parser.HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise RuntimeUnfit(
            "aiohttp runs without its C parser: reinstall aiohttp from a wheel, unset AIOHTTP_NO_EXTENSIONS"
        )
    if sys.flags.optimize:
        raise RuntimeUnfit("python -O (or PYTHONOPTIMIZE) removes assertions that the gateway relies on")


@dataclass(frozen=True, slots=True)
class ListenerOptions:
    """What the settings say about clients. Times are seconds, sizes bytes."""

    trusted_proxies: tuple[Network, ...] = ()
    client_header: float = 10.0
    client_body: float = 30.0
    keepalive: float = 75.0
    send_stall: float = 30.0
    header_bytes: int = 64 * 1024
    connections: int = 10_000


class Answer(Protocol):
    """Runs a chain; always answers, and raises nothing but `asyncio.CancelledError`."""

    def __call__(self, chain: Chain, exchange: Exchange, /) -> Awaitable[Response]: ...


class Listener:
    """Accepts connections and serves what `current.table` holds at the time of each request.

    `answer` runs a chain. `decide` gets the record of each refusal that no chain saw. `hello` answers `/hello` with a
    status and a JSON body unless an API listens there. `pools` are swept for deadlines along with the clients.
    `account` hears of every request that has ended. `sessions` tells whether open tunnels may stay.
    """

    def __init__(
        self,
        current: Current,
        answer: Answer,
        *,
        clock: Clock,
        decide: Callable[[Decision], None],
        hello: Callable[[], tuple[int, bytes]],
        pools: UpstreamPools,
        options: ListenerOptions | None = None,
        account: Account | None = None,
        sessions: SessionDirectory | None = None,
    ) -> None:
        self.current = current
        self.answer = answer
        self.clock = clock
        self.decide = decide
        self.hello = hello
        self.options = options or ListenerOptions()
        self.account = account or Account(Metrics(), clock)
        self.tunnels = Tunnels(current, clock, sessions)
        self.stopping = False
        self.date_line = b""
        self._date_second = 0
        self._id_prefix = secrets.token_hex(6)
        self._id_count = 0
        self._clients: Clients | None = None
        self._servers: list[asyncio.Server] = []
        self._admissions: list[Admission] = []
        self._late: set[asyncio.Future[None]] = set()
        self._addresses: list[tuple[str, int]] = []
        self._sweeper = Sweeper(self._sweep, pools.sweep, self.account.sweep)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of every listening socket, in order, ports that were asked for as 0 included."""
        return list(self._addresses)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return self._clients.count if self._clients is not None else 0

    async def start(self, addresses: Sequence[tuple[str, int]] = (), doors: Sequence[Door] = ()) -> None:
        """Listen on addresses (port 0: any) and at doors, whose sockets are bound already.

        Raises OSError when an address cannot be bound; nothing listens then.
        """
        check_runtime()
        loop = asyncio.get_running_loop()
        self._clients = clients = Clients(self, loop)
        try:
            for host, port in addresses:
                server = await loop.create_server(clients, host, port, backlog=BACKLOG, reuse_address=True)
                self._servers.append(server)
                self._addresses.extend(sock.getsockname()[:2] for sock in server.sockets)
            for door in doors:
                self._addresses.append(door.socket.getsockname()[:2])
                if door.plain:
                    # asyncio accepts a backlog's worth of clients before it looks at the first.
                    self._servers.append(await loop.create_server(clients, sock=door.socket, backlog=_AT_ONCE))
                    door.socket.listen(BACKLOG)
                else:
                    self._admissions.append(Admission(door, clients, self.options, loop))
        except OSError:
            self._close()
            self._servers.clear()
            self._admissions.clear()
            self._addresses.clear()
            raise
        self._sweeper.start()

    def stop_accepting(self) -> None:
        """Close the listening sockets. Every response from here on ends its connection."""
        self.stopping = True
        self._close()

    def _close(self) -> None:
        for server in self._servers:
            waiting = [waiting_at(sock) for sock in server.sockets]
            server.close()
            for sock in (sock for found in waiting for sock in found):
                self._late.add(asyncio.ensure_future(self._let_in(sock)))
        for admission in self._admissions:
            admission.stop_accepting()

    async def _let_in(self, sock: socket.socket) -> None:
        assert self._clients is not None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._clients, sock)
        except OSError:
            sock.close()  # it has left again

    async def drain(self, timeout: float) -> int:
        """Wait until every connection has ended, then cut what is left after `timeout` seconds; returns how many.

        An idle keep-alive connection is kept until the limit: a request may be on its way, and closing would lose it.
        """
        self.stop_accepting()
        if self._clients is None:
            return 0
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        await asyncio.gather(*self._late)
        for admission in self._admissions:
            await admission.settled(max(until - loop.time(), 0))
        cut = await self._clients.drain(max(until - loop.time(), 0))
        self._sweeper.stop()
        await self.tunnels.stop()
        return cut

    def next_request_id(self) -> str:
        self._id_count += 1
        return f"{self._id_prefix}-{self._id_count:08x}"

    def _sweep(self, now: float) -> None:
        # The header has whole seconds, so made here it is never more than a sweep behind.
        second = int(self.clock.now())
        if second != self._date_second:
            self._date_second = second
            self.date_line = f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
        if self._clients is not None:
            self._clients.sweep(now)
        self.tunnels.sweep(now)


def waiting_at(listening: socket.socket) -> list[socket.socket]:
    """The connections that nobody has accepted yet: the end of their socket would reset them."""
    found: list[socket.socket] = []
    same = socket.socket(fileno=listening.fileno())  # the event loop's own object does not accept
    try:
        while True:
            sock, _ = same.accept()
            sock.setblocking(False)
            found.append(sock)
    except OSError:
        return found
    finally:
        same.detach()


class Clients(Server):
    """aiohttp's factory of connections, with our own connections and our own way to wait for their end."""

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            _never,
            handler_cancellation=True,
            loop=loop,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=0,
            read_bufsize=_READ_AHEAD,
            **_LINES,
        )
        self.listener = listener
        self._open: set[ClientConnection] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __call__(self) -> ClientConnection:
        return self.connection("")

    def connection(self, told: str) -> ClientConnection:
        """What serves a new connection. `told` is the client's address by a PROXY header; empty: the socket's."""
        return ClientConnection(self, self.listener, told, loop=self._loop, **self._kwargs)

    def parser(self, client: ClientConnection) -> HttpRequestParser:
        """A parser like the one that a connection begins with."""
        return HttpRequestParser(
            client,
            self._loop,
            _READ_AHEAD,
            payload_exception=RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=MAX_MSG_QUEUE_SIZE,
            **_LINES,
        )

    @property
    def count(self) -> int:
        return len(self._open)

    def arrived(self, client: ClientConnection) -> None:
        self._open.add(client)
        self._empty.clear()

    def left(self, client: ClientConnection) -> None:
        self._open.discard(client)
        if not self._open:
            self._empty.set()

    def sweep(self, now: float) -> None:
        for client in list(self._open):
            client.sweep(now)

    async def drain(self, timeout: float) -> int:
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            pass
        cut = [client for client in self._open if client.busy]
        for client in list(self._open):
            client.cut()
        try:
            async with asyncio.timeout(_FAREWELL):
                await self._empty.wait()
        except TimeoutError:
            for client in list(self._open):
                client.abort()
            await self._empty.wait()
        return len(cut)


async def _never(request: Any) -> Any:
    raise AssertionError("ClientConnection.start does not call aiohttp's handler")
