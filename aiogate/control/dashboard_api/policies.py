"""`/api/portal/policies`, to read: the policies of the caller's organisation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiohttp import web

from aiogate.control.dashboard_api.caller import caller_org
from aiogate.control.describe import described
from aiogate.control.envelopes import reply
from aiogate.control.operations import classic
from aiogate.control.operations.reads import Reads, paged
from aiogate.control.requests import PAGE_SIZE, page_number
from aiogate.control.routes import Route
from aiogate.domain.policy import Policy
from aiogate.errors import Rejected

__all__ = ["DashboardPolicies"]


class DashboardPolicies:
    __slots__ = ("_reads",)

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    def routes(self) -> Iterable[Route]:
        return [
            ("GET", "/api/portal/policies", self.listing),
            ("GET", "/api/portal/policies/{id:[^/]+}", self.one),
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


def _in_both_spellings(policy: Policy) -> dict[str, Any]:
    """The Dashboard's policies write `apiid` and `apiname` where everybody else has `api_id` and `api_name`."""
    shown = dict(classic.render_policy(policy))
    shown["access_rights"] = {
        api: {**access, "apiid": access["api_id"], "apiname": access["api_name"]}
        for api, access in shown["access_rights"].items()
    }
    return shown
