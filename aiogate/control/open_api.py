"""`/hello` and `/ready`: open, for load balancers. `/metrics`, for Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from aiohttp import web

from aiogate.control import access
from aiogate.control.envelopes import reply
from aiogate.control.operations import health
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.routes import Route
from aiogate.errors import Rejected

__all__ = ["routes"]

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def routes(gateway: ControlledGateway) -> Iterable[Route]:
    async def hello(request: web.Request) -> web.Response:
        return reply(await health.hello(gateway))

    async def ready(request: web.Request) -> web.Response:
        is_ready, body = await health.ready(gateway)
        return reply(body, 200 if is_ready else 503)

    async def metrics(request: web.Request) -> web.Response:
        if access.metrics_closed(gateway.settings) and not access.has_secret(request, gateway.secret):
            raise Rejected(403, access.GATEWAY_REFUSED)
        openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
        # With thousands of APIs the text takes longer than requests should wait.
        text = await asyncio.to_thread(gateway.metrics(openmetrics=openmetrics))
        return web.Response(body=text.encode(), headers={"Content-Type": _OPENMETRICS if openmetrics else _TEXT})

    rows = (("/hello", hello), ("/ready", ready), ("/metrics", metrics))
    return [(method, *row) for row in rows for method in ("GET", "HEAD")]
