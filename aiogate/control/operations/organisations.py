"""Sessions of organisations: what all requests to an organisation's APIs may be together, and whether it is active."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.locks import Locks
from aiogate.domain.account import org_mistake
from aiogate.domain.organisation import Organisation, organisation_of, organisation_record
from aiogate.domain.policy import PolicySet, as_written
from aiogate.domain.session import Record, SessionDocument, parse_stored
from aiogate.errors import Rejected

__all__ = ["OrganisationSessions", "ResetOptions"]

_NOT_FOUND = "Org not found"


@dataclass(frozen=True, slots=True)
class ResetOptions:
    """`quota`: start the quota anew. `keep`: leave all counters alone even when a limit changes."""

    quota: bool = False
    keep: bool = False


class OrganisationSessions:
    """All operations on the sessions of organisations of one gateway."""

    __slots__ = ("_gateway", "_locks")

    def __init__(self, gateway: ControlledGateway) -> None:
        self._gateway = gateway
        self._locks = Locks()

    async def listing(self, prefix: str) -> Sequence[str]:
        """The organisations that have a session and whose name begins so."""
        records = await self._gateway.organisations.records()
        return sorted(record.label for record in records if record.label.startswith(prefix))

    async def show(self, org: str) -> dict[str, Any]:
        """The session of an organisation, with what is left of its quota."""
        record = await self._known(org)
        data = parse_stored(record.document).as_json()
        data["quota_remaining"] = data["quota_max"]
        now = self._gateway.clock.now()
        quota = [bucket.key for bucket in organisation_of(record).buckets if bucket.kind == "organisation_quota"]
        for counter in await self._gateway.store.counters.read(quota, now) if quota else ():
            if counter is not None:
                data["quota_remaining"] = max(0, data["quota_max"] - counter.count)
                data["quota_renews"] = int(counter.ends) or data["quota_renews"]
        return data

    async def put(self, org: str, document: SessionDocument, options: ResetOptions) -> bool:
        """Write the session of an organisation, which need not exist otherwise. Whether it is new."""
        mistake = org_mistake(org)
        if mistake:
            raise Rejected(400, "Request malformed", [mistake])
        async with self._locks.hold(org):
            existing = await self._gateway.organisations.record(org)
            stored = parse_stored(existing.document) if existing is not None else None
            document = as_written(document.changed(org_id=org), stored, PolicySet(), self._gateway.clock.now())
            record = organisation_record(org, document, existing.revision + 1 if existing is not None else 1)
            await self._gateway.organisations.put(record)
            before = organisation_of(existing) if existing is not None else None
            await self._gateway.store.counters.reset(_to_reset(before, organisation_of(record), options))
        return existing is None

    async def delete(self, org: str) -> None:
        """Forget the session of an organisation, its counters with it."""
        async with self._locks.hold(org):
            record = await self._known(org)
            await self._gateway.organisations.delete(org)
            await self._gateway.store.counters.reset([bucket.key for bucket in organisation_of(record).buckets])

    async def _known(self, org: str) -> Record:
        record = await self._gateway.organisations.record(org)
        if record is None:
            raise Rejected(404, _NOT_FOUND)
        return record


def _to_reset(before: Organisation | None, after: Organisation, options: ResetOptions) -> Sequence[str]:
    """The counters that a write starts anew: those whose limit it changes, and the quota when asked to."""
    if options.keep and not options.quota:
        return ()
    old = {bucket.key: bucket for bucket in before.buckets} if before is not None else {}
    new = {bucket.key: bucket for bucket in after.buckets}
    changed = [] if options.keep else [key for key in {**old, **new} if old.get(key) != new.get(key)]
    quota = [bucket.key for bucket in new.values() if options.quota and bucket.kind == "organisation_quota"]
    return list(dict.fromkeys([*changed, *quota]))
