"""`/tyk/apis`: Tyk's classic JSON, or ours as it stands in the file with `?format=native`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiohttp import web

from aiogate.config.definition import Definition
from aiogate.control.describe import described
from aiogate.control.envelopes import change, reply, written
from aiogate.control.operations import classic
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.reads import Reads
from aiogate.control.operations.writes import Saved, Wish, Writes
from aiogate.control.requests import flag, json_object
from aiogate.control.routes import Route
from aiogate.errors import Rejected

__all__ = ["GatewayApis", "is_native", "saved"]

_ONE = "/tyk/apis/{id:[^/]+}"
_MALFORMED = "Request malformed"
_VERSIONS = ("base_api_id", "base_api_version_name", "new_version_name", "set_default")


class GatewayApis:
    __slots__ = ("_gateway", "_reads", "_writes")

    def __init__(self, gateway: ControlledGateway, reads: Reads, writes: Writes) -> None:
        self._gateway = gateway
        self._reads = reads
        self._writes = writes

    def routes(self) -> Iterable[Route]:
        return [
            ("GET", "/tyk/apis", self.listing),
            ("POST", "/tyk/apis", self.create),
            ("GET", _ONE, self.one),
            ("PUT", _ONE, self.replace),
            ("DELETE", _ONE, self.delete),
            ("GET", f"{_ONE}/versions", self.versions),
        ]

    @described("List the APIs", query=("format",), refuses=(400,))
    async def listing(self, request: web.Request) -> web.Response:
        native = is_native(request)
        return reply([_shown(definition, native=native) for definition in self._reads.apis()])

    @described("Show an API", query=("format",), refuses=(400, 404))
    async def one(self, request: web.Request) -> web.Response:
        native = is_native(request)
        definition = self._reads.api(request.match_info["id"])
        if definition is None:
            raise Rejected(404, "API not found")
        return reply(_shown(definition, native=native))

    @described("List the versions of an API", refuses=(404,))
    async def versions(self, request: web.Request) -> web.Response:
        definition = self._reads.api(request.match_info["id"])
        if definition is None:
            raise Rejected(404, "API not found")
        return reply({"status": "success", "apis": classic.render_versions(definition)})

    @described(
        "Make or overwrite an API, live at the next reload", query=("format", "force"), body="api", refuses=(409, 507)
    )
    async def create(self, request: web.Request) -> web.Response:
        return saved(await self._writes.save_api(await self._body(request), _wish(request)), "added")

    @described(
        "Replace an API, live at the next reload", query=("format", "force"), body="api", refuses=(404, 409, 507)
    )
    async def replace(self, request: web.Request) -> web.Response:
        return saved(await self._writes.save_api(await self._body(request), _wish(request, exists=True)), "modified")

    @described("Delete an API, gone at the next reload", query=("force",), refuses=(404, 409, 507))
    async def delete(self, request: web.Request) -> web.Response:
        return saved(
            await self._writes.delete_api(Wish(request.match_info["id"], force=flag(request, "force"))), "deleted"
        )

    async def _body(self, request: web.Request) -> Any:
        for name in _VERSIONS:
            if request.query.get(name):
                details = ["a version is an entry under version_data here, not an API of its own"]
                raise Rejected(400, f"The parameter {name!r} is not supported", details)
        return await json_object(request, _MALFORMED, self._gateway.settings.timeouts.client_body)


def is_native(request: web.Request) -> bool:
    """Whether the caller speaks our format. Raises `Rejected` for a format that does not exist."""
    form = request.query.get("format", "classic")
    if form not in ("classic", "native"):
        raise Rejected(400, f"The format {form!r} does not exist", ["formats are classic and native"])
    return form == "native"


def _wish(request: web.Request, *, exists: bool | None = None) -> Wish:
    identifier = request.match_info.get("id", "")
    return Wish(identifier, native=is_native(request), force=flag(request, "force"), exists=exists)


def saved(done: Saved, action: str) -> web.Response:
    """Tyk's answer to a write of an API or a policy."""
    return reply(written(change(done.id, action), done.ignored, done.warnings))


def _shown(definition: Definition, *, native: bool) -> Any:
    return classic.written(definition) if native else classic.render(definition)
