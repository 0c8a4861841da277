"""`/tyk/apis`, to read: Tyk's classic JSON, or ours as it was written with `?format=native`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiohttp import web

from aiogate.config.definition import Definition
from aiogate.control.describe import described
from aiogate.control.envelopes import reply
from aiogate.control.operations import classic
from aiogate.control.operations.reads import Reads
from aiogate.control.routes import Route
from aiogate.errors import Rejected

__all__ = ["GatewayApis"]


class GatewayApis:
    __slots__ = ("_reads",)

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    def routes(self) -> Iterable[Route]:
        return [("GET", "/tyk/apis", self.listing), ("GET", "/tyk/apis/{id:[^/]+}", self.one)]

    @described("List the APIs", query=("format",), refuses=(400,))
    async def listing(self, request: web.Request) -> web.Response:
        return reply([_shown(request, definition) for definition in self._reads.apis()])

    @described("Show an API", query=("format",), refuses=(400, 404))
    async def one(self, request: web.Request) -> web.Response:
        definition = self._reads.api(request.match_info["id"])
        if definition is None:
            raise Rejected(404, "API not found")
        return reply(_shown(request, definition))


def _shown(request: web.Request, definition: Definition) -> Any:
    form = request.query.get("format", "classic")
    if form == "native":
        return classic.written(definition)
    if form == "classic":
        return classic.render(definition)
    raise Rejected(400, f"The format {form!r} does not exist", ["formats are classic and native"])
