"""Stage VERSION: whether a WebSocket may be opened at all, and from the pages of which origin.

A browser lets any page open a WebSocket to any server, with the cookies of that server: without a look at the origin
the pages of strangers act in the name of whoever reads them (RFC 6455 section 10.2).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from aiogate.config.websocket import canonical_origin
from aiogate.errors import PROBLEMS, Problem

if TYPE_CHECKING:
    from aiogate.chain.contracts import OnRequest
    from aiogate.chain.exchange import Exchange
    from aiogate.config.websocket import WebSocket

__all__ = ["websocket_step"]

_LABELS: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_DIGITS: Final = re.compile(r"[0-9]{1,5}")


def websocket_step(declared: WebSocket) -> OnRequest | None:
    """The step that refuses WebSockets, or None where none is refused."""
    if not declared.enabled:
        return _switched_off
    origins = declared.origins
    if origins is None or "*" in origins:
        return None
    exact = frozenset(origin for origin in origins if "*" not in origin)
    patterns = tuple(origin.split("*") for origin in origins if "*" in origin)

    def check(exchange: Exchange) -> Problem | None:
        if not _is_websocket(exchange):
            return None
        sent = exchange.headers.getall("Origin", ())
        if not sent:
            return None
        if len(sent) > 1:
            return PROBLEMS["origin_denied"].because(f"{len(sent)} Origin headers")
        origin = canonical_origin(sent[0])
        if origin in exact or any(_matches(origin, *pattern) for pattern in patterns):
            return None
        return PROBLEMS["origin_denied"].because(f"the origin {sent[0][:200]!r} is none of {', '.join(origins)}")

    return check


def _switched_off(exchange: Exchange) -> Problem | None:
    if _is_websocket(exchange):
        return PROBLEMS["websocket_denied"].because("the definition says `websocket: false`")
    return None


def _is_websocket(exchange: Exchange) -> bool:
    return exchange.upgrade is not None and exchange.upgrade.protocol == "websocket"


def _matches(origin: str, *parts: str) -> bool:
    """Whether an origin is what the pattern says, with labels for a star before the host, digits for one as port."""
    if len(parts) == 3:
        host, colon, port = origin.rpartition(":")
        return bool(colon) and _DIGITS.fullmatch(port) is not None and _matches(host, parts[0], parts[1][:-1])
    before, behind = parts
    if len(origin) <= len(before) + len(behind) or not (origin.startswith(before) and origin.endswith(behind)):
        return False
    star = origin[len(before) : len(origin) - len(behind)]
    return (_DIGITS if before.endswith(":") else _LABELS).fullmatch(star) is not None
