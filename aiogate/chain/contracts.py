"""What a plugin hands in while a definition is compiled, and what it gets to do so.

A plugin answers the hook `aiogate_middleware` with one or more kinds: `MiddlewareKind` (something in the chain) or
`AuthenticatorKind` (a method under `auth:`). A kind names itself, says where it stands and how it is configured, and
has a `build` function that turns a validated configuration into plain functions. Those functions are all that a request
ever meets.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from aiogate.clock import SystemClock
from aiogate.credentials.failures import Failures
from aiogate.errors import Position, Problem
from aiogate.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from aiogate.chain.exchange import Exchange, Response
    from aiogate.clock import Clock
    from aiogate.config.definition import Definition
    from aiogate.config.model import Model
    from aiogate.credentials.certificates import CertificateStore
    from aiogate.credentials.oauth import OAuthBook
    from aiogate.credentials.passwords import Passwords
    from aiogate.credentials.tokens import Tokens
    from aiogate.domain.limits import Bucket
    from aiogate.domain.session import Session
    from aiogate.proxy.pool import UpstreamPools
    from aiogate.stores.base import CounterStore, VaultStore
    from aiogate.stores.repositories import SessionDirectory
    from aiogate.telemetry.events import EventBus

__all__ = [
    "Authenticator",
    "AuthenticatorKind",
    "BuildContext",
    "Middleware",
    "MiddlewareKind",
    "Services",
    "Stage",
]

OnRequest = Callable[["Exchange"], "Problem | Response | None | Awaitable[Problem | Response | None]"]
OnResponse = Callable[["Exchange", "Response"], "Awaitable[None] | None"]
Opens = Callable[["Exchange"], bool]


class Stage(enum.IntEnum):
    """The order of the chain (docs/architecture.md). Inside a stage: the order of the YAML list."""

    ENTRY = 0
    VERSION = 1
    AUTHENTICATE = 2
    AUTHORISE = 3
    LIMIT = 4
    VALIDATE = 5
    REQUEST = 6
    CACHE = 7
    UPSTREAM = 8


@dataclass(frozen=True, slots=True)
class Services:
    """Everything of the running gateway that a plugin may touch."""

    clock: Clock
    sessions: SessionDirectory
    counters: CounterStore
    passwords: Passwords
    events: EventBus
    upstreams: UpstreamPools
    tokens: Tokens
    vault: VaultStore
    certificates: CertificateStore
    failures: Failures = field(default_factory=lambda: Failures(SystemClock()))
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def oauth(self) -> OAuthBook:
        """What the gateway remembers as an OAuth 2 server. Made, and its code loaded, for those who ask."""
        from aiogate.credentials.oauth import OAuthBook

        return OAuthBook(self.vault, self.sessions, self.clock)


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What a `build` function gets beside its configuration.

    `version` is the version's name that is being compiled. `siblings` are the names of all methods in the same `auth`
    list. `ordinal` counts the uses of this plugin in the definition, from 0. `position` is where the plugin's key
    stands in the file. `mode` is that of the entry: a plugin that leaves something behind for later steps leaves
    nothing in `shadow`.
    """

    definition: Definition
    version: str
    services: Services
    position: Position
    siblings: tuple[str, ...] = ()
    ordinal: int = 0
    mode: Literal["enforce", "shadow"] = "enforce"


@dataclass(frozen=True, slots=True)
class Middleware:
    """Plain functions of one exchange; any may be sync or async.

    `on_request` returns None (go on), a `Problem` (refuse) or a `Response` (answer). `on_response` runs for every
    response of a request that entered this step, refusals included, in reverse order, before the head is written; it
    edits the response in place. `buckets` are taken by the core's limit step together with the session's own. `opens`
    answers True for a request that needs no credential: it skips authentication, rights and the limits of keys. It is
    asked for each request before stage AUTHENTICATE, sync, and never in shadow mode. `close` runs once, after the last
    request of the replaced API.
    """

    on_request: OnRequest | None = None
    on_response: OnResponse | None = None
    buckets: Sequence[tuple[Bucket, Problem]] = ()
    opens: Opens | None = None
    close: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Authenticator:
    """One method of authentication, built for one API.

    `authenticate` answers with the `Session`, with a `Problem`, or with None when no credential of its kind is present.
    `missing` is the refusal when no method of the list found a credential; its headers carry the challenge.
    `credential_headers` and `credential_query`, `credential_cookies` name what `strip_credentials` removes.
    `endpoints` answers the requests that are for the method itself, such as an OAuth 2 token endpoint, and gives None
    for all others. It is asked behind `ip_filter` and before everything that is about the upstream; which version of
    the API is meant does not matter.
    """

    kind: str
    authenticate: Callable[[Exchange], Session | Problem | None | Awaitable[Session | Problem | None]]
    missing: Problem
    credential_headers: tuple[str, ...] = ()
    credential_query: tuple[str, ...] = ()
    credential_cookies: tuple[str, ...] = ()
    endpoints: OnRequest | None = None
    close: Callable[[], None] | None = None


class MiddlewareBuilder(Protocol):
    def __call__(self, config: Any, context: BuildContext, /) -> Middleware: ...


class AuthenticatorBuilder(Protocol):
    def __call__(self, config: Any, context: BuildContext, /) -> Authenticator: ...


@dataclass(frozen=True, slots=True)
class MiddlewareKind:
    """A plugin for the list under `plugins:`.

    `name` is its key in YAML. `config` is the model that validates what stands under that key. `refuses` says whether
    it may refuse, and so may run in shadow mode. `answers` says that it may answer by itself, so that an API with it
    needs no upstream. `before` and `after` order it against other names of the same stage.
    """

    name: str
    stage: Stage
    config: type[Model]
    build: MiddlewareBuilder
    summary: str = ""
    refuses: bool = True
    answers: bool = False
    before: tuple[str, ...] = field(default=())
    after: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class AuthenticatorKind:
    """A plugin for the list under `auth:`."""

    name: str
    config: type[Model]
    build: AuthenticatorBuilder
    summary: str = ""
