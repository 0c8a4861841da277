"""Every extension point, on one page. Hooks are asked while compiling or starting, never per request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiogate.markers import hookspec

if TYPE_CHECKING:
    from aiohttp import web

    from aiogate.chain.contracts import AuthenticatorKind, MiddlewareKind, Services


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """Functions that run when the gateway has started, and before it stops."""

    started: Callable[[], Awaitable[None] | None] | None = None
    stopping: Callable[[], Awaitable[None] | None] | None = None


@hookspec
def aiogate_middleware() -> Sequence[MiddlewareKind | AuthenticatorKind] | MiddlewareKind | AuthenticatorKind:
    """Say what this plugin can put into a chain. Asked once, when the plugin is loaded."""
    raise AssertionError("a hook specification is not called")


@hookspec
def aiogate_lifecycle(services: Services) -> Lifecycle | None:
    """Say what is to run at start and at stop of the gateway. Asked once per generation of the plugin's code."""
    raise AssertionError("a hook specification is not called")


@hookspec
def aiogate_control_routes(services: Services) -> Sequence[web.RouteDef]:
    """Add routes to the control port, behind the control secret, under `/plugins/<plugin name>`."""
    raise AssertionError("a hook specification is not called")
