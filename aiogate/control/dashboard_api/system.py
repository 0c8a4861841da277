"""`/api/system/status` and `/api/system/nodes`: what `aiogate status` prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import orjson
from aiohttp import web

from aiogate.control.dashboard_api.caller import CALLER
from aiogate.control.describe import described
from aiogate.control.envelopes import encode, reply
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.nodes import nodes
from aiogate.control.routes import Route
from aiogate.domain.user import FIRST_USER

__all__ = ["DashboardSystem"]

_FOR_ALL: Final = ("version", "generation", "since", "started", "draining")


class DashboardSystem:
    __slots__ = ("_gateway",)

    def __init__(self, gateway: ControlledGateway) -> None:
        self._gateway = gateway

    def routes(self) -> Iterable[Route]:
        return [("GET", "/api/system/status", self.status), ("GET", "/api/system/nodes", self.nodes)]

    @described("Show the state of the gateway")
    async def status(self, request: web.Request) -> web.Response:
        """The whole of it for the operator and the first user; what names no other organisation's files for others."""
        status = await self._gateway.status()
        caller = request.get(CALLER)
        if caller is None or caller.id == FIRST_USER:
            return reply(status)
        shown = orjson.loads(encode(status))
        return reply({name: shown[name] for name in _FOR_ALL if name in shown})

    @described("List the gateways on this store")
    async def nodes(self, request: web.Request) -> web.Response:
        return reply({"nodes": await nodes(self._gateway)})
