"""Session records in Redis: a hash each, and sorted sets of names to list them by.

    <prefix>s:<stored name>      name, org, kind, label, document, apis, delete_at, revision; lives until `delete_at`
    <prefix>n:all                every stored name, in the order of names
    <prefix>n:org:<org>          those of one organisation
    <prefix>n:api:<api>          those whose document grants that API directly
    <prefix>n:orgs               organisations

A request reads one hash, in one round trip, on the fast lane. Everything else is on the lane of the control side, whose
time limit is longer and which never holds up a request. Names whose record has ended by itself are taken out of an
index by whoever meets them while listing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, cast

import orjson
from redis.exceptions import ResponseError

from aiogate.clock import Clock
from aiogate.domain.session import Record, SessionKind, granted_apis
from aiogate.stores.base import StoreUnavailable
from aiogate.stores.redis.lane import Lane
from aiogate.stores.redis.scripts import DELETE, PUT, SWEEP

__all__ = ["RedisSessions"]

_log = logging.getLogger("aiogate.stores.redis")

_AT_A_TIME: Final = 500
_SLACK: Final = 60.0
"""Redis forgets a record so much later than we do: clocks differ."""
_FIELDS: Final = ("name", "org", "kind", "label", "document", "revision", "delete_at")


class RedisSessions:
    """Records under `prefix`."""

    def __init__(self, lane: Lane, side: Lane, prefix: str, clock: Clock) -> None:
        self._lane = lane
        self._side = side
        self._records = f"{prefix}s:"
        self._names = f"{prefix}n:"
        self._clock = clock

    async def get(self, name_hash: str) -> Record | None:
        try:
            values = await self._lane.call("HMGET", self._records + name_hash, *_FIELDS)
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise StoreUnavailable(f"Redis refuses to read a session: {error}") from error
            # Something else lies there: as good as no record, and the next write replaces it.
            _log.error("%s%s is no session record: %s", self._records, name_hash, error)
            return None
        if not isinstance(values, list) or len(values) != len(_FIELDS) or values[0] not in (None, name_hash.encode()):
            # Whose session would that be? Nothing that comes over this connection can be believed.
            raise self._lane.distrust("Redis answered a question for one session with another")
        record = _record(name_hash, values)
        return None if record is None or self._ended(record.delete_at) else record

    async def put(self, record: Record) -> None:
        apis = orjson.dumps(sorted(granted_apis(record.document)))
        lives: str | int = ""
        if record.delete_at:
            lives = max(1, math.ceil((record.delete_at - self._clock.now() + _SLACK) * 1000))
        await PUT.run(
            self._side,
            [self._records + record.name_hash],
            [
                self._names, record.name_hash, record.org, record.kind, _bytes(record.label), record.document, apis,
                record.delete_at, lives,
            ],
        )  # fmt: skip

    async def delete(self, name_hash: str) -> bool:
        delete_at = await DELETE.run(self._side, [self._records + name_hash], [self._names, name_hash])
        return delete_at is not None and not self._ended(float(delete_at))

    async def page(
        self, *, org: str | None = None, api: str | None = None, prefix: str = "", after: str = "", limit: int = 100
    ) -> Sequence[Record]:
        found: list[Record] = []
        if limit <= 0:
            return found
        wanted = min(_AT_A_TIME, limit)
        async for names in self._listed(org, api, after, wanted):
            rows = await self._side.ask_all([("HMGET", self._records + name, *_FIELDS) for name in names])
            for name, values in zip(names, rows, strict=True):
                record = _record(name, values)
                if record is not None and self._wanted(record.org, record.label, record.delete_at, org, prefix):
                    found.append(record)
                    if len(found) == limit:
                        return found
        return found

    async def count(self, *, org: str | None = None, api: str | None = None, prefix: str = "") -> int:
        counted = 0
        async for names in self._listed(org, api, "", _AT_A_TIME):
            rows = await self._side.ask_all(
                [("HMGET", self._records + name, "org", "label", "delete_at") for name in names]
            )
            for owner, label, delete_at in rows:
                if owner is not None and self._wanted(_text(owner), _text(label), float(delete_at), org, prefix):
                    counted += 1
        return counted

    async def organisations(self) -> Sequence[str]:
        orgs = [_text(org) for org in await self._side.ask("ZRANGE", f"{self._names}orgs", 0, -1)]
        first = await self._side.ask_all(
            [("ZRANGEBYLEX", f"{self._names}org:{org}", "-", "+", "LIMIT", 0, 1) for org in orgs]
        )
        ends = await self._side.ask_all(
            [
                ("HGET", self._records + _text(names[0]) if names else f"{self._names}none", "delete_at")
                for names in first
            ]
        )
        live = []
        for org, delete_at in zip(orgs, ends, strict=True):
            # The first name may have ended while others live on.
            if (delete_at is not None and not self._ended(float(delete_at))) or await self.page(org=org, limit=1):
                live.append(org)
        return sorted(live)

    async def _listed(self, org: str | None, api: str | None, after: str, most: int) -> AsyncIterator[list[str]]:
        """The names of the narrowest index, behind `after`, a few at a time."""
        index = self._names + (f"api:{api}" if api is not None else f"org:{org}" if org is not None else "all")
        while True:
            start = f"({after}" if after else "-"
            answer = await self._side.ask("ZRANGEBYLEX", index, start, "+", "LIMIT", 0, most)
            names = [_text(name) for name in answer]
            if names:
                known = await self._side.ask_all([("EXISTS", self._records + name) for name in names])
                gone = [name for name, there in zip(names, known, strict=True) if not there]
                if gone:
                    await SWEEP.run(self._side, [index], [self._records, *gone])
                yield [name for name, there in zip(names, known, strict=True) if there]
            if len(names) < most:
                return
            after = names[-1]

    def _wanted(self, owner: str, label: str, delete_at: float, org: str | None, prefix: str) -> bool:
        return (org is None or owner == org) and label.startswith(prefix) and not self._ended(delete_at)

    def _ended(self, delete_at: float) -> bool:
        return bool(delete_at) and delete_at <= self._clock.now()


def _record(name_hash: str, values: Sequence[bytes | None]) -> Record | None:
    """A record from the fields of its hash; None: there is none, or what is there is none."""
    name, org, kind, label, document, revision, delete_at = values
    if (
        name is None
        or org is None
        or kind is None
        or label is None
        or document is None
        or revision is None
        or delete_at is None
    ):
        return None
    return Record(
        name_hash=name_hash,
        org=_text(org),
        kind=cast("SessionKind", _text(kind)),
        label=_text(label),
        document=document,
        revision=int(revision),
        delete_at=float(delete_at),
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
