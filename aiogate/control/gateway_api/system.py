"""`/tyk/reload`, `/tyk/health`, and what the command line shows: decisions, shadow, routes, chains, plugins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from aiohttp import web

from aiogate.control.describe import described
from aiogate.control.envelopes import gateway_ok, reply
from aiogate.control.operations.gateway import ControlledGateway, ReloadVerdict
from aiogate.control.operations.health import verdict_view
from aiogate.control.operations.nodes import call_for_reload
from aiogate.control.operations.reads import Reads
from aiogate.control.requests import flag, json_object, text_field, whole_number
from aiogate.control.routes import Route
from aiogate.errors import Rejected
from aiogate.telemetry import logs

__all__ = ["GatewaySystem"]

_log = logging.getLogger("aiogate.control")


class GatewaySystem:
    """What concerns the process as a whole."""

    __slots__ = ("_gateway", "_queued", "_reads")

    def __init__(self, gateway: ControlledGateway, reads: Reads) -> None:
        self._gateway = gateway
        self._reads = reads
        self._queued: set[asyncio.Task[None]] = set()

    def routes(self) -> Iterable[Route]:
        return [
            ("GET", "/tyk/reload", self.reload),
            ("GET", "/tyk/reload/group", self.reload_group),
            ("GET", "/tyk/health", self.health),
            ("GET", "/tyk/decisions", self.decisions),
            ("GET", "/tyk/decisions/{id:[^/]+}", self.decision),
            ("GET", "/tyk/shadow", self.shadow),
            ("GET", "/tyk/routes", self.route_table),
            ("GET", "/tyk/chains/{api:[^/]+}", self.chain),
            ("GET", "/tyk/plugins", self.plugins),
            ("GET", "/tyk/log", self.log_levels),
            ("PUT", "/tyk/log", self.set_log_level),
        ]

    @described("Reload everything", query=("block",), refuses=(422,))
    async def reload(self, request: web.Request) -> web.Response:
        """Queue a reload; with `block=true` wait for its verdict."""
        if not flag(request, "block"):
            task = asyncio.get_running_loop().create_task(self._reload())
            self._queued.add(task)
            task.add_done_callback(self._queued.discard)
            return reply(gateway_ok())
        return _verdict_reply(await self._gateway.reload("control API"))

    @described("Reload all gateways on this store", query=("block",), refuses=(422,))
    async def reload_group(self, request: web.Request) -> web.Response:
        """Call the others to reload, and do so here; with `block=true` wait for the verdict of this gateway."""
        await call_for_reload(self._gateway)
        return await self.reload(request)

    async def _reload(self) -> None:
        verdict = await self._gateway.reload("control API")
        if not verdict.ok:
            _log.warning("a queued reload was refused with %d diagnostics", len(verdict.diagnostics))

    async def finish(self, app: web.Application) -> None:
        """Let queued reloads come to their end before the application goes."""
        await asyncio.gather(*self._queued, return_exceptions=True)

    @described("Show the rates of an API", query=("api_id",), refuses=(400, 404))
    async def health(self, request: web.Request) -> web.Response:
        api = request.query.get("api_id", "")
        if not api:
            raise Rejected(400, "missing api_id parameter")
        health = await self._reads.health(api)
        return reply(
            {
                "throttle_reqests_per_second": health.throttled_per_second,
                "quota_violations_per_second": health.quota_violations_per_second,
                "key_failures_per_second": health.key_failures_per_second,
                "average_upstream_latency": health.average_upstream_latency,
                "average_requests_per_second": health.requests_per_second,
            }
        )

    @described("List the newest refusals", query=("limit", "api"), refuses=(400,))
    async def decisions(self, request: web.Request) -> web.Response:
        limit = whole_number(request, "limit", 100)
        return reply({"decisions": await self._reads.decisions(limit, request.query.get("api"))})

    @described("Say why a request was refused", refuses=(404,))
    async def decision(self, request: web.Request) -> web.Response:
        return reply(await self._reads.decision(request.match_info["id"]))

    @described("List what rules in shadow mode would have refused", query=("limit", "api"), refuses=(400,))
    async def shadow(self, request: web.Request) -> web.Response:
        rules, decisions = await self._reads.shadow(whole_number(request, "limit", 1000), request.query.get("api"))
        return reply({"rules": rules, "decisions": decisions})

    @described("Show the route table", query=("method", "path", "host"))
    async def route_table(self, request: web.Request) -> web.Response:
        query = request.query
        return reply(
            self._gateway.routes_view(method=query.get("method"), path=query.get("path"), host=query.get("host"))
        )

    @described("Show the middleware of an API", refuses=(404,))
    async def chain(self, request: web.Request) -> web.Response:
        return reply(self._reads.chain(request.match_info["api"]))

    @described("List the plugins")
    async def plugins(self, request: web.Request) -> web.Response:
        return reply(self._gateway.plugins_view())

    async def log_levels(self, request: web.Request) -> web.Response:
        return reply({"levels": logs.levels()})

    async def set_log_level(self, request: web.Request) -> web.Response:
        refusal = "Request malformed"
        body = await json_object(request, refusal, self._gateway.settings.timeouts.client_body)
        level, logger = text_field(body, "level", refusal), text_field(body, "logger", refusal) or "aiogate"
        if level not in logs.LEVELS:
            raise Rejected(400, refusal, [f"level: one of {', '.join(logs.LEVELS)}"])
        if logger not in logs.LOGGERS:
            raise Rejected(400, refusal, [f"logger: one of {', '.join(logs.LOGGERS)}"])
        await self._gateway.set_log_level(level, logger)
        return reply({"levels": logs.levels()})


def _verdict_reply(verdict: ReloadVerdict) -> web.Response:
    view = dict(verdict_view(verdict) or {})
    if verdict.ok:
        return reply(gateway_ok("", **view))
    count = len(verdict.diagnostics)
    problems = "1 problem" if count == 1 else f"{count} problems"
    message = f"Reload refused: {problems}; generation {verdict.generation} keeps serving"
    return reply({"status": "error", "message": message, **view}, 422)
