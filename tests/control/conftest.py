"""A control port on a real socket, in front of real stores, definitions and policies."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from aiogate.config.definition import Definition
from aiogate.config.loader import Declared, NotLoaded, load
from aiogate.config.settings import Settings, load_settings
from aiogate.control.application import application
from aiogate.credentials.certificates import CertificateStore, FolderCertificates
from aiogate.credentials.passwords import Passwords
from aiogate.domain.policy import PolicySet
from aiogate.errors import Diagnostic, DiagnosticsFound
from aiogate.stores.base import Node, Store
from aiogate.stores.memory import MemoryStore
from aiogate.stores.organisations import Organisations
from aiogate.stores.repositories import SessionDirectory
from aiogate.telemetry import logs
from aiogate.telemetry.events import Event, EventBus
from aiogate.testing.clock import FakeClock

SECRET = "control-secret-0123456789abcdef"
ACCESS_KEY = "dashboard-key-0123456789abcdef"
OTHER_KEY = "other-org-key-0123456789abcdef"

FILES = {
    "apis.d/login.yaml": """
name: Login API
listen: /login-api/
upstream: http://127.0.0.1:9001/
auth: basic
""",
    "apis.d/portal.yaml": """
name: Portal
listen: /portal/
upstream: {url: "http://127.0.0.1:${UPSTREAM_PORT:-9002}/", preserve_host: true, timeouts: {read: 5s}}
auth: [key: {header: X-Key, query: api_key}, basic: {realm: Portal}]
versions: {by: header, default: v1, list: {v1: {expires: 2027-01-31T00:00:00Z}, v2: {}}}
plugins:
  - rate_limit: 1000/1m
  - ip_filter: {allow: [10.0.0.0/8]}
    mode: shadow
labels: {team: identity}
""",
    "apis.d/foreign.yaml": """
name: Foreign
org: acme
listen: /foreign/
upstream: http://127.0.0.1:9003/
auth: none
""",
    "policies.d/gold.yaml": """
