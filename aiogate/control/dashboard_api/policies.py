"""`/api/portal/policies`: the policies of the caller's organisation."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from aiohttp import web

from aiogate.control.dashboard_api.caller import caller_org
from aiogate.control.describe import described
from aiogate.control.envelopes import dashboard_ok, reply, written
from aiogate.control.operations import classic
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.reads import Reads, paged
from aiogate.control.operations.writes import Wish, Writes
from aiogate.control.requests import PAGE_SIZE, flag, json_object, page_number
from aiogate.control.routes import Route
from aiogate.domain.policy import Policy
from aiogate.errors import Rejected

__all__ = ["DashboardPolicies"]

_ONE = "/api/portal/policies/{id:[^/]+}"
_MALFORMED = "Request body malformed."


class DashboardPolicies:
    __slots__ = ("_gateway", "_reads", "_writes")

    def __init__(self, gateway: ControlledGateway, reads: Reads, writes: Writes) -> None:
        self._gateway = gateway
        self._reads = reads
        self._writes = writes

    def routes(self) -> Iterable[Route]:
        return [
            ("GET", "/api/portal/policies", self.listing),
            ("POST", "/api/portal/policies", self.create),
            ("GET", _ONE, self.one),
            ("PUT", _ONE, self.replace),
            ("DELETE", _ONE, self.delete),
        ]

    @described("List the policies", query=("p",), refuses=(400,))
    async def listing(self, request: web.Request) -> web.Response:
        policies, pages = paged(self._reads.policies(caller_org(request)), page_number(request), PAGE_SIZE)
        return reply({"Data": [_in_both_spellings(policy) for policy in policies], "Pages": pages})

    @described("Show a policy", refuses=(404,))
    async def one(self, request: web.Request) -> web.Response:
        policy = self._reads.policy(request.match_info["id"], caller_org(request))
        if policy is None:
            raise Rejected(404, "Could not retrieve portal object.")
        return reply(_in_both_spellings(policy))

    @described("Make a policy, live at the next reload", query=("force",), body="policy", refuses=(409, 507))
    async def create(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        name, org = body.get("name"), caller_org(request)
        if isinstance(name, str) and name and await self._writes.policy_named(name, org) is not None:
            raise Rejected(400, "This policy name has already been used. Enter a unique policy name.")
        wish = self._wish(request, exists=False)
        if not (body.get("id") or body.get("_id")):
            wish = replace(wish, id=secrets.token_hex(12))
        done = await self._writes.save_policy(body, wish)
        return reply(written(dashboard_ok(done.id), done.ignored, done.warnings))

    @described("Replace a policy, live at the next reload", query=("force",), body="policy", refuses=(404, 409, 507))
    async def replace(self, request: web.Request) -> web.Response:
        done = await self._writes.save_policy(await self._body(request), self._wish(request, exists=True))
        return reply(written(dashboard_ok("Data updated"), done.ignored, done.warnings))

    @described("Delete a policy, gone at the next reload", query=("force",), refuses=(404, 409, 507))
    async def delete(self, request: web.Request) -> web.Response:
        done = await self._writes.delete_policy(self._wish(request))
        return reply(written(dashboard_ok("Data deleted"), done.ignored, done.warnings))

    async def _body(self, request: web.Request) -> Any:
        return await json_object(request, _MALFORMED, self._gateway.settings.timeouts.client_body)

    def _wish(self, request: web.Request, *, exists: bool | None = None) -> Wish:
        identifier = request.match_info.get("id", "")
        return Wish(identifier, caller_org(request), force=flag(request, "force"), exists=exists)


def _in_both_spellings(policy: Policy) -> dict[str, Any]:
    """The Dashboard's policies write `apiid` and `apiname` where everybody else has `api_id` and `api_name`."""
    shown = dict(classic.render_policy(policy))
    shown["access_rights"] = {
        api: {**access, "apiid": access["api_id"], "apiname": access["api_name"]}
        for api, access in shown["access_rights"].items()
    }
    return shown
