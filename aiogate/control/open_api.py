"""`/hello` and `/ready`: open, for load balancers."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from aiogate.control.envelopes import reply
from aiogate.control.operations import health
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.routes import Route

__all__ = ["routes"]


def routes(gateway: ControlledGateway) -> Iterable[Route]:
    async def hello(request: web.Request) -> web.Response:
        return reply(await health.hello(gateway))

    async def ready(request: web.Request) -> web.Response:
        is_ready, body = await health.ready(gateway)
        return reply(body, 200 if is_ready else 503)

    return [(method, *row) for row in (("/hello", hello), ("/ready", ready)) for method in ("GET", "HEAD")]