id: gold
name: Gold plan
access: {login: {versions: [Default], paths: [{path: ^/users/.*, methods: [GET]}]}, portal: {}}
rate: 1000/1m
quota: 100/1h
tags: [gold]
""",
    "policies.d/trial.yaml": "{id: trial, access: {login: {}}, rate: 10/1s, key_lifetime: 1d}",
    "policies.d/acme.yaml": "{id: acme, org: acme, access: {foreign: {}}, rate: 5/1s}",
}


@dataclass(frozen=True)
class Verdict:
    ok: bool
    generation: int
    at: float
    seconds: float
    diagnostics: tuple[Diagnostic, ...] = ()
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Served:
    definition: Definition


@dataclass(frozen=True)
class Table:
    generation: int
    policies: PolicySet
    apis: dict[str, Served]


@dataclass
class Current:
    table: Table


@dataclass(frozen=True)
class User:
    org: str


class Users:
    def find(self, access_key: str) -> User | None:
        return {ACCESS_KEY: User("default"), OTHER_KEY: User("acme")}.get(access_key)


@dataclass(frozen=True)
class Health:
    throttled_per_second: float = 0.5
    quota_violations_per_second: float = 0.25
    key_failures_per_second: float = 0.125
    average_upstream_latency: float = 12.5
    requests_per_second: float = 3.0


@dataclass(frozen=True)
class RoutesView:
    generation: int
    routes: tuple[str, ...]
    match: str | None = None


@dataclass
class Site:
    """A gateway without a request side: it loads and reloads the files of a folder."""

    settings: Settings
    clock: FakeClock
    store: Store
    sessions: SessionDirectory
    passwords: Passwords
    current: Current = field(default_factory=lambda: Current(Table(0, PolicySet(), {})))
    events: EventBus = field(default_factory=EventBus)
    last_reload: Verdict | None = None
    fallback: str | None = None
    draining: bool = False
    certificates: CertificateStore = field(
        default_factory=lambda: CertificateStore(FolderCertificates(Path("nowhere")))
    )
    secret: str = SECRET
    dashboard: Users = field(default_factory=Users)
    reloads: list[str] = field(default_factory=list)

    async def reload(self, reason: str) -> Verdict:
        self.reloads.append(reason)
        generation, diagnostics = self.current.table.generation, ()
        try:
            declared = load(self.settings, environ={})
        except DiagnosticsFound as mistakes:
            diagnostics = mistakes.diagnostics
        else:
            generation += 1
            apis = {definition.id: Served(definition) for definition in declared.definitions if definition.active}
            self.current.table = Table(generation, declared.policies, apis)
        self.last_reload = Verdict(not diagnostics, generation, self.clock.now(), 0.0, diagnostics)
        return self.last_reload

    def node(self, id: str = "") -> Node:
        return Node(id or "here", "host", 1, "0", 1, 0.0, "serving", True, "127.0.0.1:1", own=True)

    @cached_property
    def organisations(self) -> Organisations:
        return Organisations(self.store.sessions)

    control_listener: tuple[str, int] = ("127.0.0.1", 8081)

    async def declared(self) -> Declared:
        try:
            return load(self.settings, environ={})
        except NotLoaded as mistakes:
            return mistakes.declared

    async def rehearse(self, instead: Any) -> Any:
        try:
            load(self.settings, environ={}, instead=instead)
        except DiagnosticsFound as mistakes:
            return mistakes.diagnostics
        return ()

    async def status(self) -> Any:
        return {"generation": self.current.table.generation, "store": self.store.name, "last_reload": self.last_reload}

    def routes_view(self, *, method: str | None = None, path: str | None = None, host: str | None = None) -> RoutesView:
        match = f"{method} {path} at {host}" if path is not None else None
        return RoutesView(self.current.table.generation, tuple(self.current.table.apis), match)

    def chain_view(self, api: str) -> Any:
        return [{"api": api, "steps": []}] if api in self.current.table.apis else None

    def plugins_view(self) -> Any:
        return [{"name": "basic"}]

    async def metrics(self, *, openmetrics: bool = False) -> Callable[[], str]:
        return lambda: "# EOF\n" if openmetrics else "up 1\n"

    async def set_log_level(self, level: str, logger: str) -> None:
        logs.set_level(level, logger)

    async def api_counters(self, api: str) -> Health | None:
        return Health() if api in self.current.table.apis else None


@dataclass
class Answer:
    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Control:
    """Calls the control port. Everything that came back stays in `answers`, everything logged in `caplog`."""

    def __init__(self, site: Site, client: TestClient[web.Request, web.Application], folder: Path) -> None:
        self.site = site
        self.client = client
        self.folder = folder
        self.answers: list[Answer] = []
        self.events: list[Event] = []
        site.events.subscribe("*", self.events.append)

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One call; text and bytes go as they are, anything else as JSON. `_` in header names is `-`."""
        data = body if body is None or isinstance(body, (str, bytes, io.IOBase)) else json.dumps(body)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.request(method, path, data=data, headers=sent) as response:
            answer = Answer(response.status, response.headers.copy(), await response.text())
        self.answers.append(answer)
        return answer

    async def tyk(self, method: str, path: str, body: Any = None) -> Answer:
        answer = await self.call(method, f"/tyk{path}", body, X_Tyk_Authorization=SECRET)
        assert answer.headers["Content-Type"].startswith("application/json")
        assert answer.text.endswith("\n")
        return answer

    async def api(self, method: str, path: str, body: Any = None, key: str = ACCESS_KEY) -> Answer:
        return await self.call(method, f"/api{path}", body, Authorization=key)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


Make = Callable[..., Any]


@pytest.fixture
def make_site(tmp_path: Path) -> Callable[..., Site]:
    def make(**flags: object) -> Site:
        folders = {name: str(tmp_path / f"{name}.d") for name in ("apis", "policies", "plugins")}
        settings = load_settings(None, {}, {**folders, "state": str(tmp_path / "var"), **flags})
        clock = FakeClock()
        store = MemoryStore(clock)
        return Site(
            settings,
            clock,
            store,
            SessionDirectory(store.sessions, clock),
            Passwords(clock, cost=4),
            certificates=CertificateStore(FolderCertificates(settings.state / "certificates")),
        )

    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return make


@pytest.fixture
async def control(make_site: Callable[..., Site], tmp_path: Path, caplog: Any) -> AsyncIterator[Control]:
    caplog.set_level(logging.DEBUG)
    site = make_site()
    await site.reload("start")
    server = TestServer(application(site))
    await server.start_server(access_log=None)
    async with TestClient(server) as client:
        yield Control(site, client, tmp_path)
    await site.passwords.close()
