"""The organisations that have a session: few, and all of them in memory, so that a request only looks one up.

`in_force` is one dictionary for as long as the process lives. Whoever has to know that it changed says so once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from aiogate.domain.account import stored_name
from aiogate.domain.organisation import ORGANISATIONS, Organisation, organisation_of
from aiogate.domain.session import DocumentError, Record
from aiogate.stores.base import SessionStore, StoreUnavailable

__all__ = ["Organisations"]

_log = logging.getLogger("aiogate.stores")
_AT_A_TIME: Final = 500
_SECONDS: Final = 1.0
"""Between two readings of a shared store."""


class Organisations:
    """Sessions of organisations, read once and written through. Reads and writes raise `StoreUnavailable`."""

    __slots__ = ("_changed", "_following", "_store", "in_force")

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._changed: Callable[[], None] | None = None
        self._following: asyncio.Task[None] | None = None
        self.in_force: dict[str, Organisation] = {}

    def on_change(self, call: Callable[[], None]) -> None:
        """Call this whenever another organisation has a session, or none any more."""
        self._changed = call

    async def start(self, *, shared: bool) -> None:
        """Read what the store holds; again every second on one that is `shared`, because others write it too."""
        if shared:
            # Such a store may be away for now: it is asked again, like everything else of it.
            self._following = asyncio.get_running_loop().create_task(self._follow())
        else:
            await self.load()

    async def stop(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                await self.load()
            except StoreUnavailable as away:
                _log.debug("sessions of organisations cannot be read: %s", away)
            await asyncio.sleep(_SECONDS)

    async def load(self) -> None:
        """Read what the store holds."""
        found: dict[str, Organisation] = {}
        for record in await self.records():
            try:
                found[record.label] = organisation_of(record)
            except DocumentError as broken:
                # Fail closed: what cannot be read may have been a limit.
                _log.error("the session of organisation %s cannot be read: %s", record.label, broken)
                found[record.label] = Organisation(record.label, inactive=True)
        if found != self.in_force:
            self.in_force.clear()
            self.in_force.update(found)
            self._tell()

    async def records(self) -> Sequence[Record]:
        """All records, in the order of their stored names."""
        records: list[Record] = []
        after = ""
        while True:
            page = await self._store.page(org=ORGANISATIONS, after=after, limit=_AT_A_TIME)
            records.extend(page)
            if len(page) < _AT_A_TIME:
                return records
            after = page[-1].name_hash

    async def record(self, org: str) -> Record | None:
        return await self._store.get(stored_name(ORGANISATIONS, org))

    async def put(self, record: Record) -> None:
        """Write a record; it is durable, and in force, when this returns."""
        await self._store.put(record)
        self.in_force[record.label] = organisation_of(record)
        self._tell()

    async def delete(self, org: str) -> bool:
        """Forget the session of an organisation at once. False: it has none."""
        gone = await self._store.delete(stored_name(ORGANISATIONS, org))
        if self.in_force.pop(org, None) is not None:
            self._tell()
        return gone

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()
