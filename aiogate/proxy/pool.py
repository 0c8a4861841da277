"""Connections to upstreams, kept for the next request.

One pool per origin and options; equal upstreams share it, in one generation and across a reload, because whoever is
compiled against it holds a lease. The last connection used is used next, so that surplus ones grow old and are closed.
At the limit requests queue, first come first served; a queue that is full, or that moves too slowly, is `Overloaded`.

The caller says where to connect, once, from the definition: nothing of a request decides on an address. A guarded pool
asks before each connection whether the address that a name led to may be reached.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from aiogate.config.trust import Trust
from aiogate.proxy.balance import Groups
from aiogate.proxy.connection import UpstreamConnection
from aiogate.proxy.names import NameCache, Unreachable, is_address

__all__ = ["Origin", "Overloaded", "Pool", "PoolOptions", "Unreachable", "UpstreamPools"]


class Overloaded(Exception):
    """Every connection is in use and the queue for one is full, or did not move in time."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an upstream listens. `scheme` is http or https; `host` is a name or an address without brackets.

    `socket` is the path of a Unix socket, which is connected to instead.
    """

    scheme: str
    host: str
    port: int
    socket: str = ""

    def __str__(self) -> str:
        if self.socket:
            return f"{self.scheme}://unix:{self.socket}"
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How connections are made and kept. Times are seconds.

    `connect` bounds the way to a connection, from the name to TLS; `connections` is the most at one time; `queue` the
    most requests that wait for one, each for at most `wait`; `idle` is how long an unused connection is kept. `trust`
    is how TLS is spoken; None: the system's authorities. `guarded`: not every address may be reached.
    """

    connect: float = 5.0
    connections: int = 1024
    queue: int = 1024
    wait: float = 5.0
    idle: float = 60.0
    trust: Trust | None = None
    guarded: bool = False


Refuse = Callable[[str, int], str]
"""Why a guarded pool may not connect to an address and a port; empty: it may."""


