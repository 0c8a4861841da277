"""The part of the running gateway that the management side uses, as a protocol.

`runtime.gateway.Gateway` is the real one; tests assemble another from the same stores. Only plain values come out of
the views: frozen dataclasses that are shown as they are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from aiohttp import web

    from aiogate.clock import Clock
    from aiogate.config.definition import Definition
    from aiogate.config.loader import Declared
    from aiogate.config.settings import Settings
    from aiogate.credentials.certificates import CertificateStore
    from aiogate.credentials.passwords import Passwords
    from aiogate.domain.policy import PolicySet
    from aiogate.errors import Diagnostic
    from aiogate.stores.base import Node, Store
    from aiogate.stores.organisations import Organisations
    from aiogate.stores.repositories import SessionDirectory
    from aiogate.telemetry.events import EventBus

__all__ = ["ApiHealth", "ControlledGateway", "DashboardUser", "ReloadVerdict", "ServedApi", "Table"]


class ServedApi(Protocol):
    """One API of the current generation."""

    @property
    def definition(self) -> Definition: ...


class Table(Protocol):
    """The current generation: what requests are matched against."""

    @property
    def generation(self) -> int:
        """Counts from 1; 0: nothing was loaded yet."""
        ...

    @property
    def policies(self) -> PolicySet: ...

    @property
    def apis(self) -> Mapping[str, ServedApi]:
        """Served APIs by id."""
        ...


class Current(Protocol):
    """Holds the one reference that a reload swaps."""

    @property
    def table(self) -> Table: ...


class ReloadVerdict(Protocol):
    """What became of one reload."""

    @property
    def ok(self) -> bool: ...

    @property
    def generation(self) -> int:
        """The generation that serves after the reload, refused or not."""
        ...

    @property
    def at(self) -> float:
        """Epoch seconds."""
        ...

    @property
    def seconds(self) -> float: ...

    @property
    def diagnostics(self) -> Sequence[Diagnostic]: ...

    @property
    def changed(self) -> Any:
        """What the reload changed, as plain values."""
        ...


class ApiHealth(Protocol):
    """Counters of one API over the last sample, as `/tyk/health` shows them. Rates are per second."""

    @property
    def throttled_per_second(self) -> float: ...

    @property
    def quota_violations_per_second(self) -> float: ...

    @property
    def key_failures_per_second(self) -> float: ...

    @property
    def average_upstream_latency(self) -> float:
        """Milliseconds."""
        ...

    @property
    def requests_per_second(self) -> float: ...


class DashboardUser(Protocol):
    """Who calls the Dashboard API."""

    @property
    def org(self) -> str: ...


class DashboardUsers(Protocol):
    def find(self, access_key: str) -> DashboardUser | None:
        """The user of an access key, compared in constant time; None: nobody's."""
        ...


class PluginDoors(Protocol):
    def handle(self, plugin: str, request: web.Request) -> Awaitable[web.StreamResponse]:
        """Serve a call to a plugin's own route. Raises aiohttp's 404 and 405."""
        ...


class ControlledGateway(Protocol):
    """What the control application needs of a gateway."""

    @property
    def settings(self) -> Settings: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def store(self) -> Store: ...

    @property
    def sessions(self) -> SessionDirectory: ...

    @property
    def organisations(self) -> Organisations: ...

    @property
    def passwords(self) -> Passwords: ...

    @property
    def certificates(self) -> CertificateStore: ...

    @property
    def events(self) -> EventBus: ...

    @property
    def current(self) -> Current: ...

    @property
    def last_reload(self) -> ReloadVerdict | None: ...

    @property
    def fallback(self) -> object | None:
        """What is served in place of declared files that have mistakes, for people; None: nothing is."""
        ...

    @property
    def plugins(self) -> PluginDoors: ...

    @property
    def draining(self) -> bool:
        """Whether the process is on its way out."""
        ...

    @property
    def secret(self) -> str: ...

    @property
    def dashboard(self) -> DashboardUsers: ...

    @property
    def control_listener(self) -> tuple[str, int]:
        """Address and port that the control API is bound to."""
        ...

    def reload(self, reason: str) -> Awaitable[ReloadVerdict]: ...

    def declared(self) -> Awaitable[Declared]:
        """What the files declare now: what a reload would serve. Files with mistakes are left out."""
        ...

    def rehearse(self, instead: Mapping[Path, bytes | None]) -> Awaitable[Sequence[Diagnostic]]:
        """What a reload would say if these files had these bytes (None: were not there). Nothing is served."""
        ...

    def status(self) -> Awaitable[Any]: ...

    def node(self, id: str = "") -> Node:
        """What others see of this gateway."""
        ...

    def routes_view(self, *, method: str | None = None, path: str | None = None, host: str | None = None) -> Any:
        """The route table; with a path, also which API, version and endpoint would take such a request, and why."""
        ...

    def chain_view(self, api: str) -> Any:
        """The middleware of an API in order; None: no such API."""
        ...

    def plugins_view(self) -> Any: ...

    def metrics(self, *, openmetrics: bool = False) -> Awaitable[Callable[[], str]]:
        """Makes the text that Prometheus reads; what is returned may be called in another thread."""
        ...

    def set_log_level(self, level: str, logger: str) -> Awaitable[None]: ...

    def api_counters(self, api: str) -> Awaitable[ApiHealth | None]:
        """None: no such API."""
        ...
