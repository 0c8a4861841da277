"""The running gateway: what is served now, and how it is replaced.

One attribute changes on a reload: `current.table`. Reloads are serialised and coalesced: whoever asks while one runs
shares the next one, so that a thousand signals make two reloads, not a thousand.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multidict import CIMultiDict, CIMultiDictProxy

from aiogate import __version__
from aiogate.chain.exchange import Exchange
from aiogate.chain.organisation import guard
from aiogate.config.settings import SettingsMistaken
from aiogate.errors import Diagnostic, DiagnosticsFound, Problem
from aiogate.proxy.body import NO_BODY
from aiogate.proxy.paths import Canonical, canonical
from aiogate.runtime import merged, readings, views
from aiogate.runtime.reload import (
    Change,
    Generation,
    Loader,
    ReloadVerdict,
    declare,
    difference,
    discard,
    let_go,
    retire,
    settle,
)
from aiogate.stores.base import Node
from aiogate.telemetry import logs
from aiogate.telemetry.metrics import exposition
from aiogate.turns import in_small_turns

if TYPE_CHECKING:
    from aiogate.chain.contracts import Services
    from aiogate.clock import Clock
    from aiogate.config.loader import Declared
    from aiogate.config.settings import Settings
    from aiogate.credentials.certificates import CertificateStore
    from aiogate.credentials.passwords import Passwords
    from aiogate.proxy.router import Current, RouteTable
    from aiogate.runtime.access import DashboardUsers
    from aiogate.runtime.crew import Crew
    from aiogate.runtime.health import ApiHealth, HealthSampler
    from aiogate.runtime.last_good import Fallback
    from aiogate.runtime.plugin_hooks import PluginHooks, Running
    from aiogate.stores.base import Store
    from aiogate.stores.organisations import Organisations
    from aiogate.stores.repositories import SessionDirectory
    from aiogate.telemetry.access_log import AccessLog
    from aiogate.telemetry.events import EventBus

__all__ = ["Addresses", "Gateway", "Status"]

_log = logging.getLogger("aiogate.reload")
RESTART_ONLY = (
    "listen",
    "control",
    "state",
    "store",
    "redis",
    "sessions",
    "limits_without_store",
    "workers",
    "watch",
    "timeouts",
    "limits",
    "trusted_proxies",
    "passwords",
    "access_log",
)
"""Settings that a reload validates and a start applies."""


@dataclass(frozen=True, slots=True)
class Status:
    """What `aiogate status` prints."""

    version: str
    pid: int
    """Of the process that answers; `pids` has all that take requests."""
    generation: int
    since: float
    """Epoch seconds at which this generation began to serve."""
    started: float
    workers: int
    apis: int
    policies: int
    store: str
    listen: tuple[str, ...]
    """URLs of the gateway's own listeners."""
    control: str
    """URL of the control API."""
    requests_running: int
    connections: int
    tunnels: int
    """WebSockets that are open."""
    draining: bool
    last_reload: ReloadVerdict | None
    pids: tuple[int, ...] = ()
    fallback: str = ""
    """What is served instead of the declared files since a start on which they had mistakes."""
    ejected: tuple[views.EjectedView, ...] = ()
    """Targets of upstreams that get no requests for a while."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """URLs of the gateway's listeners and of the control API; `private` leads to the latter on a port of its own.

    `started` is when, in epoch seconds.
    """

    listen: tuple[str, ...]
    control: str
    private: str
    started: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """A generation that was made and does not serve yet; `hooks` are its started plugins."""

    settings: Settings
    generation: Generation
    hooks: Mapping[str, Running]
    change: Change
    reason: str


class Gateway:
    """One process of the gateway. Made by `runtime.assembly`; `control` and `worker` use it."""

    def __init__(
        self,
        *,
        settings: Settings,
        read_settings: Callable[[], Settings],
        services: Services,
        store: Store,
        current: Current,
        loader: Loader,
        health: HealthSampler,
        plugins: PluginHooks,
        organisations: Organisations,
        secret: str,
        dashboard: DashboardUsers,
        fallback: Fallback | None = None,
    ) -> None:
        self.settings = settings
        self.services = services
        self.store = store
        self.current = current
        self.secret = secret
        self.dashboard = dashboard
        self.clock: Clock = services.clock
        self.sessions: SessionDirectory = services.sessions
        self.passwords: Passwords = services.passwords
        self.certificates: CertificateStore = services.certificates
        self.events: EventBus = services.events
        self.started = self.clock.now()
        self.generation: Generation | None = None
        self.last_reload: ReloadVerdict | None = None
        self.fallback = fallback
        self.accepted = asyncio.Event()
        """Set by each accepted load."""
        self.draining = False
        self.listen_addresses: tuple[str, ...] = ()
        self.control_listener: tuple[str, int] = ("127.0.0.1", 0)
        """Address and port that the control API is bound to, which with `listen: same` nobody is told."""
        self.listen_urls: tuple[str, ...] = ()
        self.control_url = ""
        self.private_url = ""
        self.connections: Callable[[], int] = lambda: 0
        self.plugins = plugins
        self.access_log: AccessLog | None = None
        self._read_settings = read_settings
        self._loader = loader
        self._health = health
        self.organisations = organisations
        organisations.on_change(self._guard_apis)
        self.crew: Crew | None = None
        """All workers, where there are several."""
        self._prepared: Prepared | None = None
        self._began = 0.0
        self._reloading = asyncio.Lock()
        self._next: asyncio.Task[ReloadVerdict] | None = None

    async def start(self, number: int = 1, served: Settings | None = None) -> None:
        """Load the first generation, from kept files if the start falls back on them. Raises `DiagnosticsFound`.

        `number` is what other workers call the generation, and `served` says where its files are, when these are no
        longer the declared ones.
        """
        fallback = self.fallback
        self._began = self.clock.monotonic()
        kept = fallback.restored.serves(self.settings) if fallback is not None else served
        await self._serve(await self._load(self.settings, "start", kept, number))
        if fallback is None:
            self.accepted.set()
            return
        taken = self.clock.monotonic() - self._began
        self.last_reload = ReloadVerdict(False, number, self.clock.now(), taken, "start", fallback.mistakes)
        _log.error("the declared files have mistakes, and what is served is %s:\n%s", fallback,
                   "\n".join(str(mistake) for mistake in fallback.mistakes))  # fmt: skip

    def addresses(self) -> Addresses:
        """Where this gateway is found."""
        return Addresses(self.listen_urls, self.control_url, self.private_url, self.started)

    def reload(self, reason: str) -> asyncio.Future[ReloadVerdict]:
        """Reload everything, in all workers; the verdict of the first reload that began after this call."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._reload_in_turn(reason))
        return asyncio.shield(self._next)

    async def _reload_in_turn(self, reason: str) -> ReloadVerdict:
        async with self._reloading:
            self._next = None
            if self.crew is not None:
                return await self.crew.reload(reason)
            if mistakes := await self.prepare(reason):
                return await self.abandon(reason, mistakes)
            return await self.commit(self.current.table.generation + 1)

    async def prepare(self, reason: str) -> Sequence[Diagnostic]:
        """Make the next generation and hold it: `commit` or `abandon` it. The mistakes that are in its way, or none."""
        self._began = self.clock.monotonic()
        try:
            settings = await asyncio.to_thread(self._read_settings)
            self._prepared = await self._load(settings, reason)
        except SettingsMistaken as mistakes:
            return DiagnosticsFound([*mistakes.diagnostics, *await self._further(mistakes.readable)]).diagnostics
        except DiagnosticsFound as mistakes:
            return mistakes.diagnostics
        return ()

    async def commit(self, generation: int) -> ReloadVerdict:
        """Serve what was prepared, which is the generation of this number."""
        prepared, self._prepared = self._prepared, None
        assert prepared is not None
        assert prepared.generation.number == generation
        await self._serve(prepared)
        self.fallback = None
        self.accepted.set()
        return self._concluded(prepared.reason, (), prepared.change)

    async def abandon(self, reason: str, diagnostics: Sequence[Diagnostic]) -> ReloadVerdict:
        """Let go of what was prepared, if anything was: the reload is refused for these mistakes."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            await self.plugins.abandon(prepared.hooks)
            discard(prepared.generation.table.apis.values(), prepared.generation.board, self.generation)
        return self._concluded(reason, diagnostics, Change())

    def _concluded(self, reason: str, diagnostics: Sequence[Diagnostic], change: Change) -> ReloadVerdict:
        number = self.current.table.generation
        verdict = ReloadVerdict(
            ok=not diagnostics,
            generation=number,
            at=self.clock.now(),
            seconds=self.clock.monotonic() - self._began,
            reason=reason,
            diagnostics=tuple(diagnostics),
            changed=change,
        )
        self.last_reload = verdict
        if self.access_log is not None:
            self.access_log.reopen()
        self.services.metrics.reloads["accepted" if verdict.ok else "refused"] += 1
        if self.crew is not None and self.crew.birth.index:
            return verdict  # one of all workers tells the log
        if verdict.ok:
            _log.info("reload by %s: generation %d serves, %s", reason, number, change)
        else:
            _log.error("reload by %s refused, generation %d keeps serving:\n%s", reason, number,
                       "\n".join(str(diagnostic) for diagnostic in diagnostics))  # fmt: skip
        return verdict

    async def _further(self, readable: Settings | None) -> Sequence[Diagnostic]:
        """The mistakes of the declared files, beside those of the settings."""
        if readable is None:
            return ()
        try:
            with in_small_turns():
                unserved = await self._loader.load(readable, self.generation)
        except DiagnosticsFound as mistakes:
            return mistakes.diagnostics
        discard(unserved.table.apis.values(), unserved.board, self.generation)
        return ()

    async def _load(self, settings: Settings, reason: str, kept: Settings | None = None, first: int = 1) -> Prepared:
        """A generation that could serve; `kept` says where the files are that are read in place of the declared ones.

        Raises `DiagnosticsFound`.
        """
        old = self.generation
        waiting = tuple(name for name in RESTART_ONLY if differs(name, settings, self.settings))
        with in_small_turns(serving=old is not None):
            new = await self._loader.load(kept or settings, old, first)
            change = difference(old, new, waiting)
            settle(change)
        try:
            hooks = await self.plugins.prepare(new.board)
        except DiagnosticsFound:
            discard(new.table.apis.values(), new.board, old)
            raise
        return Prepared(settings, new, hooks, change, reason)

    async def _serve(self, prepared: Prepared) -> None:
        """The swap: from here on requests meet the new generation. What it replaces is let go."""
        old, new = self.generation, prepared.generation
        known = old.declared.warnings if old is not None else ()
        for warning in new.declared.warnings:
            if warning not in known:
                _log.warning("%s", warning)
        self.settings = replace_reloadable(self.settings, prepared.settings)
        if self.organisations.in_force:
            for api in new.table.apis.values():
                guard(api, self.organisations.in_force)
        self.generation = new
        self.current.table = new.table
        self.current.tls = new.tls.over(self.current.tls)
        for warning in new.tls.warnings:
            _log.warning("%s", warning)
        await self.plugins.commit(prepared.hooks)
        if old is not None:
            with in_small_turns():
                await retire(old, new)
                parts = old.parts()
                del old
                await asyncio.to_thread(let_go, parts)

    def node(self, id: str = "") -> Node:
        """What others see of this gateway; `id` is its name among them."""
        last = self.last_reload
        return Node(
            id=id or f"{os.getpid()}",
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            generation=self.current.table.generation,
            started=self.started,
            health="draining" if self.draining else "serving",
            last_reload_ok=last is None or last.ok,
            control=self.control_url.partition("://")[2],
            own=True,
        )

    def _guard_apis(self) -> None:
        """An organisation has a session now, or none any more: its APIs change their chains."""
        for api in self.current.table.apis.values():
            guard(api, self.organisations.in_force)

    async def declared(self) -> Declared:
        """What the files declare now, read anew: what a reload would serve. Files with mistakes are left out."""
        before = self.generation
        declared, _, _ = await asyncio.to_thread(declare, self.settings, before)
        return declared

    async def rehearse(self, instead: Mapping[Path, bytes | None]) -> Sequence[Diagnostic]:
        """What a reload would say if these files had these bytes (None: were not there). Nothing is served."""
        async with self._reloading:
            before = self.generation
            try:
                with in_small_turns():
                    rehearsed = await self._loader.load(self.settings, before, instead=instead)
            except DiagnosticsFound as mistakes:
                return mistakes.diagnostics
            discard(rehearsed.table.apis.values(), rehearsed.board, before)
        return ()

    # What all workers know together

    def answers(self) -> Mapping[str, Callable[[Any], Any]]:
        """What this process says when all are asked; each is a function of the question's argument."""
        return {
            "status": lambda _: self._own_status(),
            "metrics": lambda _: asyncio.to_thread(readings.families(self)),
            "counters": self._own_counters,
            "log level": lambda wanted: logs.set_level(*wanted),
        }

    async def status(self) -> Status:
        """The state of the gateway; requests and connections are those of all workers."""
        own = self._own_status()
        return own if self.crew is None else merged.status(own, await self.crew.gather("status"))

    async def metrics(self, *, openmetrics: bool = False) -> Callable[[], str]:
        """Makes the text that Prometheus reads; what is returned may be called in another thread."""
        if self.crew is None:
            shown = readings.families(self)
            return lambda: exposition(shown(), openmetrics=openmetrics)
        counted = await self.crew.gather("metrics")
        return lambda: exposition(merged.families(counted), openmetrics=openmetrics)

    async def api_counters(self, api: str) -> ApiHealth | None:
        """None: no such API."""
        if self.crew is None:
            return self._own_counters(api)
        return merged.counters(await self.crew.gather("counters", api))

    async def set_log_level(self, level: str, logger: str) -> None:
        """Change the level of one of `logs.LOGGERS`, in all workers."""
        if self.crew is None:
            logs.set_level(level, logger)
        else:
            await self.crew.gather("log level", (level, logger))

    def _own_status(self) -> Status:
        table = self.current.table
        return Status(
            version=__version__,
            pid=os.getpid(),
            pids=(os.getpid(),),
            generation=table.generation,
            since=table.made_at,
            started=self.started,
            workers=1,
            apis=len(table.apis),
            policies=len(table.policies),
            store=self.store.name,
            listen=self.listen_urls,
            control=self.control_url,
            requests_running=sum(api.lease.active for api in table.apis.values()),
            connections=self.connections(),
            tunnels=self.services.metrics.tunnels_open,
            draining=self.draining,
            last_reload=self.last_reload,
            fallback=str(self.fallback or ""),
            ejected=views.ejected_views(self.services.upstreams.groups.listed()),
        )

    def routes_view(
        self, *, method: str | None = None, path: str | None = None, host: str | None = None
    ) -> views.RoutesView:
        """The route table; with a path, also which API would take such a request, and why."""
        table = self.current.table
        routes = tuple(views.route_view(api) for api in table.apis.values())
        shown = views.RoutesView(table.generation, tuple(sorted(routes, key=lambda route: route.listen_path)))
        if path is None:
            return shown
        return replace(shown, match=self._match(method or "GET", path, host or ""))

    def _match(self, method: str, path: str, host: str) -> views.MatchView:
        asked = canonical(path)
        if isinstance(asked, Problem):
            return views.MatchView("", "", "", f"the path is refused: {asked.detail or asked.message}")
        api = self.current.table.match(host, asked.path)
        if api is None:
            return views.MatchView("", "", "", f"no API listens on {asked.path}" + (f" at host {host}" if host else ""))
        exchange = asked_exchange(method, asked, host, self.current.table)
        chain = api.select(exchange)
        version = exchange.version or f"none: {chain_problem(exchange)}"
        steps = tuple(
            step.name
            for step in chain.steps
            if step.match is None or step.match.applies(method, exchange.tail, exchange.version or "")
        )
        reason = f"{api.listen_path} is the longest listen path that {asked.path} begins with"
        if api.host:
            reason += f", and host {api.host} goes before APIs without a host"
        why = f"{method} {asked.path}: {reason}"
        return views.MatchView(api.id, api.listen_path, exchange.tail, why, version, steps)

    def chain_view(self, api: str) -> Sequence[views.ChainView] | None:
        """The chain of each version of an API; None: no such API."""
        compiled = self.current.table.apis.get(api)
        return views.chain_views(compiled) if compiled is not None else None

    def plugins_view(self) -> Sequence[views.PluginView]:
        return views.plugin_views(self.generation.board) if self.generation is not None else ()

    def _own_counters(self, api: str) -> ApiHealth | None:
        compiled = self.current.table.apis.get(api)
        return self._health.of(compiled) if compiled is not None else None


