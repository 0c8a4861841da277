"""The hooks of plugins that are not in a chain: what runs at start and stop, and routes on the control port.

A plugin whose code did not change keeps running through a reload. Changed code starts before the swap, so that a plugin
that cannot start refuses the reload, and the code it replaces stops after the swap.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from aiohttp import web

from aiogate.errors import FAILURES, Diagnostic, DiagnosticsFound

if TYPE_CHECKING:
    from aiogate.chain.contracts import Services
    from aiogate.chain.hookspecs import Lifecycle
    from aiogate.chain.plugboard import PlugBoard

__all__ = ["PluginHooks", "Running"]

_log = logging.getLogger("aiogate.plugins")


@dataclass(frozen=True, slots=True)
class Running:
    """A started plugin."""

    module: ModuleType
    lifecycle: Lifecycle | None
    routes: web.UrlDispatcher | None


class PluginHooks:
    """What runs of all plugins now."""

    __slots__ = ("_running", "_services")

    def __init__(self, services: Services) -> None:
        self._services = services
        self._running: Mapping[str, Running] = {}

    async def prepare(self, board: PlugBoard) -> Mapping[str, Running]:
        """Start what is new on this board. Raises `DiagnosticsFound`, with everything stopped again, if one cannot."""
        prepared: dict[str, Running] = {}
        found: list[Diagnostic] = []
        for name, module in board.modules.items():
            running = self._running.get(name)
            if running is not None and running.module is module:
                prepared[name] = running
                continue
            try:
                prepared[name] = await self._start(board, name, module)
            except FAILURES as error:
                _log.exception("plugin %s could not start", name)
                message = f"the plugin {name} could not start: {type(error).__name__}: {error}"
                found.append(Diagnostic(module.__file__ or name, 1, 1, "plugin_broken", message))
        if found:
            await self.abandon(prepared)
            raise DiagnosticsFound(found)
        return prepared

    async def commit(self, prepared: Mapping[str, Running]) -> None:
        """Make these the running ones and stop what they replace."""
        replaced = {name: run for name, run in self._running.items() if prepared.get(name) is not run}
        self._running = prepared
        await self._stop(replaced)

    async def abandon(self, prepared: Mapping[str, Running]) -> None:
        """Stop what was started for a board that will not serve."""
        await self._stop({name: run for name, run in prepared.items() if run is not self._running.get(name)})

    async def stop(self) -> None:
        """Stop everything."""
        await self.commit({})

    async def handle(self, plugin: str, request: web.Request) -> web.StreamResponse:
        """Serve a call to `/plugins/<plugin>/…` by the plugin's own routes. Raises aiohttp's 404 and 405."""
        running = self._running.get(plugin)
        if running is None or running.routes is None:
            raise web.HTTPNotFound
        match = await running.routes.resolve(request)
        if match.http_exception is not None:
            raise match.http_exception
        request.match_info.update(match)
        return await match.handler(request)

    async def _start(self, board: PlugBoard, name: str, module: ModuleType) -> Running:
        lifecycle = board.lifecycle(name, self._services)
        routes: web.UrlDispatcher | None = None
        for route in board.control_routes(name, self._services):
            if routes is None:
                routes = web.UrlDispatcher()
            path = f"/plugins/{name}/{route.path.lstrip('/')}"
            web.RouteDef(route.method, path, route.handler, route.kwargs).register(routes)
        if lifecycle is not None and lifecycle.started is not None:
            pending = lifecycle.started()
            if inspect.isawaitable(pending):
                await pending
        return Running(module, lifecycle, routes)

    @staticmethod
    async def _stop(replaced: Mapping[str, Running]) -> None:
        for name, running in replaced.items():
            if running.lifecycle is None or running.lifecycle.stopping is None:
                continue
            try:
                pending = running.lifecycle.stopping()
                if inspect.isawaitable(pending):
                    await pending
            except FAILURES:
                _log.exception("plugin %s failed while it was stopped", name)
