"""`/plugins/<plugin>/…`: routes that plugins add by the hook `aiogate_control_routes`, behind the gateway's secret."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from aiogate.control import access
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.routes import Route
from aiogate.errors import Rejected

__all__ = ["routes"]


def routes(gateway: ControlledGateway) -> Iterable[Route]:
    """One route for all plugins: which ones there are changes with every reload, and an application's routes do not."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if not access.has_secret(request, gateway.secret):
            raise Rejected(403, access.GATEWAY_REFUSED)
        return await gateway.plugins.handle(request.match_info["plugin"], request)

    return [("*", "/plugins/{plugin:[^/]+}/{path:.*}", handle)]
