"""`/hello` and `/ready`: open, for load balancers. `/metrics`, for Prometheus. `/openapi.json`, for clients."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import cache, partial
from typing import Final

from aiohttp import web

from aiogate.control import access
from aiogate.control.describe import described, document
from aiogate.control.envelopes import reply
from aiogate.control.operations import health
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.routes import Route
from aiogate.errors import Rejected

__all__ = ["description", "routes"]

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def routes(gateway: ControlledGateway) -> Iterable[Route]:
    @described("Say that the process lives")
    async def hello(request: web.Request) -> web.Response:
        return reply(await health.hello(gateway))

    @described("Say whether requests can be served", refuses=(503,))
    async def ready(request: web.Request) -> web.Response:
        is_ready, body = await health.ready(gateway)
        return reply(body, 200 if is_ready else 503)

    @described("Show counts for Prometheus", refuses=(403,), answers=("text/plain", "application/openmetrics-text"))
    async def metrics(request: web.Request) -> web.Response:
        if access.metrics_closed(gateway.settings) and not access.has_secret(request, gateway.secret):
            raise Rejected(403, access.GATEWAY_REFUSED)
        openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
        # With thousands of APIs the text takes longer than requests should wait.
        text = await asyncio.to_thread(await gateway.metrics(openmetrics=openmetrics))
        return web.Response(body=text.encode(), headers={"Content-Type": _OPENMETRICS if openmetrics else _TEXT})

    rows = (("/hello", hello), ("/ready", ready), ("/metrics", metrics))
    return [(method, *row) for row in rows for method in ("GET", "HEAD")]


def description(others: Iterable[Route]) -> Iterable[Route]:
    """The route of the document that describes `others` and itself, made when it is first asked for."""

    @described("Describe this API")
    async def describe(request: web.Request) -> web.Response:
        return reply(await asyncio.to_thread(shown))

    rows: list[Route] = [("GET", "/openapi.json", describe)]
    shown = cache(partial(document, [*others, *rows]))
    return rows