def asked_exchange(method: str, asked: Canonical, host: str, table: RouteTable) -> Exchange:
    """A request that nobody sent, without headers: to ask the route table about."""
    return Exchange(
        method=method,
        path=asked.path,
        query=asked.query,
        headers=CIMultiDictProxy(CIMultiDict()),
        raw_headers=(),
        body=NO_BODY,
        host=host,
        scheme="http",
        peer="",
        client_ip="",
        trusted_peer=False,
        version_1_1=True,
        request_id="",
        started=0.0,
        policies=table.policies,
        generation=table.generation,
    )


def chain_problem(exchange: Exchange) -> str:
    problem = exchange.version_problem
    return (problem.detail or problem.message) if problem is not None else "the API has no versions"


def differs(name: str, read: Settings, in_force: Settings) -> bool:
    """Whether a setting that only a start applies was changed; certificates of a listener are read at each reload."""
    if name == "listen":
        return [one.shape for one in read.listen] != [one.shape for one in in_force.listen]
    return bool(getattr(read, name) != getattr(in_force, name))


def replace_reloadable(in_force: Settings, read: Settings) -> Settings:
    """The settings read now, where a reload applies them; those in force for the rest."""
    return read.model_copy(
        update={name: getattr(in_force, name) for name in RESTART_ONLY if differs(name, read, in_force)}
    )
