"""`/tyk/policies`: Tyk's policies, or ours as they stand in the file with `?format=native`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiohttp import web

from aiogate.control.describe import described
from aiogate.control.envelopes import reply
from aiogate.control.gateway_api.apis import is_native, saved
from aiogate.control.operations import classic
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.reads import Reads
from aiogate.control.operations.writes import Wish, Writes
from aiogate.control.requests import flag, json_object
from aiogate.control.routes import Route
from aiogate.domain.policy import Policy
from aiogate.errors import Rejected

__all__ = ["GatewayPolicies"]

_ONE = "/tyk/policies/{id:[^/]+}"
_MALFORMED = "Request malformed"


class GatewayPolicies:
    __slots__ = ("_gateway", "_reads", "_writes")

    def __init__(self, gateway: ControlledGateway, reads: Reads, writes: Writes) -> None:
        self._gateway = gateway
        self._reads = reads
        self._writes = writes

    def routes(self) -> Iterable[Route]:
        return [
            ("GET", "/tyk/policies", self.listing),
            ("POST", "/tyk/policies", self.create),
            ("GET", _ONE, self.one),
            ("POST", _ONE, self.create),
            ("PUT", _ONE, self.replace),
            ("DELETE", _ONE, self.delete),
        ]

    @described("List the policies", query=("format",), refuses=(400,))
    async def listing(self, request: web.Request) -> web.Response:
        native = is_native(request)
        return reply([_shown(policy, native=native) for policy in self._reads.policies()])

    @described("Show a policy", query=("format",), refuses=(400, 404))
    async def one(self, request: web.Request) -> web.Response:
        native = is_native(request)
        policy = self._reads.policy(request.match_info["id"])
        if policy is None:
            raise Rejected(404, "Policy not found")
        return reply(_shown(policy, native=native))

    @described(
        "Make or overwrite a policy, live at the next reload",
        query=("format", "force"),
        body="policy",
        refuses=(409, 507),
    )
    async def create(self, request: web.Request) -> web.Response:
        return saved(await self._writes.save_policy(await self._body(request), _wish(request)), "added")

    @described(
        "Replace a policy, or make it, live at the next reload",
        query=("format", "force"),
        body="policy",
        refuses=(409, 507),
    )
    async def replace(self, request: web.Request) -> web.Response:
        return saved(await self._writes.save_policy(await self._body(request), _wish(request)), "modified")

    @described("Delete a policy, gone at the next reload", query=("force",), refuses=(404, 409, 507))
    async def delete(self, request: web.Request) -> web.Response:
        wish = Wish(request.match_info["id"], force=flag(request, "force"))
        return saved(await self._writes.delete_policy(wish), "deleted")

    async def _body(self, request: web.Request) -> Any:
        return await json_object(request, _MALFORMED, self._gateway.settings.timeouts.client_body)


def _wish(request: web.Request) -> Wish:
    return Wish(request.match_info.get("id", ""), native=is_native(request), force=flag(request, "force"))


def _shown(policy: Policy, *, native: bool) -> Any:
    return policy.written if native else classic.render_policy(policy)
