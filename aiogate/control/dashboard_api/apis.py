"""`/api/apis`, to read: the APIs of the caller's organisation, each in the Dashboard's wrapper."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiohttp import web

from aiogate.config.definition import Definition
from aiogate.control.dashboard_api.caller import caller_org
from aiogate.control.describe import described
from aiogate.control.envelopes import reply
from aiogate.control.operations import classic
from aiogate.control.operations.reads import Reads, paged
from aiogate.control.requests import PAGE_SIZE, page_number
from aiogate.control.routes import Route
from aiogate.errors import Rejected

__all__ = ["DashboardApis"]


class DashboardApis:
    __slots__ = ("_reads",)

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    def routes(self) -> Iterable[Route]:
        return [("GET", "/api/apis", self.listing), ("GET", "/api/apis/{id:[^/]+}", self.one)]

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
