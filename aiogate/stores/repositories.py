"""Where requests and control calls look sessions up: one bounded cache in front of the store.

A request asks `cached` first, which only hashes the name and looks it up; what is not there is found by `find`, which
reads the store once however many requests ask for the same name. The cache holds compiled sessions under their stored
names, so no credential stays in memory. Every write goes through here and is seen by the next request.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from aiogate.clock import Clock
from aiogate.domain.account import org_of_key, stored_name
from aiogate.domain.organisation import is_reserved
from aiogate.domain.policy import PolicyProblem, PolicySet, lay_over
from aiogate.domain.session import DocumentError, Record, Session, SessionDocument, SessionKind, parse_stored
from aiogate.stores.base import SessionStore, StoreUnavailable

__all__ = ["LookupFailure", "SessionDirectory"]

_ABSENT_SECONDS: Final = 5.0
_ABSENT_CAPACITY: Final = 10_000
_UNEXPLAINED: Final = "there is no record of that name in the organisation"
_OTHER_ORGANISATIONS: Final = 32
_STALE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class LookupFailure:
    """Why there is no session to use. `reason` is private. `missing`: there is no such record at all."""

    reason: str
    missing: bool = False


class _Flight:
    """One read of the store that several callers wait for, and what the first of them has made of it."""

    __slots__ = ("made", "stale", "task")

    def __init__(self, task: asyncio.Task[Record | None]) -> None:
        self.task = task
        self.stale = False
        self.made: tuple[PolicySet, Session | LookupFailure] | None = None


_Entry = tuple[PolicySet, Session | LookupFailure, float, float]
"""The policies it was compiled with, the outcome, when the store forgets the record (0: never), and until when the
record is believed (monotonic; 0: for ever)."""


class SessionDirectory:
    """Sessions by organisation and presented name.

    `capacity` sessions are kept compiled, the least recently used go first. A name that is not there is remembered for
    5 s, or until it is written. Reads and writes raise `StoreUnavailable`.

    `fresh`: seconds for which a record is believed before it is read again, for a store that others write too; None:
    for ever. While the store cannot be asked, a record that was read is used on for `stale` seconds. `announce` is told
    the stored name of whatever was written here.
    """

    def __init__(
        self,
        store: SessionStore,
        clock: Clock,
        *,
        capacity: int = 100_000,
        fresh: float | None = None,
        stale: float = 0.0,
        announce: Callable[[str], None] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._capacity = capacity
        self._fresh = fresh
        self._stale = max(stale, fresh or 0.0)
        self._announce = announce
        self._read: dict[str, float] = {}
        self._distrusted = 0.0
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._absent: OrderedDict[str, tuple[float, LookupFailure]] = OrderedDict()
        self._flights: dict[str, _Flight] = {}
        self._explaining: dict[str, asyncio.Task[str]] = {}
        self._listeners: list[Callable[[str], None]] = []

    def cached(self, org: str, name: str, policies: PolicySet) -> Session | LookupFailure | None:
        """What is known without asking the store; None: ask `find`."""
        try:
            name_hash = sha256(f"{org}\0{name}".encode()).hexdigest()
        except UnicodeEncodeError:
            name_hash = stored_name(org, name)
        entry = self._entries.get(name_hash)
        if entry is None:
            return self._known_absent(name_hash)
        known, outcome, delete_at, believed = entry
        if known is not policies or delete_at or believed:
            return self._checked(name_hash, entry, policies)
        self._entries.move_to_end(name_hash)
        return outcome

    async def find(self, org: str, name: str, policies: PolicySet) -> Session | LookupFailure:
        """The session of `name`, from the cache or from the store."""
        known = self.cached(org, name, policies)
        if known is not None:
            return known
        return await self._looked_up(stored_name(org, name), policies)

    def known(self, name_hash: str, policies: PolicySet) -> Session | LookupFailure | None:
        """Like `cached`, by the stored name."""
        entry = self._entries.get(name_hash)
        return self._known_absent(name_hash) if entry is None else self._checked(name_hash, entry, policies)

    async def current(self, name_hash: str, policies: PolicySet) -> Session | LookupFailure:
        """Like `find`, by the stored name: what has become of a session."""
        return self.known(name_hash, policies) or await self._looked_up(name_hash, policies)

    async def _looked_up(self, name_hash: str, policies: PolicySet) -> Session | LookupFailure:
        while True:
            flight = self._flights.get(name_hash)
            if flight is None:
                flight = self._take_off(name_hash)
            # Shielded: a caller that goes away must not take the answer from the others.
            try:
                record = await asyncio.shield(flight.task)
            except StoreUnavailable:
                stale = self._used_on(name_hash, policies)
                if stale is None:
                    raise
                return stale
            if not flight.stale:
                if flight.made is None or flight.made[0] is not policies:
                    flight.made = (policies, self._remember(name_hash, record, policies))
                return flight.made[1]

    def derived(
        self, org: str, kind: SessionKind, name: str, policy_ids: Sequence[str], policies: PolicySet, label: str = ""
    ) -> Session | LookupFailure:
        """A session without a record: its rights are those of its policies, its limits count under `name`.

        Give `name` a control character, such as a NUL, so that no record can have it.
        """
        return _derived(Record(stored_name(org, name), org, kind, label, b""), tuple(policy_ids), policies)

    def derived_again(self, session: Session, policies: PolicySet) -> Session | LookupFailure:
        """What a session without a record comes to under these policies, which may be others.

        One that was made without policies has the rights that its method gave it, whatever the policies say.
        """
        if not session.policies:
            return session
        record = Record(session.name_hash, session.org, session.kind, session.label, b"")
        return _derived(record, session.policies, policies)

    async def explain_missing(self, org: str, name: str) -> str:
        """Why there may be no record of `name`: for `why`, never for the client.

        It is found out once for as long as the absence is remembered: whoever repeats a name does not read the store.
        """
        name_hash = stored_name(org, name)
        absent = self._known_absent(name_hash)
        if absent is not None and absent.reason != _UNEXPLAINED:
            return absent.reason
        task = self._explaining.get(name_hash)
        if task is None:
            task = asyncio.ensure_future(self._explain(org, name, name_hash))
            self._explaining[name_hash] = task
            task.add_done_callback(lambda _: self._explaining.pop(name_hash))
        return await asyncio.shield(task)

    async def _explain(self, org: str, name: str, name_hash: str) -> str:
        try:
            reason = await self._missing_reason(org, name)
        except StoreUnavailable as away:
            reason = f"there is no record of that name in organisation {org!r} (more cannot be said: {away})"
        if name_hash in self._absent:
            self._absent[name_hash] = (self._absent[name_hash][0], LookupFailure(reason, missing=True))
        return reason

    async def get_record(self, name_hash: str) -> Record | None:
        """The stored record of a key or a user itself, always from the store."""
        record = await self._store.get(name_hash)
        return None if record is None or is_reserved(record.org) else record

    async def put(self, record: Record) -> None:
        """Write a record; it is durable, and in force, when this returns."""
        self._forget(record.name_hash)
        try:
            await self._store.put(record)
        finally:
            self._written(record.name_hash)

    async def delete(self, name_hash: str) -> bool:
        """Forget a record at once. False: there was none."""
        self._forget(name_hash)
        try:
            return await self._store.delete(name_hash)
        finally:
            self._written(name_hash)

    async def page(
        self, *, org: str | None = None, api: str | None = None, prefix: str = "", after: str = "", limit: int = 100
    ) -> Sequence[Record]:
        """See `SessionStore.page`."""
        return await self._store.page(org=org, api=api, prefix=prefix, after=after, limit=limit)

    async def count(self, *, org: str | None = None, api: str | None = None, prefix: str = "") -> int:
        """See `SessionStore.count`."""
        return await self._store.count(org=org, api=api, prefix=prefix)

    async def organisations(self) -> Sequence[str]:
        """Every organisation that has a key or a user, sorted."""
        return [org for org in await self._store.organisations() if not is_reserved(org)]

    def forget(self, name_hash: str) -> None:
        """Drop what is cached under a stored name, because another node wrote it."""
        self._forget(name_hash)

    def listen(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call `listener` with each stored name that is written, here or elsewhere. Returns the function that ends it.

        It is called around the write, perhaps before it is done; it may not read the store at once.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def distrust(self) -> None:
        """Read every record again before it is believed, because a write elsewhere may have been missed."""
        self._distrusted = self._clock.monotonic()
        self._absent.clear()
        for flight in self._flights.values():
            flight.stale = True
        self._flights.clear()

    def __len__(self) -> int:
        """How many sessions are cached."""
        return len(self._entries)

    def _known_absent(self, name_hash: str) -> LookupFailure | None:
        absent = self._absent.get(name_hash)
        if absent is None:
            return None
        until, failure = absent
        if until <= self._clock.monotonic():
            del self._absent[name_hash]
            return None
        return failure

    def _checked(self, name_hash: str, entry: _Entry, policies: PolicySet) -> Session | LookupFailure | None:
        believed = entry[3]
        if believed and (believed <= self._clock.monotonic() or self._read.get(name_hash, 0.0) < self._distrusted):
            # Kept: it is used on when the store does not answer.
            return None
        return self._as_of(name_hash, entry, policies)

    def _as_of(self, name_hash: str, entry: _Entry, policies: PolicySet) -> Session | LookupFailure | None:
        """What an entry says under these policies; None: it has to be read for that."""
        known, outcome, delete_at, believed = entry
        if delete_at and delete_at <= self._clock.now():
            self._drop(name_hash)
            return None
        if known is not policies:
            if not isinstance(outcome, Session) or not policies.agrees_with(known, outcome.policies):
                self._drop(name_hash)
                return None
            self._entries[name_hash] = (policies, outcome, delete_at, believed)
        self._entries.move_to_end(name_hash)
        return outcome

    def _used_on(self, name_hash: str, policies: PolicySet) -> Session | LookupFailure | None:
        """What was read of a record not too long ago, for as long as the store is away; None: nothing."""
        entry, now = self._entries.get(name_hash), self._clock.monotonic()
        if entry is None or self._read.get(name_hash, -math.inf) + self._stale <= now:
            return None
        known, outcome, delete_at, _ = entry
        # The store is asked again in a second, not by each request.
        entry = (known, outcome, delete_at, now + _STALE_SECONDS)
        self._entries[name_hash] = entry
        return self._as_of(name_hash, entry, policies)

    def _take_off(self, name_hash: str) -> _Flight:
        flight = _Flight(asyncio.ensure_future(self._store.get(name_hash)))
        self._flights[name_hash] = flight

        def land(task: asyncio.Task[Record | None]) -> None:
            if self._flights.get(name_hash) is flight:
                del self._flights[name_hash]
            if not task.cancelled():
                task.exception()  # marks it as seen when every caller has gone away

        flight.task.add_done_callback(land)
        return flight

    def _remember(self, name_hash: str, record: Record | None, policies: PolicySet) -> Session | LookupFailure:
        if record is None:
            self._drop(name_hash)
            known = self._known_absent(name_hash)
            if known is not None:
                # Somebody who waited for the same read has noted it, and perhaps found out why.
                return known
            failure = LookupFailure(_UNEXPLAINED, missing=True)
            self._absent[name_hash] = (self._clock.monotonic() + _ABSENT_SECONDS, failure)
            if len(self._absent) > _ABSENT_CAPACITY:
                self._absent.popitem(last=False)
            return failure
        outcome = _compiled(record, policies)
        believed = 0.0
        if self._fresh is not None:
            now = self._clock.monotonic()
            believed = now + self._fresh
            self._read[name_hash] = now
        self._entries[name_hash] = (policies, outcome, record.delete_at, believed)
        self._entries.move_to_end(name_hash)
        if len(self._entries) > self._capacity:
            self._drop(next(iter(self._entries)))
        return outcome

    async def _missing_reason(self, org: str, name: str) -> str:
        named = org_of_key(name)
        if named is not None and named != org and await self._store.get(stored_name(named, name)) is not None:
            return f"the key belongs to organisation {named!r}, the API to {org!r}"
        if name != name.strip():
            if await self._store.get(stored_name(org, name.strip())) is not None:
                return "the name ends in a blank or a line break; without it, it exists"
        # Bounded: the answer helps an operator, and must not let a client read the store at will.
        for other in (await self.organisations())[:_OTHER_ORGANISATIONS]:
            if other != org and await self._store.get(stored_name(other, name)) is not None:
                return f"the name exists in organisation {other!r}, the API belongs to {org!r}"
        return f"there is no record of that name in organisation {org!r}"

    def _drop(self, name_hash: str) -> None:
        self._entries.pop(name_hash, None)
        self._read.pop(name_hash, None)

    def _written(self, name_hash: str) -> None:
        self._forget(name_hash)
        if self._announce is not None:
            self._announce(name_hash)

    def _forget(self, name_hash: str) -> None:
        for listener in self._listeners:
            listener(name_hash)
        self._drop(name_hash)
        self._absent.pop(name_hash, None)
        flight = self._flights.pop(name_hash, None)
        if flight is not None:
            flight.stale = True


def _compiled(record: Record, policies: PolicySet) -> Session | LookupFailure:
    try:
        document = parse_stored(record.document)
    except DocumentError as broken:
        return LookupFailure(f"the stored record cannot be read: {broken}")
    return _laid_over(document, record, policies)


def _laid_over(document: SessionDocument, record: Record, policies: PolicySet) -> Session | LookupFailure:
    session = lay_over(document, record, policies)
    return LookupFailure(session.reason) if isinstance(session, PolicyProblem) else session


def _derived(record: Record, policy_ids: tuple[str, ...], policies: PolicySet) -> Session | LookupFailure:
    document = SessionDocument(org_id=record.org, apply_policies=policy_ids, alias=record.label)
    made = _laid_over(document, record, policies)
    return replace(made, derived=True) if isinstance(made, Session) else made
