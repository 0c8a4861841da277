"""Where a Redis is: the URL of the setting `store`, taken apart.

    redis://[[user]:password@]host[:port][/db]           one server
    rediss://…                                           the same over TLS
    redis+sentinel://[…@]host:port,host:port/service[/db]  the master that the sentinels name
    redis+cluster://[…@]host:port,host:port              the node that owns our slot
    rediss+sentinel://…, rediss+cluster://…              both over TLS

`valkey` may be said for `redis`: the protocol is the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import unquote

__all__ = ["RedisUrl", "is_redis_url", "parse_redis_url"]

_SCHEME: Final = re.compile(r"(redis|valkey)(s?)(?:\+(sentinel|cluster))?://")
_PORTS: Final = {"single": 6379, "sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL. `addresses` are servers, sentinels or cluster nodes to begin with."""

    kind: Literal["single", "sentinel", "cluster"]
    addresses: tuple[tuple[str, int], ...]
    tls: bool = False
    db: int = 0
    service: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """The URL without its credentials, for logs and `status`."""
        scheme = "rediss" if self.tls else "redis"
        if self.kind != "single":
            scheme += f"+{self.kind}"
        places = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.addresses)
        path = "".join(f"/{part}" for part in (self.service, self.db) if part)
        return f"{scheme}://{places}{path}"


def is_redis_url(text: str) -> bool:
    """Whether `text` names a Redis at all."""
    return _SCHEME.match(text.lower()) is not None


def parse_redis_url(text: str) -> RedisUrl:
    """Take a URL apart. Raises ValueError with what is wrong with it; credentials are not repeated."""
    found = _SCHEME.match(text.lower())
    if found is None:
        raise ValueError("begins with none of `redis://`, `rediss://`, `redis+sentinel://` and `redis+cluster://`")
    named = found[3]
    kind: Literal["single", "sentinel", "cluster"] = (
        "sentinel" if named == "sentinel" else "cluster" if named == "cluster" else "single"
    )
    rest = text[found.end() :]
    if "?" in rest or "#" in rest:
        raise ValueError("has a query; what can be set is under `redis:`")
    place, _, path = rest.partition("/")
    credentials, at, hosts = place.rpartition("@")
    user, colon, password = credentials.partition(":")
    if at and not colon:
        raise ValueError("has a user without a password: `redis://user:password@host`, or `redis://:password@host`")
    addresses = tuple(_address(part, _PORTS[kind]) for part in hosts.split(","))
    if kind == "single" and len(addresses) > 1:
        raise ValueError("names several servers; `redis+sentinel://` or `redis+cluster://` takes a list")
    parts = [part for part in path.split("/") if part]
    service = ""
    if kind == "sentinel":
        if not parts:
            raise ValueError("names no service: `redis+sentinel://host:port/service`")
        service = unquote(parts.pop(0))
    if kind == "cluster" and parts:
        raise ValueError("names a database; a cluster has only one")
    if len(parts) > 1:
        raise ValueError("has more than a database behind the address")
    return RedisUrl(
        kind=kind,
        addresses=addresses,
        tls=bool(found[2]),
        db=_database(parts[0]) if parts else 0,
        service=service,
        username=unquote(user) or None,
        password=unquote(password) or None,
    )


def _address(text: str, port: int) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, behind = text[1:].partition("]")
        digits = behind.removeprefix(":")
        if not bracket or (behind and not behind.startswith(":")):
            raise ValueError("has an address that cannot be read")
    else:
        host, _, digits = text.partition(":")
    if not host or any(char.isspace() for char in host):
        raise ValueError("names no host")
    if not digits:
        return host, port
    if not (digits.isascii() and digits.isdigit()) or not 0 < int(digits) < 65536:
        raise ValueError("has a port that is none")
    return host, int(digits)


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 5:
        raise ValueError("has a database that is no number")
    return int(text)
