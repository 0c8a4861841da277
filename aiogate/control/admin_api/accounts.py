"""`/admin/organisations` and `/admin/users`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from aiohttp import web

from aiogate.control.describe import described
from aiogate.control.envelopes import dashboard_ok, reply
from aiogate.control.operations.accounts import Accounts
from aiogate.control.operations.gateway import ControlledGateway, ReloadVerdict
from aiogate.control.operations.reads import paged
from aiogate.control.requests import PAGE_SIZE, json_object, page_number
from aiogate.control.routes import Route

__all__ = ["AdminAccounts"]

_ONE = "/admin/organisations/{id:[^/]+}"
_MALFORMED = "Request body malformed."


class AdminAccounts:
    __slots__ = ("_accounts", "_gateway", "_queued")

    def __init__(self, gateway: ControlledGateway, accounts: Accounts) -> None:
        self._gateway = gateway
        self._accounts = accounts
        self._queued: set[asyncio.Future[ReloadVerdict]] = set()

    def routes(self) -> Iterable[Route]:
        return [
            ("GET", "/admin/organisations", self.listing),
            ("POST", "/admin/organisations", self.create),
            ("GET", _ONE, self.show),
            ("PUT", _ONE, self.replace),
            ("DELETE", _ONE, self.delete),
            ("GET", "/admin/users", self.users),
            ("POST", "/admin/users", self.make_user),
            ("GET", "/admin/system/reload", self.reload),
        ]

    @described("List the organisations", query=("p",), refuses=(400,))
    async def listing(self, request: web.Request) -> web.Response:
        shown, pages = paged(await self._accounts.organisations(), page_number(request), PAGE_SIZE)
        return reply({"organisations": shown, "pages": pages})

    @described("Make an organisation", body="organisation", refuses=(409,))
    async def create(self, request: web.Request) -> web.Response:
        return reply(dashboard_ok("Org created", await self._accounts.make_organisation(await self._body(request))))

    @described("Show an organisation", refuses=(404,))
    async def show(self, request: web.Request) -> web.Response:
        return reply(await self._accounts.organisation(request.match_info["id"]))

    @described("Replace the details of an organisation", body="organisation", refuses=(404,))
    async def replace(self, request: web.Request) -> web.Response:
        await self._accounts.change_organisation(request.match_info["id"], await self._body(request))
        return reply(dashboard_ok("Org updated"))

    @described("Delete an organisation that nothing belongs to", refuses=(404, 409))
    async def delete(self, request: web.Request) -> web.Response:
        await self._accounts.delete_organisation(request.match_info["id"])
        return reply(dashboard_ok("Org deleted"))

    @described("List the dashboard users of all organisations", query=("p",), refuses=(400,))
    async def users(self, request: web.Request) -> web.Response:
        users, pages = paged(await self._accounts.users(None), page_number(request), PAGE_SIZE)
        return reply({"users": [user.shown() for user in users], "pages": pages})

    @described("Make a dashboard user of any organisation", body="user", refuses=(403,))
    async def make_user(self, request: web.Request) -> web.Response:
        user, key = await self._accounts.make_user(await self._body(request), None)
        return reply(dashboard_ok("User created", {**user.shown(), "access_key": key}))

    @described("Queue a reload")
    async def reload(self, request: web.Request) -> web.Response:
        queued = asyncio.ensure_future(self._gateway.reload("control API"))
        self._queued.add(queued)
        queued.add_done_callback(self._queued.discard)
        return reply({"status": "ok"})

    async def finish(self, app: web.Application) -> None:
        """Let queued reloads come to their end before the application goes."""
        await asyncio.gather(*self._queued, return_exceptions=True)

    async def _body(self, request: web.Request) -> dict[str, object]:
        return dict(await json_object(request, _MALFORMED, self._gateway.settings.timeouts.client_body))
