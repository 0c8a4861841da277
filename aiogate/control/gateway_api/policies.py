"""`/tyk/policies`, to read."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from aiogate.control.describe import described
from aiogate.control.envelopes import reply
from aiogate.control.operations import classic
from aiogate.control.operations.reads import Reads
from aiogate.control.routes import Route
from aiogate.errors import Rejected

__all__ = ["GatewayPolicies"]


class GatewayPolicies:
    __slots__ = ("_reads",)

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    def routes(self) -> Iterable[Route]:
        return [("GET", "/tyk/policies", self.listing), ("GET", "/tyk/policies/{id:[^/]+}", self.one)]

    @described("List the policies")
    async def listing(self, request: web.Request) -> web.Response:
        return reply([classic.render_policy(policy) for policy in self._reads.policies()])

    @described("Show a policy", refuses=(404,))
    async def one(self, request: web.Request) -> web.Response:
        policy = self._reads.policy(request.match_info["id"])
        if policy is None:
            raise Rejected(404, "Policy not found")
        return reply(classic.render_policy(policy))
