"""One plugin and one made-up request, without a socket."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from multidict import CIMultiDict, CIMultiDictProxy

from aiogate.chain.contracts import AuthenticatorKind, BuildContext, MiddlewareKind, Services
from aiogate.chain.exchange import BodyTooLarge, Exchange, RequestBody, Response, problem_response
from aiogate.clock import Clock
from aiogate.config.definition import Definition, read_definition
from aiogate.config.source import read_source
from aiogate.credentials.certificates import CertificateStore, FolderCertificates, Handshake
from aiogate.credentials.failures import Failures, Limit
from aiogate.credentials.passwords import Passwords
from aiogate.credentials.tokens import Tokens
from aiogate.domain.account import kind_of, stored_name
from aiogate.domain.policy import PolicySet
from aiogate.domain.session import Record, Session, parse_document
from aiogate.errors import Problem
from aiogate.proxy.pool import UpstreamPools
from aiogate.stores.memory import MemoryStore
from aiogate.stores.repositories import SessionDirectory
from aiogate.telemetry.events import EventBus
from aiogate.testing.clock import FakeClock

__all__ = [
    "Outcome",
    "make_definition",
    "make_exchange",
    "make_services",
    "run_authenticator",
    "run_middleware",
]

_DEFINITION = "{id: test, listen: /test/, upstream: 'http://127.0.0.1:9/', auth: none}"
T = TypeVar("T")


class _Body:
    """A request's body that is all there."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = data
        self.length = len(data)
        self.present = bool(data)

    async def read(self) -> bytes:
        piece, self._left = self._left, b""
        return piece

    async def read_all(self, limit: int) -> bytes:
        if len(self._data) > limit:
            raise BodyTooLarge(f"{len(self._data)} bytes, {limit} allowed")
        return self._data

    def cap(self, limit: int) -> None:
        if len(self._data) > limit:
            raise BodyTooLarge(f"{len(self._data)} bytes, {limit} allowed")

    def close(self) -> None:
        self._left = b""


def make_exchange(
    method: str = "GET",
    path: str = "/",
    *,
    query: str = "",
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    host: str = "gateway.test",
    scheme: str = "http",
    client_ip: str = "192.0.2.1",
    session: Session | None = None,
    version: str = "Default",
    policies: PolicySet | None = None,
    handshake: Handshake | None = None,
) -> Exchange:
    """A request as a step gets it. `path` is the part behind the listen path, canonical, beginning with `/`."""
    pairs = CIMultiDict(headers)
    sent: RequestBody = _Body(body)
    exchange = Exchange(
        method=method,
        path=path,
        query=query,
        headers=CIMultiDictProxy(pairs),
        raw_headers=tuple((name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in pairs.items()),
        body=sent,
        host=host,
        scheme=scheme,
        peer=client_ip,
        client_ip=client_ip,
        trusted_peer=False,
        version_1_1=True,
        request_id="0" * 32,
        started=0.0,
        policies=policies if policies is not None else PolicySet(()),
        handshake=handshake,
    )
    exchange.version = version
    exchange.session = session
    if session is not None:
        exchange.grant = session.grants.get("test")
    return exchange


def make_definition(text: str = _DEFINITION, file: str = "apis.d/test.yaml") -> Definition:
    """An API as YAML declares it. Raises `aiogate.errors.DiagnosticsFound`."""
    return read_definition(read_source(file, text.encode()))


def make_services(clock: Clock | None = None) -> Services:
    """Services on a store in memory, with a `FakeClock` unless another is given; passwords cost little to hash.

    Whoever has passwords hashed awaits `passwords.close()` at the end: that ends the processes which did it.
    """
    clock = clock or FakeClock()
    store = MemoryStore(clock)
    return Services(
        clock=clock,
        sessions=SessionDirectory(store.sessions, clock),
        counters=store.counters,
        passwords=Passwords(clock, cost=4),
        events=EventBus(),
        upstreams=UpstreamPools(),
        tokens=Tokens(clock),
        certificates=CertificateStore(
            FolderCertificates(Path(tempfile.gettempdir()) / f"aiogate-certificates-{secrets.token_hex(8)}")
        ),
        failures=Failures(clock, user=Limit(10, 60), address=Limit(100, 60)),
        vault=store.vault,
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request. `problem`: the refusal. `answered`: the middleware gave the response itself."""

    response: Response
    problem: Problem | None = None
    answered: bool = False

    @property
    def passed(self) -> bool:
        """Whether the request would have gone on to the upstream."""
        return self.problem is None and not self.answered


async def run_middleware(
    kind: MiddlewareKind,
    config: object,
    exchange: Exchange,
    *,
    services: Services | None = None,
    definition: Definition | None = None,
    upstream: Response | None = None,
) -> Outcome:
    """One request through one middleware: on the way in, its buckets, and on the way back.

    `config` is the value under the plugin's key in YAML, or the model itself. `upstream` answers what is let through;
    default: an empty 200. Counters live as long as `services`. Raises `pydantic.ValidationError` for a configuration
    that is not valid, and whatever the middleware raises.
    """
    services = services or make_services()
    middleware = kind.build(kind.config.model_validate(config), _context(definition, services))
    if middleware.opens is not None and middleware.opens(exchange) is True:
        exchange.open = True
    spoken = await _settled(middleware.on_request(exchange)) if middleware.on_request is not None else None
    if spoken is None and middleware.buckets:
        taken = await _settled(
            services.counters.take([bucket for bucket, _ in middleware.buckets], services.clock.now())
        )
        spoken = None if taken.admitted else middleware.buckets[taken.refused][1]
    if isinstance(spoken, Problem):
        exchange.problem = spoken
        outcome = Outcome(problem_response(spoken, exchange.request_id), problem=spoken)
    elif spoken is not None:
        outcome = Outcome(spoken, answered=True)
    else:
        outcome = Outcome(upstream if upstream is not None else Response())
    if middleware.on_response is not None:
        await _settled(middleware.on_response(exchange, outcome.response))
    return outcome


async def run_authenticator(
    kind: AuthenticatorKind,
    config: object,
    exchange: Exchange,
    *,
    services: Services | None = None,
    definition: Definition | None = None,
    sessions: Mapping[str, Mapping[str, Any]] | None = None,
) -> Session | Problem | None:
    """What one method of authentication says about one request: a session, a refusal, or None (nothing of its kind).

    `sessions` are stored before, by name, as `POST /tyk/keys/{name}` takes them. The rest: see `run_middleware`.
    """
    services = services or make_services()
    context = _context(definition, services, (kind.name,))
    for name, session in (sessions or {}).items():
        await services.sessions.put(_record(context.definition.org, name, session))
    authenticator = kind.build(kind.config.model_validate(config), context)
    return await _settled(authenticator.authenticate(exchange))


def _context(definition: Definition | None, services: Services, siblings: tuple[str, ...] = ()) -> BuildContext:
    definition = definition or make_definition()
    return BuildContext(definition, "Default", services, definition.source.locate(()), siblings)


def _record(org: str, name: str, session: Mapping[str, Any]) -> Record:
    document = parse_document(session)
    kind = kind_of(document)
    label = name if kind == "basic" else document.alias
    return Record(stored_name(org, name), org, kind, label, document.changed(org_id=org).stored())


async def _settled(answer: T | Awaitable[T]) -> T:
    return await answer if isinstance(answer, Awaitable) else answer
