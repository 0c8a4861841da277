"""`/api/system/status` and `/api/system/nodes`: what `aiogate status` prints."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from aiogate.control.describe import described
from aiogate.control.envelopes import reply
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.nodes import nodes
from aiogate.control.routes import Route

__all__ = ["DashboardSystem"]


class DashboardSystem:
    __slots__ = ("_gateway",)

    def __init__(self, gateway: ControlledGateway) -> None:
        self._gateway = gateway

    def routes(self) -> Iterable[Route]:
        return [("GET", "/api/system/status", self.status), ("GET", "/api/system/nodes", self.nodes)]

    @described("Show the state of the gateway")
    async def status(self, request: web.Request) -> web.Response:
        return reply(await self._gateway.status())

    @described("List the gateways on this store")
    async def nodes(self, request: web.Request) -> web.Response:
        return reply({"nodes": await nodes(self._gateway)})
