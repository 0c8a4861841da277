"""From what a caller says to one record, and from a record to what it may be called.

Nothing else in the control room compares names: a user name, organisation and user name, a full key and a stored name
(the hash) all end here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from aiogate.domain.account import is_name_hash, org_of_key, stored_name, without_org
from aiogate.domain.session import Record, SessionKind
from aiogate.errors import Rejected
from aiogate.stores.repositories import SessionDirectory

__all__ = ["Name", "find", "new_name", "public_name", "spelled"]


@dataclass(frozen=True, slots=True)
class Name:
    """How a caller names a record.

    `org`: look only there; None: wherever it is found. `hashed`: the text is a stored name and nothing else. `api`: the
    record must grant this API, or is as good as absent.
    """

    text: str
    org: str | None = None
    hashed: bool = False
    api: str = ""


async def find(sessions: SessionDirectory, name: Name) -> Record | None:
    """The record that a caller means: by hash, by key, by name, by organisation and name, in this order."""
    if name.hashed or is_name_hash(name.text.lower()):
        record = await sessions.get_record(name.text.lower())
        if record is not None or name.hashed:
            return record if record is not None and name.org in (None, record.org) else None
        name = replace(name, text=name.text.lower())  # the fingerprint of a certificate has the same form
    for spelling in (_verbatim, without_org):
        found = [
            record
            for org in await _organisations(sessions, name)
            if (record := await sessions.get_record(stored_name(org, spelling(org, name.text)))) is not None
        ]
        if len(found) > 1:
            orgs = ", ".join(sorted(record.org for record in found))
            raise Rejected(400, "This name exists in several organisations", [f"say org_id, one of: {orgs}"])
        if found:
            return found[0]
    return None


async def _organisations(sessions: SessionDirectory, name: Name) -> Sequence[str]:
    if name.org is not None:
        return (name.org,)
    org = org_of_key(name.text)
    known = await sessions.organisations()
    return known if org is None else (org, *(other for other in known if other != org))


def _verbatim(org: str, text: str) -> str:
    return text


def public_name(record: Record) -> str:
    """What a record may be called by in replies: the user name, or the hash where the name is a credential."""
    return record.label if record.kind == "basic" else record.name_hash


def new_name(org: str, text: str, kind: SessionKind) -> str:
    """The name of a new record. In old Tyk's organisations (24 hex digits) a user may be called by both in one word."""
    return without_org(org, text) if kind == "basic" and org_of_key(text) == org else text


def spelled(record: Record, text: str) -> str:
    """The name of an existing record that `text` led to; its hash when that is all that is known."""
    if record.kind == "basic":
        return record.label
    spellings = (text, without_org(record.org, text))
    return next((name for name in spellings if stored_name(record.org, name) == record.name_hash), record.name_hash)
