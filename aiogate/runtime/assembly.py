"""The one module that knows all rooms: from settings to a gateway that could serve.

`assemble` reads top to bottom as the list of parts. Nothing here decides anything; the sockets are `worker`'s.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiogate.chain.contracts import Services
from aiogate.clock import Clock, SystemClock
from aiogate.config.definition import Definition
from aiogate.config.settings import Settings, SettingsMistaken
from aiogate.config.units import Rate
from aiogate.credentials.certificates import CertificateStore, FolderCertificates
from aiogate.credentials.failures import Failures, Limit
from aiogate.credentials.passwords import Passwords
from aiogate.credentials.tokens import Tokens
from aiogate.domain.policy import PolicySet
from aiogate.errors import Diagnostic, DiagnosticsFound
from aiogate.proxy.pool import UpstreamPools
from aiogate.proxy.router import Current, RouteTable
from aiogate.runtime.access import DashboardUser, DashboardUsers, kept_secret
from aiogate.runtime.gateway import Gateway
from aiogate.runtime.health import HealthSampler
from aiogate.runtime.last_good import Fallback
from aiogate.runtime.named_files import access_log_mistake
from aiogate.runtime.peers import GatewayListener
from aiogate.runtime.plugin_hooks import PluginHooks
from aiogate.runtime.reload import Generation, Loader
from aiogate.stores.base import Store, StoreUnavailable
from aiogate.stores.certificates import SharedCertificates
from aiogate.stores.factory import open_store
from aiogate.stores.memory import MemoryStore
from aiogate.stores.organisations import Organisations
from aiogate.stores.repositories import SessionDirectory
from aiogate.telemetry.decisions import Decision
from aiogate.telemetry.events import EventBus
from aiogate.turns import in_small_turns

__all__ = ["Place", "all_mistakes", "assemble", "check"]


@dataclass(frozen=True, slots=True)
class Place:
    """A worker among several: the number of what they serve, and where its files are if not where they are declared."""

    generation: int
    served: Settings | None


@asynccontextmanager
async def assemble(
    settings: Settings,
    read_settings: Callable[[], Settings],
    clock: Clock | None = None,
    own: Sequence[Definition] = (),
    fallback: Fallback | None = None,
    place: Place | None = None,
) -> AsyncIterator[Gateway]:
    """A gateway with its first generation loaded, its store open; both are let go at the end.

    `own` are definitions that every generation has beside the operator's, unseen in lists. With `fallback` the first
    generation is made of the files that it names. `place` is that of a worker among several.

    Raises `DiagnosticsFound` when something that was declared cannot be served.
    """
    clock = clock or SystemClock()
    store = open_store(settings, clock)
    try:
        await store.open()
    except StoreUnavailable as trouble:
        file = str(settings.state)
        raise DiagnosticsFound([Diagnostic(file, 0, 0, "store_unavailable", str(trouble))]) from trouble
    try:
        organisations = Organisations(store.sessions)
        secret = settings.control.secret or kept_secret(settings.state / "control.secret")
        services = services_of(settings, store, clock, secret)
        current = Current(RouteTable(0, (), PolicySet(()), clock.now()))

        def record(decision: Decision) -> None:
            store.decisions.append(decision)

        gateway = Gateway(
            settings=settings,
            read_settings=read_settings,
            services=services,
            store=store,
            current=current,
            loader=Loader(services, record, clock.now, own),
            health=HealthSampler(clock),
            plugins=PluginHooks(services),
            organisations=organisations,
            secret=secret,
            dashboard=DashboardUsers(
                (DashboardUser("admin", "default", kept_secret(settings.state / "dashboard.key")),)
            ),
            fallback=fallback,
        )
        try:
            await organisations.start(shared=store.counters.asks)
            await services.certificates.start()
            if place is None:
                await gateway.start()
            else:
                await gateway.start(place.generation, place.served)
            if store.peers is not None:
                store.peers.begin(GatewayListener(gateway))
            yield gateway
        finally:
            await organisations.stop()
            await services.certificates.stop()
            await gateway.plugins.stop()
            services.upstreams.close()
            await services.passwords.close()
            await services.tokens.close()
    finally:
        await store.close()


def services_of(settings: Settings, store: Store, clock: Clock, secret: str = "") -> Services:
    """What plugins may touch, on this store. `secret` encrypts private keys where others can read the store."""
    shared = store.counters.asks
    return Services(
        clock=clock,
        sessions=SessionDirectory(
            store.sessions,
            clock,
            fresh=settings.sessions.cache if shared else None,
            stale=settings.sessions.stale,
            announce=store.peers.written if store.peers is not None else None,
        ),
        counters=store.counters,
        passwords=Passwords(
            # All workers together use each core once.
            processes=max(1, (os.cpu_count() or 1) // settings.workers),
            cost=settings.passwords.cost,
            cache_seconds=settings.passwords.cache,
            clock=clock,
            algorithm=settings.passwords.algorithm,
        ),
        failures=Failures(clock, user=_limit(settings.failures.user), address=_limit(settings.failures.address)),
        events=EventBus(),
        upstreams=UpstreamPools(),
        tokens=Tokens(clock),
        certificates=(
            CertificateStore(SharedCertificates(store.vault, clock, settings.sessions.stale), secret)
            if shared
            else CertificateStore(FolderCertificates(settings.state / "certificates"))
        ),
        vault=store.vault,
    )


def _limit(rate: Rate | None) -> Limit | None:
    return Limit(rate.limit, rate.window) if rate is not None else None


async def check(settings: Settings) -> Generation:
    """Read, validate and compile everything as a start would, without opening a store or a socket.

    Raises `DiagnosticsFound` with every mistake.
    """
    clock = SystemClock()
    services = services_of(settings, MemoryStore(clock), clock)
    found = list(access_log_mistake(settings))
    try:
        with in_small_turns(serving=False):
            generation = await Loader(services, lambda decision: None, clock.now).load(settings, None)
    except DiagnosticsFound as mistakes:
        raise DiagnosticsFound([*found, *mistakes.diagnostics]) from mistakes
    finally:
        await services.passwords.close()
    if found:
        raise DiagnosticsFound(found)
    return generation


async def all_mistakes(mistakes: DiagnosticsFound) -> DiagnosticsFound:
    """Mistakes in settings, with those of the declared files, where it can be said which they are."""
    if not isinstance(mistakes, SettingsMistaken) or mistakes.readable is None:
        return mistakes
    try:
        await check(mistakes.readable)
    except DiagnosticsFound as further:
        return DiagnosticsFound([*mistakes.diagnostics, *further.diagnostics])
    return mistakes
