"""`/tyk/org/keys`: the sessions of organisations."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from aiogate.control.describe import described
from aiogate.control.envelopes import change, reply
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.organisations import OrganisationSessions, ResetOptions
from aiogate.control.requests import flag, session_document
from aiogate.control.routes import Route

__all__ = ["GatewayOrganisations"]

_ONE = "/tyk/org/keys/{org:[^/]+}"
_MALFORMED = "Request malformed"


class GatewayOrganisations:
    __slots__ = ("_gateway", "_sessions")

    def __init__(self, gateway: ControlledGateway) -> None:
        self._gateway = gateway
        self._sessions = OrganisationSessions(gateway)

    def routes(self) -> Iterable[Route]:
        return [
            ("GET", "/tyk/org/keys", self.listing),
            ("GET", _ONE, self.show),
            ("POST", _ONE, self.put),
            ("PUT", _ONE, self.put),
            ("DELETE", _ONE, self.delete),
        ]

    @described("List the organisations that have a session", query=("filter",))
    async def listing(self, request: web.Request) -> web.Response:
        return reply({"keys": await self._sessions.listing(request.query.get("filter", ""))})

    @described("Show the session of an organisation", refuses=(404,))
    async def show(self, request: web.Request) -> web.Response:
        return reply(await self._sessions.show(request.match_info["org"]))

    @described("Give an organisation a session", query=("reset_quota", "suppress_reset"), body="session")
    async def put(self, request: web.Request) -> web.Response:
        org = request.match_info["org"]
        document = await session_document(request, _MALFORMED, self._gateway.settings.timeouts.client_body)
        options = ResetOptions(flag(request, "reset_quota"), flag(request, "suppress_reset"))
        made = await self._sessions.put(org, document, options)
        return reply(change(org, "added" if made else "modified"))

    @described("Take the session of an organisation away", refuses=(404,))
    async def delete(self, request: web.Request) -> web.Response:
        org = request.match_info["org"]
        await self._sessions.delete(org)
        return reply(change(org, "deleted"))
