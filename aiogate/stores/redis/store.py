"""The Redis store: two lanes, and what stands on them.

The fast lane has what requests wait for: one script to count and one read of a session, with a time limit of some tens
of milliseconds. The side lane has everything else, with a longer limit: writes and lists of sessions, decision records.

A gateway starts when Redis is away, and says at `/ready` that it is not ready; it is ready as soon as Redis has been
reached once. From then on an outage is not a reason to take the gateway out of service: cached sessions are served, and
`limits_without_store` says what becomes of limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aiogate.clock import Clock, SystemClock
from aiogate.config.redis_url import RedisUrl
from aiogate.stores.base import CounterStore, DecisionStore, Peers, SessionStore, StoreUnavailable, VaultStore
from aiogate.stores.redis.counters import Absent, RedisCounters
from aiogate.stores.redis.decisions import RedisDecisions
from aiogate.stores.redis.lane import Lane
from aiogate.stores.redis.peers import RedisPeers
from aiogate.stores.redis.place import place_of
from aiogate.stores.redis.scripts import TAKE
from aiogate.stores.redis.sessions import RedisSessions
from aiogate.stores.redis.vault import RedisVault

if TYPE_CHECKING:
    from aiogate.config.settings import Settings

__all__ = ["RedisStore"]

_log = logging.getLogger("aiogate.stores.redis")

_WRITE_BEHIND: Final = 0.25
_SIDE_TIMEOUT: Final = 2.0


class RedisStore:
    """Sessions, counters and decisions that all gateways with this URL and prefix share."""

    name = "redis"

    def __init__(self, url: RedisUrl, settings: Settings, clock: Clock) -> None:
        self.url = url
        redis, limits = settings.redis, settings.limits_without_store
        prefix = redis.prefix
        if url.kind == "cluster":
            # One hash tag for all keys: the buckets of a request must be where one script sees them.
            prefix = f"{{{prefix.rstrip(':')}}}:"
        place = place_of(url, str(redis.ca) if redis.ca is not None else None, prefix)
        probe = ("SET", f"{prefix}probe", "1", "PX", 60_000)
        self._lane = Lane(
            place,
            timeout=redis.timeout,
            connect_timeout=redis.connect_timeout,
            greeting=(("SCRIPT", "LOAD", TAKE.text), probe),
            tells=True,
        )
        self._side = Lane(
            place,
            timeout=max(_SIDE_TIMEOUT, redis.timeout),
            connect_timeout=max(_SIDE_TIMEOUT, redis.connect_timeout),
            greeting=(probe,),
        )
        # A clock that a test moves is asked; the machines' clocks differ, so Redis's own goes before them.
        own_time = isinstance(clock, SystemClock)
        self._sessions = RedisSessions(self._lane, self._side, prefix, clock)
        self._decisions = RedisDecisions(self._side, prefix)
        self._vault = RedisVault(self._side, prefix, clock)
        self._peers = RedisPeers(place, self._side, prefix, redis.connect_timeout)
        share = limits.share
        absent = Absent(limits.rate, limits.quota, self._even_share if share == "auto" else share_of(share))
        self._counters = RedisCounters(self._lane, self._side, f"{prefix}c:", absent, own_time=own_time)
        self._ticking: asyncio.Task[None] | None = None

    @property
    def sessions(self) -> SessionStore:
        return self._sessions

    @property
    def counters(self) -> CounterStore:
        return self._counters

    @property
    def decisions(self) -> DecisionStore:
        return self._decisions

    @property
    def vault(self) -> VaultStore:
        return self._vault

    @property
    def peers(self) -> Peers:
        return self._peers

    def _even_share(self) -> float:
        return 1 / self._peers.live

    @property
    def trouble(self) -> str:
        """Why Redis cannot be asked at the moment; empty when it can."""
        return self._lane.trouble

    @property
    def needed(self) -> bool:
        """An outage is served, as far as it goes; a gateway that never had a store knows no session at all."""
        return not self._lane.reached

    async def open(self) -> None:
        """Connect. A Redis that is away is no reason not to start: it is connected to when it comes."""
        await asyncio.gather(self._lane.open(), self._side.open())
        if self._lane.trouble:
            _log.error("starting without Redis at %s: %s", self.url, self._lane.trouble)
        self._ticking = asyncio.get_running_loop().create_task(self._write_behind(), name="redis-write-behind")

    async def close(self) -> None:
        """Write the decisions that are left, and let go."""
        if self._ticking is None:
            return
        self._ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticking
        self._ticking = None
        with contextlib.suppress(StoreUnavailable):
            await self._decisions.flush()
        await self._peers.close()
        await asyncio.gather(self._lane.close(), self._side.close())

    async def _write_behind(self) -> None:
        while True:
            await asyncio.sleep(_WRITE_BEHIND)
            with contextlib.suppress(StoreUnavailable):
                await self._decisions.flush()


def share_of(text: str) -> Callable[[], float]:
    """The share that a fraction means."""
    above, _, below = text.partition("/")
    share = int(above) / int(below or 1)
    return lambda: share
