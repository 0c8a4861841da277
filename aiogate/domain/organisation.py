"""What an organisation as a whole may do: the session that stands above those of its keys and users.

It is kept like a session, in an organisation of the gateway's own, and says whether the organisation is active and how
much all requests to its APIs may be together. Access rights in it mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from aiogate.domain.account import stored_name
from aiogate.domain.limits import Bucket
from aiogate.domain.policy import buckets_of
from aiogate.domain.session import Record, SessionDocument, parse_stored

__all__ = ["ORGANISATIONS", "Organisation", "is_reserved", "organisation_of", "organisation_record"]

ORGANISATIONS: Final = " organisation sessions"
"""Where the records are kept. No caller's organisation begins with a blank."""


def is_reserved(org: str) -> bool:
    """Whether an organisation is the gateway's own, with records that are neither keys nor users."""
    return org.startswith(" ")


@dataclass(frozen=True, slots=True)
class Organisation:
    """An organisation's session, compiled: whether it may do anything, and the buckets of all its requests."""

    id: str
    inactive: bool
    buckets: tuple[Bucket, ...] = ()


def organisation_of(record: Record) -> Organisation:
    """What a stored record says. Raises `DocumentError`."""
    document = parse_stored(record.document)
    return Organisation(record.label, document.is_inactive, tuple(_buckets(document, record.name_hash)))


def _buckets(document: SessionDocument, name_hash: str) -> Iterator[Bucket]:
    for bucket in buckets_of(document.limit, "organisation", name_hash):
        yield replace(bucket, kind=f"organisation_{bucket.kind}")


def organisation_record(org: str, document: SessionDocument, revision: int = 1) -> Record:
    """The record under which a session of `org` is kept."""
    return Record(stored_name(ORGANISATIONS, org), ORGANISATIONS, "key", org, document.stored(), revision)
