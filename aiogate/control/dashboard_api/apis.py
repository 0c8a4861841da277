"""`/api/apis`: the APIs of the caller's organisation, each in the Dashboard's wrapper."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiohttp import web

from aiogate.config.definition import Definition
from aiogate.control.dashboard_api.caller import caller_org
from aiogate.control.describe import described
from aiogate.control.envelopes import dashboard_ok, reply, written
from aiogate.control.operations import classic
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.reads import Reads, paged
from aiogate.control.operations.writes import Saved, Wish, Writes
from aiogate.control.requests import PAGE_SIZE, flag, json_object, page_number
from aiogate.control.routes import Route, other_than
from aiogate.errors import Rejected

__all__ = ["DashboardApis"]

_ONE = f"/api/apis/{{id:{other_than('keys')}}}"
_MALFORMED = "Request body malformed."


class DashboardApis:
    __slots__ = ("_gateway", "_reads", "_writes")

    def __init__(self, gateway: ControlledGateway, reads: Reads, writes: Writes) -> None:
        self._gateway = gateway
        self._reads = reads
        self._writes = writes

    def routes(self) -> Iterable[Route]:
        return [
            ("GET", "/api/apis", self.listing),
            ("POST", "/api/apis", self.create),
            ("GET", _ONE, self.one),
            ("PUT", _ONE, self.replace),
            ("DELETE", _ONE, self.delete),
        ]

    @described("List the APIs", query=("p", "q"), refuses=(400,))
    async def listing(self, request: web.Request) -> web.Response:
        """`q` is a part of the name, whatever its case."""
        wanted = request.query.get("q", "").casefold()
        apis = [api for api in self._reads.apis(caller_org(request)) if wanted in api.name.casefold()]
        shown, pages = paged(apis, page_number(request), PAGE_SIZE)
        return reply({"apis": [_wrapped(definition) for definition in shown], "pages": pages})

    @described("Show an API", refuses=(404,))
    async def one(self, request: web.Request) -> web.Response:
        definition = self._reads.api(request.match_info["id"], caller_org(request))
        if definition is None:
            raise Rejected(404, "Could not retrieve API detail")
        return reply(_wrapped(definition))

    @described("Make an API, live at the next reload", query=("force",), body="wrapped api", refuses=(409, 507))
    async def create(self, request: web.Request) -> web.Response:
        done = await self._writes.save_api(await self._definition(request), self._wish(request, exists=False))
        return _saved(done, "API created", done.id, ID=done.id)

    @described("Replace an API, live at the next reload", query=("force",), body="wrapped api", refuses=(404, 409, 507))
    async def replace(self, request: web.Request) -> web.Response:
        done = await self._writes.save_api(await self._definition(request), self._wish(request, exists=True))
        return _saved(done, "API updated")

    @described("Delete an API, gone at the next reload", query=("force",), refuses=(404, 409, 507))
    async def delete(self, request: web.Request) -> web.Response:
        return _saved(await self._writes.delete_api(self._wish(request)), "API deleted")

    async def _definition(self, request: web.Request) -> Any:
        """What stands in the Dashboard's wrapper. Hooks are part of it, and are refused like every unknown field."""
        body = await json_object(request, _MALFORMED, self._gateway.settings.timeouts.client_body)
        definition = body.get("api_definition")
        if not isinstance(definition, dict):
            raise Rejected(400, _MALFORMED, ["api_definition: should be an object"])
        hooks = body.get("hook_references")
        return {**definition, "hook_references": hooks} if hooks else definition

    def _wish(self, request: web.Request, *, exists: bool | None = None) -> Wish:
        identifier = request.match_info.get("id", "")
        return Wish(identifier, caller_org(request), force=flag(request, "force"), exists=exists)


def _saved(done: Saved, message: str, meta: Any = None, **further: Any) -> web.Response:
    return reply(written({**dashboard_ok(message, meta), **further}, done.ignored, done.warnings))


def _wrapped(definition: Definition) -> dict[str, Any]:
    return {
        "api_model": {},
        "api_definition": classic.render(definition),
        "hook_references": [],
        "is_site": False,
        "sort_by": 0,
        "user_owners": [],
        "user_group_owners": [],
    }
