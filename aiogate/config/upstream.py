"""Where requests go: what stands under `upstream:` of an API or of a version, a URL or everything around one.

    upstream:
      targets: [{url: http://10.0.0.1:9001/, weight: 2}, http://10.0.0.2:9001/]
      timeouts: {connect: 1s}

Files named under `tls` are read by `config.trust`, together with the definition.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from aiogate.config.addresses import HostName, UpstreamUrl
from aiogate.config.model import Model, mistake
from aiogate.config.units import Duration

__all__ = ["Ejection", "Keepalive", "Target", "Upstream", "UpstreamTimeouts", "UpstreamTls", "Wait"]


def _above_zero(seconds: float) -> float:
    if seconds <= 0:
        raise mistake("invalid_value", "should be longer than nothing", show=True)
    return seconds


Wait = Annotated[Duration, AfterValidator(_above_zero)]
"""A duration above zero, in seconds."""


def _parse_whole(value: Any) -> Any:
    """A whole number; out of a variable it arrives as text."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise mistake("wrong_type", "should be a whole number")
    return value


_Whole = Annotated[int, BeforeValidator(_parse_whole)]


def _parse_file(value: Any) -> Any:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise mistake("wrong_type", "should be the path of a file")
    return Path(value)


_File = Annotated[Path, BeforeValidator(_parse_file)]


def _parse_version(value: Any) -> Any:
    return str(value) if isinstance(value, float) else value


class UpstreamTimeouts(Model):
    """How long to wait for an upstream."""

    connect: Wait = 5.0
    """Seconds to open a connection: name lookup, all addresses of the name, and TLS."""
    read: Wait = 30.0
    """Seconds without a byte from the upstream, before its response and between the pieces of a body."""
    write: Wait = 30.0
    """Seconds in which the upstream takes nothing of the request's body."""
    total: Wait | None = None
    """Seconds for all of it, from the choice of a target to the end of the response's body; None: no such limit."""


class UpstreamTls(Model):
    """How an upstream is spoken to over TLS. Files are PEM; a relative path begins at the working directory."""

    ca: _File | None = None
    """The authorities that are trusted, instead of the system's."""
    certificate: _File | None = None
    """What the gateway shows when the upstream asks for a certificate, the intermediates behind it."""
    key: _File | None = None
    """Its private key, without a password; None: it stands in the same file."""
    server_name: HostName | None = None
    """The name that is asked for (SNI) and that the certificate must have; None: the URL's host."""
    verify: bool = True
    """False: any certificate is taken. `aiogate check` warns of it."""
    min_version: Annotated[Literal["1.2", "1.3"], BeforeValidator(_parse_version)] = "1.2"
    """The oldest version of TLS that is spoken."""

    @model_validator(mode="after")
    def _whole(self) -> UpstreamTls:
        if self.key is not None and self.certificate is None:
            raise mistake("missing_key", "has a `key` and no `certificate`")
        if self.ca is not None and not self.verify:
            hint = "leave `verify` out to trust `ca`, or `ca` to trust everybody"
            raise mistake("invalid_value", "says `verify: false`, which leaves `ca` without an effect", hint)
        return self


class Target(Model):
    """One server of several."""

    shorthand: ClassVar[str | None] = "url"

    url: UpstreamUrl
    """The path behind the listen path is appended to the URL's path, its query to the URL's query."""
    weight: Annotated[_Whole, Field(ge=1, le=256)] = 1
    """Its share of the requests, relative to the other targets'; 1 to 256."""


class Keepalive(Model):
    """The connections to one target."""

    connections: Annotated[_Whole, Field(ge=1, le=100_000)] = 1024
    """The most at one time."""
    idle: Wait = 60.0
    """Seconds that an unused connection is kept."""
    queue: Annotated[_Whole, Field(ge=0, le=1_000_000)] = 1024
    """The most requests that wait for a connection when all are in use; more are answered with 503."""
    wait: Wait = 5.0
    """Seconds that a request waits there before it is answered with 503."""


class Ejection(Model):
    """When a target of several gets no requests for a while."""

    failures: Annotated[_Whole, Field(ge=0, le=1_000_000)] = 3
    """Requests in a row that it did not answer, or answered with nonsense; 0: never eject."""
    period: Wait = Field(default=10.0, alias="for")
    """Seconds for which it is left alone the first time; twice as long each further time."""
    at_most: Wait = 300.0
    """The longest such time, in seconds."""
    statuses: tuple[Annotated[_Whole, Field(ge=500, le=599)], ...] = ()
    """Statuses of responses that count as failures too; the client gets them nevertheless."""


class Upstream(Model):
    """Where requests of an API go: to `url`, or to one of `targets`."""

    shorthand: ClassVar[str | None] = "url"

    url: UpstreamUrl | None = None
    """The path behind the listen path is appended to the URL's path, its query to the URL's query."""
    targets: tuple[Target, ...] = ()
    """Several servers, each with connections of its own."""
    balance: Literal["round_robin", "least_requests"] = "round_robin"
    """How a target is chosen: in turn, or the one with the fewest requests in progress for its weight."""
    timeouts: UpstreamTimeouts = UpstreamTimeouts()
    tls: UpstreamTls | None = None
    keepalive: Keepalive = Keepalive()
    ejection: Ejection = Ejection()
    preserve_host: bool = False
    """Whether the upstream gets the client's `Host` header instead of its own name."""

    @model_validator(mode="after")
    def _somewhere(self) -> Upstream:
        if self.url is not None and self.targets:
            raise mistake("invalid_value", "has both a `url` and `targets`", "write the URL as one of the targets")
        if self.url is None and not self.targets:
            raise mistake("missing_key", "has neither a `url` nor `targets`", "such as `url: http://127.0.0.1:9001/`")
        return self

    @property
    def listed(self) -> tuple[Target, ...]:
        """All targets; a lone URL is one."""
        return self.targets or (Target(url=self.url),)

    @property
    def secure(self) -> bool:
        """Whether any target is spoken to over TLS."""
        return any(target.url.scheme == "https" for target in self.listed)
