"""The part of a definition about WebSockets.

websocket:
origins: [https://app.example.com, https://*.example.com]
max_message: 1MiB
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, BeforeValidator, Field

from aiogate.config.model import Model, mistake
from aiogate.config.units import Duration, Size

__all__ = ["Origin", "Protocol", "WebSocket", "canonical_origin"]

_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}|\*))?"
)
_PROTOCOL: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+(/[a-z0-9!#$%&'*+.^_`|~-]+)?")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_WORDS: Final = "an origin is a scheme and a host, such as `https://app.example.com` or `https://*.example.com`"


def canonical_origin(origin: str) -> str:
    """The one spelling of an origin: lower case, without the port that its scheme has anyway (RFC 6454 section 6)."""
    lowered = origin.lower()
    return lowered.removesuffix(_DEFAULT_PORTS.get(lowered.partition("://")[0], ":"))


def _parse_origin(value: Any) -> Any:
    if value == "*":
        return value
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be an origin", _WORDS)
    if _ORIGIN.fullmatch(value.lower()) is None:
        hint = f"leave the slash out: `{value.rstrip('/')}`" if value.endswith("/") else _WORDS
        raise mistake("invalid_value", "is not an origin", hint, show=True)
    return canonical_origin(value)


Origin = Annotated[str, BeforeValidator(_parse_origin)]
"""`scheme://host` or `scheme://host:port`; the first label of the host, or the port, may be `*`. `*` alone is any."""


def _some(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if values == ():
        raise mistake("invalid_value", "is an empty list", "leave it out to let every origin in")
    return values


def _above_zero(number: float) -> float:
    if number <= 0:
        raise mistake("invalid_value", "should be more than nothing", show=True)
    return number


_Wait = Annotated[Duration, AfterValidator(_above_zero)]
_Some = Annotated[Size, AfterValidator(_above_zero)]


def _parse_protocol(value: Any) -> Any:
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be the name of a protocol")
    name = value.lower()
    if _PROTOCOL.fullmatch(name) is None:
        raise mistake("invalid_value", "is not a protocol's name", "as in the header `Upgrade`", show=True)
    if name == "websocket":
        raise mistake("invalid_value", "needs no mention", "WebSockets are what `websocket` is about")
    if name.partition("/")[0] in ("h2c", "http", "tls"):
        raise mistake("invalid_value", "would carry requests that no rule has seen", "leave it out", show=True)
    return name


Protocol = Annotated[str, BeforeValidator(_parse_protocol)]
"""Another protocol that an `Upgrade` may ask for, in lower case."""


class WebSocket(Model):
    """Whether, and how, WebSockets go through an API. Times are seconds, sizes bytes."""

    shorthand: ClassVar[str | None] = "enabled"

    enabled: bool = True
    origins: Annotated[tuple[Origin, ...] | None, AfterValidator(_some)] = None
    """Whose pages may connect; None: everybody's. Clients that are no browsers send no origin, and may connect."""
    connections: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """How many may be open at one time; None: as many as `limits.connections` has room for."""
    idle: _Wait = 300.0
    """How long nothing may come from either side."""
    ping: _Wait | None = None
    """How long a client may be silent before it is sent a Ping, and again before it is given up."""
    lifetime: _Wait | None = None
    """How long one may last at all."""
    max_frame: _Some | None = None
    max_message: _Some | None = None
    """Bytes of payload, in either direction. With one of these, frames are looked into, and not compressed."""
