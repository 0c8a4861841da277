"""Decision records in Redis, so that `why` on one gateway knows what another refused.

They are written behind, in batches, and kept in a list of bounded length with a hash by request beside it. While Redis
is away they wait here, as far as there is room, and can be asked for all the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

import orjson

from aiogate.stores.base import StoreUnavailable
from aiogate.stores.redis.lane import Argument, Lane
from aiogate.stores.redis.scripts import APPEND
from aiogate.telemetry.decisions import Decision, text_of

__all__ = ["RedisDecisions"]

_WAITING: Final = 5_000
_AT_A_TIME: Final = 200
_KEPT_SECONDS: Final = 7 * 86_400


class RedisDecisions:
    """The last `capacity` decisions of all gateways, forgotten a week after the last of them."""

    def __init__(self, lane: Lane, prefix: str, *, capacity: int = 10_000) -> None:
        self._lane = lane
        self._keys = (f"{prefix}d:list", f"{prefix}d:requests")
        self._capacity = capacity
        self._waiting: deque[Decision] = deque()
        self._writing = asyncio.Lock()
        self.dropped = 0

    def append(self, decision: Decision) -> None:
        if len(self._waiting) < _WAITING:
            self._waiting.append(decision)
        else:
            self.dropped += 1

    async def get(self, request_id: str) -> Decision | None:
        here = [decision for decision in self._waiting if decision.request_id == request_id]
        if here:
            # What a shadow rule would have refused is not why the request was refused.
            return next((decision for decision in reversed(here) if not decision.shadow), here[-1])
        await self.flush()
        found = await self._lane.ask("HGET", self._keys[1], _bytes(request_id))
        return None if found is None else Decision(**orjson.loads(found[1:]))

    async def latest(
        self, limit: int = 100, *, api: str | None = None, shadow: bool | None = None
    ) -> Sequence[Decision]:
        try:
            await self.flush()
        except StoreUnavailable:
            return list(islice(_matching(reversed(self._waiting), api, shadow), max(0, limit)))
        found: list[Decision] = []
        end = -1
        while len(found) < limit:
            texts = await self._lane.ask("LRANGE", self._keys[0], end - _AT_A_TIME + 1, end)
            decisions = (Decision(**orjson.loads(text.partition(b" ")[2])) for text in reversed(texts))
            found += islice(_matching(decisions, api, shadow), limit - len(found))
            if len(texts) < _AT_A_TIME:
                break
            end -= _AT_A_TIME
        return found

    async def flush(self) -> None:
        """Write what waits. What cannot be written waits on. Raises `StoreUnavailable`."""
        async with self._writing:
            while self._waiting:
                batch = list(islice(self._waiting, _AT_A_TIME))
                arguments: list[Argument] = [self._capacity, _KEPT_SECONDS]
                for decision in batch:
                    arguments += (_bytes(decision.request_id), int(decision.shadow), text_of(decision))
                await APPEND.run(self._lane, self._keys, arguments)
                for _ in batch:
                    self._waiting.popleft()


def _matching(decisions: Iterable[Decision], api: str | None, shadow: bool | None) -> Iterable[Decision]:
    return (
        decision
        for decision in decisions
        if (api is None or decision.api == api) and (shadow is None or decision.shadow == shadow)
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
