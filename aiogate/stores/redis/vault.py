"""The vault in Redis: a hash for each document, and a sorted set of names for each group.

    <prefix>v:<name>      document, until, groups (a JSON list); lives a little longer than `until`
    <prefix>g:<group>     names of its documents

What has to be one step is one script. Names whose document has ended are taken out of a group by whoever meets them
while listing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import orjson

from aiogate.clock import Clock
from aiogate.stores.redis.lane import Argument, Lane
from aiogate.stores.redis.scripts import SWEEP, VAULT_PUT, VAULT_SWAP, VAULT_TAKE

__all__ = ["RedisVault"]

_AT_A_TIME: Final = 200
_SLACK: Final = 60.0
"""Redis forgets a document so much later than we do: clocks differ."""


class RedisVault:
    """Documents under `prefix`."""

    def __init__(self, lane: Lane, prefix: str, clock: Clock) -> None:
        self._lane = lane
        self._documents = f"{prefix}v:"
        self._groups = f"{prefix}g:"
        self._clock = clock

    async def get(self, name: str) -> bytes | None:
        return self._in_time(await self._lane.ask("HMGET", self._documents + name, "document", "until"))

    async def put(self, name: str, document: bytes, *, until: float = 0.0, groups: Sequence[str] = ()) -> None:
        parts = orjson.dumps(sorted(set(groups)))
        arguments: list[Argument] = [self._groups, name, document, until, self._lives(until), parts]
        await VAULT_PUT.run(self._lane, [self._documents + name], arguments)

    async def swap(self, name: str, document: bytes, *, until: float = 0.0) -> bytes | None:
        arguments: list[Argument] = [document, until, self._lives(until), self._clock.now()]
        before: bytes | None = await VAULT_SWAP.run(self._lane, [self._documents + name], arguments)
        return before

    async def take(self, name: str) -> bytes | None:
        return self._in_time(await VAULT_TAKE.run(self._lane, [self._documents + name], [self._groups, name]))

    async def page(self, group: str, *, after: str = "", limit: int = 100) -> Sequence[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        index = self._groups + group
        while len(found) < limit:
            start = f"({after}" if after else "-"
            answer = await self._lane.ask("ZRANGEBYLEX", index, start, "+", "LIMIT", 0, _AT_A_TIME)
            names = [name.decode() for name in answer]
            rows = await self._lane.ask_all([("HMGET", self._documents + name, "document", "until") for name in names])
            gone = [name for name, row in zip(names, rows, strict=True) if row[0] is None]
            if gone:
                await SWEEP.run(self._lane, [index], [self._documents, *gone])
            for name, row in zip(names, rows, strict=True):
                document = self._in_time(row)
                if document is not None and len(found) < limit:
                    found.append((name, document))
            if len(names) < _AT_A_TIME:
                break
            after = names[-1]
        return found

    def _in_time(self, row: Sequence[bytes | None] | None) -> bytes | None:
        if row is None or row[0] is None or row[1] is None:
            return None
        until = float(row[1])
        return None if 0 < until <= self._clock.now() else row[0]

    def _lives(self, until: float) -> str | int:
        return max(1, math.ceil((until - self._clock.now() + _SLACK) * 1000)) if until > 0 else ""
