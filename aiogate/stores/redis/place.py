"""Which server to talk to, and how to connect to it.

A single server stands in the URL. Sentinels are asked who the master is. Of a cluster, we talk to the one node that
owns the slot of our prefix: every key begins with the same hash tag, because the buckets of one request are decided by
one script, and a script sees one node only.
"""

from __future__ import annotations

import ssl
from typing import Any, Final, Protocol

from redis.asyncio import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError

from aiogate.config.redis_url import RedisUrl
from aiogate.stores.base import StoreUnavailable

__all__ = ["Address", "Place", "place_of"]

Address = tuple[str, int]

# What redis-py says when a connection breaks. Its own errors for replies are `ResponseError`s.
BREAKS: Final = (RedisError, OSError, EOFError, ValueError)


class Place(Protocol):
    """Where the server is at the moment."""

    async def find(self) -> Address:
        """The server that takes our writes. Raises `StoreUnavailable` or what the network says."""
        ...

    def connection(self, address: Address) -> Connection:
        """A connection there, not opened yet."""
        ...

    @property
    def moves(self) -> bool:
        """Whether `find` may answer differently the next time."""
        ...


def place_of(url: RedisUrl, ca: str | None, tagged: str) -> Place:
    """The place that a URL names. `ca`: a file of certificates to trust instead of the system's."""
    if url.kind == "sentinel":
        return _Sentinels(url, ca)
    if url.kind == "cluster":
        return _Cluster(url, ca, key_slot(tagged.encode()))
    return _Single(url, ca)


class _Single:
    moves = False

    def __init__(self, url: RedisUrl, ca: str | None) -> None:
        self._url = url
        self._ca = ca

    async def find(self) -> Address:
        return self._url.addresses[0]

    def connection(self, address: Address) -> Connection:
        return self._made(address, db=self._url.db, username=self._url.username, password=self._url.password)

    def _made(self, address: Address, **options: Any) -> Connection:
        # No retries, no time limits and no health checks of its own: the lane has them, in one place. RESP2 is spoken
        # by every server and by every proxy, and it has no messages that nobody asked for.
        options |= {
            "host": address[0], "port": address[1], "protocol": 2, "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None, "socket_connect_timeout": None, "socket_keepalive": True, "driver_info": None,
        }  # fmt: skip
        if self._url.tls:
            return SSLConnection(**options, ssl_ca_certs=self._ca, ssl_min_version=ssl.TLSVersion.TLSv1_2)
        return Connection(**options)

    async def _ask(self, address: Address, *command: str, **options: Any) -> Any:
        """One command on a connection of its own."""
        connection = self._made(address, **options)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's gap
            await connection.send_command(*command)
            return await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)


class _Sentinels(_Single):
    moves = True

    def __init__(self, url: RedisUrl, ca: str | None) -> None:
        super().__init__(url, ca)
        self._known = list(url.addresses)

    async def find(self) -> Address:
        troubles = []
        for address in list(self._known):
            try:
                answer = await self._ask(address, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._url.service)
            except BREAKS as error:
                troubles.append(f"{address[0]}:{address[1]}: {error}")
                continue
            if answer:
                # Whoever answered is asked first the next time.
                self._known.remove(address)
                self._known.insert(0, address)
                return answer[0].decode(), int(answer[1])
            troubles.append(f"{address[0]}:{address[1]} knows no master of {self._url.service}")
        raise StoreUnavailable(f"no sentinel names a master: {'; '.join(troubles)}")


class _Cluster(_Single):
    moves = True

    def __init__(self, url: RedisUrl, ca: str | None, slot: int) -> None:
        super().__init__(url, ca)
        self._slot = slot
        self._known = list(url.addresses)

    async def find(self) -> Address:
        troubles = []
        for address in list(self._known):
            try:
                slots = await self._ask(
                    address, "CLUSTER", "SLOTS", username=self._url.username, password=self._url.password
                )
            except BREAKS as error:
                troubles.append(f"{address[0]}:{address[1]}: {error}")
                continue
            # Nodes that came later are good to ask too; those of the URL stay.
            nodes = [
                (node[0].decode() if node[0] else address[0], int(node[1]))
                for _, _, *owners in slots
                for node in owners
            ]
            self._known = list(dict.fromkeys((address, *self._url.addresses, *nodes)))
            for first, last, master, *_ in slots:
                if first <= self._slot <= last:
                    return (master[0].decode() if master[0] else address[0]), int(master[1])
            troubles.append(f"{address[0]}:{address[1]}: nobody owns slot {self._slot}")
        raise StoreUnavailable(f"the cluster does not say who owns slot {self._slot}: {'; '.join(troubles)}")