class Pool:
    """All connections to one origin."""

    __slots__ = (
        "_closed",
        "_connecting",
        "_connections",
        "_idle",
        "_names",
        "_refuse",
        "_waiters",
        "options",
        "origin",
    )

    def __init__(self, origin: Origin, options: PoolOptions, names: NameCache, refuse: Refuse | None = None) -> None:
        self.origin = origin
        self.options = options
        self._refuse = refuse
        self._names = names
        self._idle: list[UpstreamConnection] = []
        self._connections: set[UpstreamConnection] = set()
        self._connecting = 0
        self._waiters: deque[asyncio.Future[UpstreamConnection | None]] = deque()
        self._closed = False

    def __repr__(self) -> str:
        return (
            f"<Pool {self.origin}: {len(self._connections)} open, {len(self._idle)} idle, {len(self._waiters)} waiting>"
        )

    @property
    def open(self) -> int:
        """Connections that exist, in use or idle."""
        return len(self._connections)

    @property
    def idle(self) -> int:
        """Connections that wait for a request."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection."""
        return len(self._waiters)

    @property
    def busy(self) -> int:
        """Requests in progress, those that still wait for a connection included."""
        return len(self._connections) - len(self._idle) + self._connecting + len(self._waiters)

    def take_idle(self) -> UpstreamConnection | None:
        """A connection that is at hand, or None: then `connect`."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def connect(self) -> UpstreamConnection:
        """A new connection, or one that comes free when the limit is reached. Raises `Unreachable`, `Overloaded`."""
        if len(self._connections) + self._connecting < self.options.connections:
            self._connecting += 1
        else:
            given = await self._wait()
            if given is not None:
                return given if given.usable else await self.connect()
        try:
            connection = await self._open()
        except BaseException:
            self._connecting -= 1
            self._make_room()
            raise
        self._connecting -= 1
        self._connections.add(connection)
        return connection

    def take_back(self, connection: UpstreamConnection) -> None:
        """A connection has done its work."""
        if self._closed:
            connection.close()
        elif not self._waiters or not self._hand_on(connection):
            connection.deadline = connection.loop.time() + self.options.idle
            self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._make_room()

    def sweep(self, now: float) -> None:
        """End what has passed its deadline."""
        for connection in [each for each in self._connections if each.deadline <= now]:
            connection.expire()

    def close(self) -> None:
        """Keep no connection any longer. Requests in progress finish."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _hand_on(self, connection: UpstreamConnection | None) -> bool:
        """Give a connection, or (None) the right to make one, which counts as made, to the first who waits."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    def _make_room(self) -> None:
        if len(self._connections) + self._connecting < self.options.connections and self._hand_on(None):
            self._connecting += 1

    async def _wait(self) -> UpstreamConnection | None:
        if len(self._waiters) >= self.options.queue:
            raise Overloaded(f"{len(self._waiters)} requests wait for a connection to {self.origin}")
        waiter: asyncio.Future[UpstreamConnection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self.options.wait):
                return await waiter
        except TimeoutError:
            self._withdraw(waiter)
            raise Overloaded(f"no connection to {self.origin} came free in {self.options.wait:g} s") from None
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise

    def _withdraw(self, waiter: asyncio.Future[UpstreamConnection | None]) -> None:
        """Who waited is gone. What was handed over in the same tick goes to the next."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if waiter.done() and not waiter.cancelled():
            given = waiter.result()
            if given is None:
                self._connecting -= 1
                self._make_room()
            elif given.usable:
                self.take_back(given)

    async def _open(self) -> UpstreamConnection:
        """A connection to the first address that takes one. Each has its share of the time that is left."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self.options.connect
        addresses = await self._addresses(ends)
        failure: Exception | None = None
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            try:
                async with asyncio.timeout((ends - loop.time()) / left):
                    return await self._open_at(address, loop)
            except OSError as error:  # TimeoutError and ssl.SSLError are among them
                failure = error
        reason = f"{self.origin}: {failure or 'the name has no address'}"
        if isinstance(failure, TimeoutError):
            reason = f"{self.origin} did not take a connection in {self.options.connect:g} s"
        raise Unreachable(reason, timed_out=isinstance(failure, TimeoutError)) from failure

    async def _addresses(self, ends: float) -> tuple[str, ...]:
        """The addresses that may be connected to; one, without a meaning, for a socket of this machine."""
        host, port = self.origin.host, self.origin.port
        if self.origin.socket:
            if self._refuse is not None:
                raise Unreachable(f"{self.origin} may not be reached: {_BY_API}")
            return (self.origin.socket,)
        addresses = (host,) if is_address(host) else await self._names.addresses(host, port, ends)
        if self._refuse is None:
            return addresses
        refused = [why for address in addresses if (why := self._refuse(address, port))]
        if refused:
            # A name with one such address is no honest name: none of its addresses is tried.
            raise Unreachable(f"{self.origin} may not be reached: {'; '.join(refused)}; {_BY_API}")
        return addresses

    async def _open_at(self, address: str, loop: asyncio.AbstractEventLoop) -> UpstreamConnection:
        trust = self.options.trust
        secure: ssl.SSLContext | None = None
        name: str | None = None
        if self.origin.scheme == "https":
            secure = trust.context if trust is not None else _default_tls()
            name = (trust.server_name if trust is not None else "") or self.origin.host

        def made() -> UpstreamConnection:
            return UpstreamConnection(self, loop)

        if self.origin.socket:
            _, connection = await loop.create_unix_connection(made, address, ssl=secure, server_hostname=name)
        else:
            _, connection = await loop.create_connection(
                made, address, self.origin.port, ssl=secure, server_hostname=name
            )
        return connection


_BY_API = "the definition was written through the control API"


class UpstreamPools:
    """Every pool of the process. Made once; outlives all generations.

    `lease` and `release` may be called from the thread that compiles; everything else belongs to the loop. `refuse`
    says where guarded pools may not connect to; until it is set they connect to nothing. `groups` are the upstreams
    with several targets.
    """

    __slots__ = ("_leases", "_lock", "_names", "_pools", "groups", "refuse")

    def __init__(self) -> None:
        self.groups = Groups()
        self.refuse: Refuse = lambda address, port: "nothing was said about it yet"
        self._lock = threading.Lock()
        self._names = NameCache()
        self._pools: dict[tuple[Origin, PoolOptions], Pool] = {}
        self._leases: dict[tuple[Origin, PoolOptions], int] = {}

    def lease(self, origin: Origin, options: PoolOptions) -> Pool:
        """The pool for this origin, kept until `release` has been called as often as `lease`."""
        key = (origin, options)
        with self._lock:
            pool = self._pools.get(key)
            if pool is None:
                refuse = self._judge if options.guarded else None
                pool = self._pools[key] = Pool(origin, options, self._names, refuse)
            self._leases[key] = self._leases.get(key, 0) + 1
            return pool

    def release(self, pool: Pool) -> None:
        """Give a lease back; with the last one the pool's idle connections are closed."""
        key = (pool.origin, pool.options)
        with self._lock:
            left = self._leases[key] - 1
            if left:
                self._leases[key] = left
                return
            del self._leases[key], self._pools[key]
        pool.close()

    def _judge(self, address: str, port: int) -> str:
        return self.refuse(address, port)

    def sweep(self, now: float) -> None:
        """End what has passed its deadline, in all pools."""
        with self._lock:
            pools = list(self._pools.values())
        for pool in pools:
            pool.sweep(now)

    def usage(self) -> list[tuple[str, tuple[int, int, int]]]:
        """By origin: connections in use, idle connections, and requests that wait for one."""
        with self._lock:
            pools = list(self._pools.values())
        found: dict[str, tuple[int, int, int]] = {}
        for pool in pools:
            active, idle, waiting = found.get(str(pool.origin), (0, 0, 0))
            found[str(pool.origin)] = (active + pool.open - pool.idle, idle + pool.idle, waiting + pool.waiting)
        return sorted(found.items())

    def close(self) -> None:
        """Keep no connection any longer: the process stops."""
        with self._lock:
            pools = list(self._pools.values())
        for pool in pools:
            pool.close()


@lru_cache(maxsize=1)
def _default_tls() -> ssl.SSLContext:
    """The system's authorities, host names checked."""
    return ssl.create_default_context()
