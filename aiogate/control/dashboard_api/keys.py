"""`/api/keys` and `/api/apis/…/keys`: keys and basic-auth users of the caller's organisation, in the Dashboard's words.

All of them speak KeyData: `{"api_model", "key_id", "data", "key_hash"}`. A password is never echoed, and `key_id` is
never empty: it is the new key in the reply that made it, and the user name or the hash everywhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from aiohttp import web

from aiogate.control.dashboard_api.caller import caller_org
from aiogate.control.describe import described
from aiogate.control.envelopes import dashboard_ok, reply
from aiogate.control.gateway_api.keys import write_options
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.keys import Keys, Shown, Written
from aiogate.control.operations.names import Name
from aiogate.control.operations.reads import Reads
from aiogate.control.requests import PAGE_SIZE, flag, page_number, session_document
from aiogate.control.routes import Route, other_than
from aiogate.domain.session import SessionDocument
from aiogate.errors import Rejected

__all__ = ["DashboardKeys"]

_MALFORMED: Final = "Request body malformed."
_INVALID: Final = "User/Key object validation failed, most likely malformed input."
_NOT_FOUND: Final = "Could not retrieve key detail."
_NO_KEYS: Final = "Could not retrieve keys."


class DashboardKeys:
    __slots__ = ("_gateway", "_keys", "_reads")

    def __init__(self, gateway: ControlledGateway, keys: Keys, reads: Reads) -> None:
        self._gateway = gateway
        self._keys = keys
        self._reads = reads

    def routes(self) -> Iterable[Route]:
        user = "/api/apis/keys/basic/{name:[^/]+}"
        of_api = "/api/apis/{api:[^/]+}/keys"
        name = f"/api/keys/{{name:{other_than('detailed', 'preview')}}}"
        rows: list[Route] = [
            ("GET", "/api/keys", self.listing),
            ("POST", "/api/keys", self.create),
            ("GET", "/api/keys/detailed", self.detailed),
            ("POST", "/api/keys/preview", self.preview),
            ("GET", "/api/apis/keys", self.listing),
            ("GET", of_api, self.listing),
            ("GET", f"{of_api}/search", self.detailed),
            ("POST", name, self.put),
            ("POST", user, self.put_user),
        ]
        for one in (name, user, f"{of_api}/{{name:{other_than('search')}}}"):
            rows += [("GET", one, self.show), ("PUT", one, self.replace), ("DELETE", one, self.delete)]
        return rows

    @described(
        "Make a key with a random name, or a user",
        query=("basic_auth", "reset", "suppress_reset"),
        body="session",
        refuses=(404,),
    )
    async def create(self, request: web.Request) -> web.Response:
        """A key with a random name; with `basic_auth=true` the user that `basic_auth_data.user` names."""
        document = await self._document(request, _MALFORMED)
        if not flag(request, "basic_auth"):
            return await self._made(await self._keys.create(document))
        if not document.basic_auth_data.user:
            raise Rejected(400, "Failed to create key - basic_auth_data.user is missing")
        self._must_be_user(document)
        name = Name(document.basic_auth_data.user, org=document.org_id)
        return await self._made(await self._keys.put(name, document, write_options(request)))

    @described(
        "Make or overwrite a key or user of this name",
        query=("api_id", "hashed", "reset", "suppress_reset"),
        body="session",
        refuses=(404,),
    )
    async def put(self, request: web.Request) -> web.Response:
        document = await self._document(request, _MALFORMED)
        return await self._made(await self._keys.put(self._name(request), document, write_options(request)))

    @described(
        "Make or overwrite a basic-auth user",
        query=("api_id", "hashed", "reset", "suppress_reset"),
        body="session",
        refuses=(404,),
    )
    async def put_user(self, request: web.Request) -> web.Response:
        document = await self._document(request, _MALFORMED)
        self._must_be_user(document)
        return await self._made(await self._keys.put(self._name(request), document, write_options(request)))

    @staticmethod
    def _must_be_user(document: SessionDocument) -> None:
        if not document.basic_auth_data.password:
            raise Rejected(400, "Failed to create key - basic_auth_data.password is missing")

    @described(
        "Replace an existing key or user",
        query=("api_id", "hashed", "reset", "suppress_reset"),
        body="session",
        refuses=(404,),
    )
    async def replace(self, request: web.Request) -> web.Response:
        document = await self._document(request, _INVALID)
        return await self._made(await self._keys.replace(self._name(request), document, write_options(request)))

    @described("Show the effective session", query=("api_id", "hashed", "raw"), refuses=(400, 404))
    async def show(self, request: web.Request) -> web.Response:
        shown = await self._keys.show(self._name(request), raw=flag(request, "raw"), refusal=_NOT_FOUND)
        return reply(_key_data(shown))

    @described("Revoke a key or user", query=("api_id", "hashed"), refuses=(400, 404))
    async def delete(self, request: web.Request) -> web.Response:
        await self._keys.delete(self._name(request), _NOT_FOUND)
        return reply(dashboard_ok("Key deleted successfully."))

    @described("Show what a session would become, storing nothing", body="session")
    async def preview(self, request: web.Request) -> web.Response:
        data, warnings = self._keys.preview(await self._document(request, _MALFORMED))
        return reply({**data, "warnings": list(warnings)} if warnings else data)

    @described("List the hashes of keys and users", query=("p", "api_id"), refuses=(400, 404))
    async def listing(self, request: web.Request) -> web.Response:
        shown = await self._keys.listing(
            org=caller_org(request), api=self._api(request), page=page_number(request), size=PAGE_SIZE
        )
        return reply({"data": {"keys": [record.name_hash for record in shown.records]}, "pages": shown.pages})

    @described("List keys and users with their sessions", query=("p", "q", "api_id"), refuses=(400, 404))
    async def detailed(self, request: web.Request) -> web.Response:
        """The same keys with their sessions, kinds and labels; `q` is the beginning of a label."""
        listing = await self._keys.listing(
            org=caller_org(request),
            api=self._api(request),
            prefix=request.query.get("q", ""),
            page=page_number(request),
            size=PAGE_SIZE,
        )
        keys = []
        for record in listing.records:
            shown = await self._keys.view(record)
            keys.append({**_key_data(shown), "kind": record.kind, "label": record.label})
        return reply({"keys": keys, "pages": listing.pages})

    async def _made(self, written: Written) -> web.Response:
        shown = await self._keys.view(written.record)
        if written.hmac_string:
            shown.data["hmac_string"] = written.hmac_string
        return reply(_key_data(shown, written.key, written.warnings))

    async def _document(self, request: web.Request, refusal: str) -> SessionDocument:
        document = await session_document(request, refusal, self._gateway.settings.timeouts.client_body)
        return document.changed(org_id=caller_org(request))

    def _name(self, request: web.Request) -> Name:
        name = Name(request.match_info["name"], org=caller_org(request), hashed=bool(request.query.get("hashed")))
        return replace(name, api=self._api(request, _NOT_FOUND))

    def _api(self, request: web.Request, refusal: str = _NO_KEYS) -> str:
        """The API in the path, or in `api_id`; empty for none."""
        api = request.match_info.get("api", "")
        if api and self._reads.api(api, caller_org(request)) is None:
            raise Rejected(404, refusal, [f"API {api!r} does not exist"])
        return api or request.query.get("api_id", "")


def _key_data(shown: Shown, key: str = "", warnings: Sequence[str] = ()) -> dict[str, Any]:
    data = {"api_model": {}, "key_id": key or shown.name, "data": shown.data, "key_hash": shown.record.name_hash}
    return {**data, "warnings": list(warnings)} if warnings else data
