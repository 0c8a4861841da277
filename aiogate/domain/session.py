"""Sessions: what is stored for a key or a basic-auth user, and what a request meets.

`SessionDocument` is the record as Tyk's clients send and read it (spec/session.md section 1); unknown fields are kept
out silently, as Tyk does. `Record` is what a store keeps: the document with its organisation, kind and stored name.
`Session` is the effective session: policies laid over the document, access rights compiled, buckets ready to take. It
is immutable and cached; requests share it.
"""

from __future__ import annotations

import re as _re  # noqa: F401  (placeholder, replaced by the domain room)
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aiogate.domain.limits import Bucket

__all__ = ["Grant", "Record", "Session", "SessionKind"]

SessionKind = Literal["key", "basic", "hmac", "jwt", "oauth", "certificate"]


@dataclass(frozen=True, slots=True)
class PathRule:
    """One entry of `allowed_urls`: a compiled RE2 pattern and the methods it allows (empty: all)."""

    pattern: Any
    methods: frozenset[str]

    def allows(self, method: str, tail: str) -> bool:
        return (not self.methods or method in self.methods) and self.pattern.match(tail) is not None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a session may do at one API.

    `versions` empty: all. `paths` empty: all. `buckets` are this session's own at this API, rate first, then quota.
    `quota` is the index of the quota bucket in `buckets`, or -1 for unlimited.
    """

    versions: frozenset[str] = frozenset()
    paths: tuple[PathRule, ...] = ()
    buckets: tuple[Bucket, ...] = ()
    quota: int = -1
    throttle_interval: float = 0.0
    throttle_retries: int = 0


@dataclass(frozen=True, slots=True)
class Session:
    """The effective session of one stored record under one set of policies."""

    name_hash: str
    """Hex SHA-256 of organisation and name: the stored name; safe to show and to log."""
    org: str
    kind: SessionKind
    label: str
    """Alias, or the user name of a basic-auth user."""
    grants: Mapping[str, Grant]
    """API id to grant. An API that is not here is refused."""
    inactive: bool = False
    expires: float = 0.0
    """Epoch seconds; below 1: never."""
    inactive_reason: str = ""
    """Private: which flag or policy makes it inactive."""
    password: str = ""
    """The stored password hash of a basic-auth user; never shown."""
    password_kind: str = ""
    policies: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    alias: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What a store keeps under `name_hash`.

    `document` is the session as canonical JSON bytes (the field names of Tyk). `revision` grows with each write.
    `name` is the presented name of basic-auth users and the alias otherwise: a label, never a credential.
    """

    name_hash: str
    org: str
    kind: SessionKind
    label: str
    document: bytes
    revision: int = 0
    delete_at: float = 0.0
    """Epoch seconds after which the store forgets the record; 0: never (spec/session.md section 8)."""
