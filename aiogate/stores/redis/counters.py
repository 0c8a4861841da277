"""Counters that several gateways share: one script decides all buckets of a request, in one round trip.

The windows follow Redis's clock, because the clocks of the gateways may differ: a gateway that is a second ahead would
otherwise find every window of a second ended. Where it matters, the end of a window is told in our own time.

When Redis cannot be asked, `Absent` says what becomes of each kind of bucket. A question that was not answered in time
may have been carried out; nothing is taken back, so a client may be counted once too often, never too seldom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from redis.exceptions import NoScriptError, ResponseError

from aiogate.domain.limits import Bucket, Counter, Taken
from aiogate.stores.base import StoreUnavailable
from aiogate.stores.memory import MemoryCounters
from aiogate.stores.redis.lane import Lane
from aiogate.stores.redis.scripts import TAKE

__all__ = ["Absent", "RedisCounters"]

Mode = Literal["local", "deny", "allow"]

_KNOWN: Final = 100_000
_SAME_TIME: Final = 1.0
# What the generated constructor of a named tuple does, without a call through Python.
_tuple: Final = tuple.__new__


@dataclass(frozen=True, slots=True)
class Absent:
    """What to do with a bucket while the store is away.

    `local`: count in this process, with `share` of the limit. `deny`: refuse the request with 503. `allow`: let it
    pass uncounted.
    """

    rate: Mode = "local"
    quota: Mode = "deny"
    share: Callable[[], float] = lambda: 1.0


class RedisCounters:
    """Counters under `prefix`. `own_time`: windows follow Redis's clock; otherwise the time that `take` is given."""

    asks = True

    def __init__(self, lane: Lane, side: Lane, prefix: str, absent: Absent, *, own_time: bool) -> None:
        self._lane = lane
        self._side = side
        self._prefix = prefix
        self._absent = absent
        self._own_time = own_time
        self._local = MemoryCounters(capacity=_KNOWN)
        self._last: dict[str, Counter] = {}
        self.local_takes = 0
        """Requests that were decided here because Redis could not be asked."""

    async def take(self, buckets: Sequence[Bucket], now: float) -> Taken:
        """Take every bucket or none. Raises `StoreUnavailable` where a bucket must not be taken without the store."""
        if not buckets:
            return Taken(-1, ())
        prefix = self._prefix
        keys = [prefix + bucket.key for bucket in buckets]
        arguments: list[str | int | float] = ["" if self._own_time else now]
        for bucket in buckets:
            arguments += (bucket.limit, bucket.window)
        lane = self._lane
        try:
            try:
                reply = await lane.call("EVALSHA", TAKE.digest, len(keys), *keys, *arguments)
            except NoScriptError:
                reply = await lane.call("EVAL", TAKE.text, len(keys), *keys, *arguments)
            return self._taken(reply, buckets, now)
        except StoreUnavailable as away:
            return self._without(buckets, now, away)
        except ResponseError as error:
            return self._without(buckets, now, StoreUnavailable(f"Redis refuses to count: {error}"))

    async def read(self, keys: Sequence[str], now: float) -> Sequence[Counter | None]:
        if not keys:
            return []
        commands: list[Sequence[str]] = [("MGET", *(self._prefix + key for key in keys))]
        if self._own_time:
            commands.append(("TIME",))
        stored, *time = await self._side.ask_all(commands)
        there = now
        if time:
            seconds, micros = time[0]
            there = int(seconds) + int(micros) / 1_000_000
        offset = _offset(there, now)
        return [_live(value, there, offset) for value in stored]

    async def reset(self, keys: Sequence[str]) -> None:
        await self._local.reset(keys)
        for key in keys:
            self._last.pop(key, None)
        if keys:
            await self._side.ask("UNLINK", *(self._prefix + key for key in keys))

    def _taken(self, reply: list[bytes | int], buckets: Sequence[Bucket], now: float) -> Taken:
        try:
            refused, there, *told = reply
            if len(told) != 2 * len(buckets):
                raise ValueError(f"{len(told)} values for {len(buckets)} buckets")
            offset = _offset(float(there), now)
            counters = []
            for place in range(0, len(told), 2):
                ends = float(told[place + 1])
                counters.append(_tuple(Counter, (int(told[place]), ends + offset if ends else 0.0)))
            taken = _tuple(Taken, (int(refused), tuple(counters)))
        except (TypeError, ValueError) as error:
            raise self._lane.distrust(f"Redis answered with what is no count: {error}") from error
        last = self._last
        if len(last) > _KNOWN:
            last.clear()
        for bucket, counter in zip(buckets, counters, strict=True):
            last[bucket.key] = counter
        return taken

    def _without(self, buckets: Sequence[Bucket], now: float, away: StoreUnavailable) -> Taken:
        absent = self._absent
        modes = [absent.quota if bucket.kind.endswith("quota") else absent.rate for bucket in buckets]
        if "deny" in modes:
            kind = buckets[modes.index("deny")].kind
            raise StoreUnavailable(f"a {kind} cannot be counted without the store: {away}") from away
        share = absent.share()
        own = [
            self._share_of(bucket, share, now) for bucket, mode in zip(buckets, modes, strict=True) if mode == "local"
        ]
        taken = self._local.take(own, now)
        self.local_takes += 1
        counters, refused, index = [], -1, 0
        for number, (bucket, mode) in enumerate(zip(buckets, modes, strict=True)):
            if mode != "local":
                counters.append(Counter(0, now + bucket.window if bucket.window > 0 else 0.0))
                continue
            if index == taken.refused:
                refused = number
            counters.append(taken.counters[index])
            index += 1
        return Taken(refused, tuple(counters))

    def _share_of(self, bucket: Bucket, share: float, now: float) -> Bucket:
        """The part of a bucket that is ours: a share of what was left of the window when Redis was last heard."""
        limit = max(1, math.ceil(bucket.limit * share)) if bucket.limit > 0 else bucket.limit
        last = self._last.pop(bucket.key, None)
        if last is not None and (not last.ends or last.ends > now):
            spent = limit - math.ceil(max(0, bucket.limit - last.count) * share)
            self._local.begin(bucket.key, Counter(spent, last.ends), now)
        return Bucket(bucket.key, limit, bucket.window, bucket.kind)


def _offset(there: float, here: float) -> float:
    """What to add to a time of Redis's to have it in ours; 0 as long as the clocks agree, so that ends do not waver."""
    return here - there if abs(here - there) >= _SAME_TIME else 0.0


def _live(value: bytes | None, there: float, offset: float) -> Counter | None:
    """The open window that a stored value tells of."""
    try:
        count, ends = (value or b"").split()
        counter = Counter(int(count), float(ends))
    except ValueError:
        return None
    if counter.ends and counter.ends <= there:
        return None
    return Counter(counter.count, counter.ends + offset) if counter.ends else counter
