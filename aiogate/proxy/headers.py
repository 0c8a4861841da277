"""Which headers cross the gateway, in either direction.

Framing and connection management belong to one hop (RFC 9110 section 7.6.1): we frame every message anew. Headers by
which a server learns who the client is are ours to say: what an untrusted client sent under such a name is dropped,
under a spelling with underscores too, because CGI-like servers read `X_Forwarded_For` and `X-Forwarded-For` as one.

The tables are keyed by the name as it was sent, and give the beginning of the line that is written for it, so that a
header seen before costs one lookup and one concatenation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from aiogate.config.headers import FRAMING, SAID_BY_US

__all__ = [
    "FROM_TRUSTED",
    "FROM_UNTRUSTED",
    "TO_CLIENT",
    "HeaderTable",
    "nominated",
]

_FRAMING: Final = frozenset(name.encode() for name in FRAMING)
_SAID_BY_US: Final = frozenset(name.encode() for name in SAID_BY_US)
# Frameworks rewrite the target or the method by these, behind the back of the rules that were checked here.
_OVERRIDES: Final = frozenset(
    {
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-url",
        b"x-rewrite-url",
    }
)
_NEVER_FORWARDED: Final = _FRAMING | _SAID_BY_US | _OVERRIDES
# Underscores in any other name pass: only a name that means something to a gateway or server can be forged this way.
_NOT_WITH_UNDERSCORES: Final = _NEVER_FORWARDED | {b"authorization", b"content-type", b"cookie"}
_REMEMBERED: Final = 1024


class HeaderTable(dict[bytes, bytes]):
    """How the line of a header begins, by its name in any case (`b"Accept: "`); empty: the header does not pass.

    `passes` decides about a lower-case name. Remembers a bounded number of spellings: a client that sends random names
    cannot grow it.
    """

    def __init__(self, passes: Callable[[bytes], bool]) -> None:
        super().__init__()
        self._passes = passes

    def __missing__(self, name: bytes) -> bytes:
        begins = name + b": " if self._passes(name.lower()) else b""
        if len(self) < _REMEMBERED and len(name) <= 64:
            self[name] = begins
        return begins


def _from_trusted(name: bytes) -> bool:
    if name in _NEVER_FORWARDED:
        return False
    return not (b"_" in name and _forged(name))


def _from_untrusted(name: bytes) -> bool:
    return _from_trusted(name) and not name.startswith(b"x-forwarded-")


def _forged(name: bytes) -> bool:
    spelled = name.replace(b"_", b"-")
    return spelled in _NOT_WITH_UNDERSCORES or spelled.startswith(b"x-forwarded-")


FROM_UNTRUSTED: Final = HeaderTable(_from_untrusted)
"""Client to upstream."""
FROM_TRUSTED: Final = HeaderTable(_from_trusted)
"""A trusted proxy in front of us to upstream: its other `X-Forwarded-*` pass."""
TO_CLIENT: Final = HeaderTable(lambda name: name not in _FRAMING and name != b"x-request-id")
"""Upstream, or the chain, to client."""


@lru_cache(maxsize=256)
def nominated(connection: bytes) -> frozenset[bytes]:
    """The headers that a `Connection` header declares to be of this hop only, in lower case."""
    return frozenset(token.strip().lower() for token in connection.split(b",")) - {b"", b"close", b"keep-alive"}
