"""One spelling per path, used by the matcher and by the forwarder alike.

A gateway that decides on one spelling and forwards another can be walked around (`/api/public/..%2fsecret`). So a
target is brought into its canonical form once, before anything looks at it, and the very same bytes go upstream:
slashes are merged, unreserved characters decoded, other escapes upper-cased, and what has no place in a path escaped.

What has two readings is refused, never guessed at: dot segments (with path parameters or escapes too), escaped slashes
and backslashes, control characters, broken escapes, bytes that are not UTF-8, fragments. `canonical` is idempotent.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from aiogate.errors import PROBLEMS, Problem

__all__ = ["PLAIN", "Canonical", "canonical"]


class Canonical(NamedTuple):
    """A request target. `authority` is what an absolute-form target named (`GET http://host:port/path`), or None."""

    path: str
    query: str
    authority: str | None


PLAIN: Final = re.compile(r"(?:/(?![./])[A-Za-z0-9._~!$&'()*+,;=:@-]*)+")
"""What nearly every path looks like: it is canonical already. No empty segment, none that begins with a dot."""
_QUERY: Final = re.compile(r"[!\"$-~]*")
_ABSOLUTE: Final = re.compile(r"(?i:https?)://([^/?#]*)([^#]*)")
_SLASHES: Final = re.compile(r"/{2,}")
_UNPRINTABLE: Final = re.compile(r"[^!-~]")
_NOT_IN_PATHS: Final = re.compile(r"[\"<>^`{|}\[\]]")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_HEX: Final = frozenset("0123456789ABCDEFabcdef")


class _Ambiguous(Exception):
    """The path has no single reading."""


def canonical(raw_target: str) -> Canonical | Problem:
    """The canonical form of a request target in origin-form or absolute-form, or a 400 that says why there is none."""
    path, mark, query = raw_target.partition("?")
    if PLAIN.fullmatch(path) and (not mark or _QUERY.fullmatch(query)):
        return Canonical(path, query, None)
    authority = None
    if not raw_target.startswith("/"):
        absolute = _ABSOLUTE.fullmatch(raw_target)
        if absolute is None:
            return _refused("the target is neither a path nor an http address")
        authority = absolute[1]
        path, mark, query = absolute[2].partition("?")
        path = path or "/"
    if "#" in raw_target:
        return _refused("the target has a fragment")
    if _QUERY.fullmatch(query) is None:
        return _refused("the query holds a character that must be escaped")
    try:
        return Canonical(_normalised(path), query, authority)
    except _Ambiguous as error:
        return _refused(str(error))


def _normalised(path: str) -> str:
    if _UNPRINTABLE.search(path):
        raise _Ambiguous("the path holds a character that must be escaped")
    if "\\" in path:
        raise _Ambiguous("the path holds a backslash")
    first, *escaped = path.split("%")
    spelled = [first]
    for piece in escaped:
        digits = piece[:2]
        if len(digits) != 2 or not _HEX.issuperset(digits):
            raise _Ambiguous("the path holds a broken escape")
        spelled.append(_escape(int(digits, 16)))
        spelled.append(piece[2:])
    try:
        unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Ambiguous("the path is not UTF-8") from error
    merged = _SLASHES.sub("/", "".join(spelled))
    for segment in merged.split("/"):
        # Some servers cut path parameters off before they look for dots: `/..;x=1/` climbs there.
        bare = segment.replace("%3B", ";").partition(";")[0]
        if bare in (".", ".."):
            raise _Ambiguous("the path has a dot segment")
    return _NOT_IN_PATHS.sub(lambda found: f"%{ord(found[0]):02X}", merged)


def _escape(byte: int) -> str:
    if byte in _UNRESERVED:
        return chr(byte)
    if byte < 0x20 or byte == 0x7F:
        raise _Ambiguous("the path holds an escaped control character")
    if byte in b"/\\":
        raise _Ambiguous("the path holds an escaped slash or backslash")
    return f"%{byte:02X}"


def _refused(reason: str) -> Problem:
    return PROBLEMS["bad_request"].because(reason)
