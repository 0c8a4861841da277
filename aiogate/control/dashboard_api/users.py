"""`/api/users`: the dashboard users of the caller's organisation. An access key is in the reply that made it only."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from aiogate.control.dashboard_api.caller import CALLER, caller_org
from aiogate.control.describe import described
from aiogate.control.envelopes import dashboard_ok, reply
from aiogate.control.operations.accounts import Accounts
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.reads import paged
from aiogate.control.requests import PAGE_SIZE, json_object, page_number, text_field
from aiogate.control.routes import Route

__all__ = ["DashboardUsers"]

_ONE = "/api/users/{id:[^/]+}"
_INVALID = "User object validation failed."


class DashboardUsers:
    __slots__ = ("_accounts", "_gateway")

    def __init__(self, gateway: ControlledGateway, accounts: Accounts) -> None:
        self._gateway = gateway
        self._accounts = accounts

    def routes(self) -> Iterable[Route]:
        return [
            ("GET", "/api/users", self.listing),
            ("POST", "/api/users", self.create),
            ("GET", _ONE, self.show),
            ("PUT", _ONE, self.replace),
            ("DELETE", _ONE, self.delete),
            ("POST", f"{_ONE}/actions/reset", self.set_password),
            ("PUT", f"{_ONE}/actions/key/reset", self.renew_key),
        ]

    @described("List the users", query=("p",), refuses=(400,))
    async def listing(self, request: web.Request) -> web.Response:
        users, pages = paged(await self._accounts.users(caller_org(request)), page_number(request), PAGE_SIZE)
        return reply({"users": [user.shown() for user in users], "pages": pages})

    @described("Make a user with an access key, which is told once", body="user", refuses=(403,))
    async def create(self, request: web.Request) -> web.Response:
        user, key = await self._accounts.make_user(await self._body(request), request[CALLER])
        return reply({**dashboard_ok("User created", user.id), "access_key": key})

    @described("Show a user", refuses=(404,))
    async def show(self, request: web.Request) -> web.Response:
        return reply((await self._accounts.user(request.match_info["id"], caller_org(request))).shown())

    @described("Replace the details of a user", body="user", refuses=(403, 404, 409))
    async def replace(self, request: web.Request) -> web.Response:
        await self._accounts.change_user(request.match_info["id"], await self._body(request), request[CALLER])
        return reply(dashboard_ok("User updated"))

    @described("Delete a user", refuses=(403, 404, 409))
    async def delete(self, request: web.Request) -> web.Response:
        await self._accounts.delete_user(request.match_info["id"], request[CALLER])
        return reply(dashboard_ok("User deleted"))

    @described("Give a user another password", body="password", refuses=(403, 404, 409))
    async def set_password(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        new, current = text_field(body, "new_password", _INVALID), text_field(body, "current_password", _INVALID)
        await self._accounts.set_password(request.match_info["id"], new, current, request[CALLER])
        return reply(dashboard_ok("User password updated"))

    @described("Give a user another access key, which is told once", refuses=(403, 404, 409))
    async def renew_key(self, request: web.Request) -> web.Response:
        key = await self._accounts.renew_key(request.match_info["id"], request[CALLER])
        return reply({**dashboard_ok("User session renewed"), "access_key": key})

    async def _body(self, request: web.Request) -> dict[str, object]:
        return dict(await json_object(request, _INVALID, self._gateway.settings.timeouts.client_body))
