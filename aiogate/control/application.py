"""The control port as one aiohttp application.

The journey of a call: `Edge` gives it an id, looks at the host and the credential, and turns whatever goes wrong into
the envelope of the surface that was called; the handler reads the request and calls one operation, which does it.
Nothing that a caller sends is answered with a 5xx, and no key, password or secret reaches the log: it names routes,
not paths. Serve it with `access_log=None`, because aiohttp's own access log would write the paths, keys included.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from aiohttp import web

from aiogate.control import access, open_api, plugin_routes
from aiogate.control.admin_api.accounts import AdminAccounts
from aiogate.control.dashboard_api.apis import DashboardApis
from aiogate.control.dashboard_api.caller import CALLER
from aiogate.control.dashboard_api.keys import DashboardKeys
from aiogate.control.dashboard_api.policies import DashboardPolicies
from aiogate.control.dashboard_api.system import DashboardSystem
from aiogate.control.dashboard_api.users import DashboardUsers
from aiogate.control.envelopes import ADMIN, DASHBOARD, GATEWAY, Surface, reply, surface_of
from aiogate.control.gateway_api.apis import GatewayApis
from aiogate.control.gateway_api.certificates import GatewayCertificates
from aiogate.control.gateway_api.keys import GatewayKeys
from aiogate.control.gateway_api.oauth import GatewayOAuth
from aiogate.control.gateway_api.organisations import GatewayOrganisations
from aiogate.control.gateway_api.policies import GatewayPolicies
from aiogate.control.gateway_api.system import GatewaySystem
from aiogate.control.operations.accounts import Accounts
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.keys import Keys
from aiogate.control.operations.reads import Reads
from aiogate.control.operations.writes import Writes
from aiogate.control.routes import Route
from aiogate.credentials.passwords import PasswordsBusyError
from aiogate.errors import FAILURES, Rejected
from aiogate.stores.base import StoreUnavailable

__all__ = ["MAX_BODY", "application"]

_log = logging.getLogger("aiogate.control")

MAX_BODY: Final = 1024 * 1024
"""Largest accepted body, in bytes."""

_OPERATOR_PATHS: Final = frozenset(f"/api/system/{name}{slash}" for name in ("status", "nodes") for slash in ("", "/"))
"""Dashboard paths that the command line asks with the gateway's secret: it may have no dashboard user."""


def application(gateway: ControlledGateway) -> web.Application:
    """The control application of a running gateway."""
    accounts = Accounts(gateway)
    app = web.Application(middlewares=[Edge(gateway, accounts).handle], client_max_size=MAX_BODY)
    keys = Keys(gateway)
    reads = Reads(gateway)
    writes = Writes(gateway)
    system = GatewaySystem(gateway, reads)
    admin = AdminAccounts(gateway, accounts)
    rows: list[Route] = [
        *open_api.routes(gateway),
        *GatewayKeys(gateway, keys).routes(),
        *GatewayPolicies(gateway, reads, writes).routes(),
        *GatewayApis(gateway, reads, writes).routes(),
        *GatewayOrganisations(gateway).routes(),
        *GatewayCertificates(gateway).routes(),
        *GatewayOAuth(gateway).routes(),
        *system.routes(),
        *DashboardKeys(gateway, keys, reads).routes(),
        *DashboardApis(gateway, reads, writes).routes(),
        *DashboardPolicies(gateway, reads, writes).routes(),
        *DashboardSystem(gateway).routes(),
        *DashboardUsers(gateway, accounts).routes(),
        *admin.routes(),
        *plugin_routes.routes(gateway),
    ]
    _mount(app, [*rows, *open_api.description(rows)])
    app.on_shutdown.append(system.finish)
    app.on_shutdown.append(admin.finish)
    return app


def _mount(app: web.Application, routes: Iterable[Route]) -> None:
    for method, path, handler in routes:
        app.router.add_route(method, path, handler)
        app.router.add_route(method, f"{path}/", handler)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Edge:
    """The one middleware: who may come in, and how a failure looks."""

    __slots__ = ("_accounts", "_gateway", "_hosts")

    def __init__(self, gateway: ControlledGateway, accounts: Accounts) -> None:
        self._gateway = gateway
        self._accounts = accounts
        listen = gateway.settings.control.listen
        self._hosts = access.HostCheck(() if listen == "same" else (listen.host,))

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = uuid.uuid4().hex
        surface = surface_of(request.path)
        response = await self._answer(request, handler, surface, request_id)
        response.headers["X-Request-Id"] = request_id
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Server"] = "aiogate"  # aiohttp would name itself and the interpreter, with their versions
        resource = request.match_info.route.resource
        where = resource.canonical if resource is not None else "(nothing there)"
        _log.info("%s %s %d %s", request.method, where, response.status, request_id)
        return response

    async def _answer(
        self, request: web.Request, handler: Handler, surface: Surface, request_id: str
    ) -> web.StreamResponse:
        try:
            await self._admit(request, surface)
            return await handler(request)
        except Rejected as no:
            return reply(surface.refusal(no.status, no.message, no.details), no.status)
        except web.HTTPException as no:
            return _routing_refusal(no, surface)
        except StoreUnavailable as no:
            return _try_again(surface, "The gateway cannot reach its store, try again", str(no))
        except PasswordsBusyError as no:
            return _try_again(surface, "Too many passwords are being hashed, try again", str(no))
        except ConnectionError:
            raise
        except FAILURES as bug:
            _log_bug(bug, request_id)
            message = "Internal error, the gateway's log has more"
            return reply(surface.refusal(500, message, [f"request id {request_id}"]), 500)

    async def _admit(self, request: web.Request, surface: Surface) -> None:
        if not self._hosts.accepts(request.host):
            raise Rejected(
                421, "This host name is not served here", ["call the control port by its address or localhost"]
            )
        if surface is GATEWAY:
            if not access.has_secret(request, self._gateway.secret):
                raise Rejected(403, access.GATEWAY_REFUSED)
        elif surface is ADMIN:
            if not access.has_admin_secret(request, self._gateway.secret):
                raise Rejected(401, "Not authorised")
        elif surface is DASHBOARD:
            if request.path not in _OPERATOR_PATHS or not access.has_secret(request, self._gateway.secret):
                request[CALLER] = await access.dashboard_caller(request, self._accounts)


def _try_again(surface: Surface, message: str, reason: str) -> web.Response:
    return reply(surface.refusal(503, message, [reason]), 503, {"Retry-After": "1"})


def _log_bug(bug: BaseException, request_id: str) -> None:
    # The message of an exception may quote what the caller sent (pydantic's do), a password among it: the log gets the
    # kind of exception and where it came from.
    kind = f"{type(bug).__module__}.{type(bug).__qualname__}"
    _log.error("control call %s failed", request_id, exc_info=(RuntimeError, RuntimeError(kind), bug.__traceback__))


def _routing_refusal(no: web.HTTPException, surface: Surface) -> web.Response:
    texts = {404: surface.not_found, 405: surface.method_refused, 413: surface.too_large}
    headers = {"Allow": no.headers["Allow"]} if "Allow" in no.headers else None
    return reply(surface.refusal(no.status, texts.get(no.status, no.reason), ()), no.status, headers)
