"""`/tyk/keys`: make, change, show, list and revoke keys and basic-auth users, in Tyk's words.

A key that is shown in a list or changed is called by its hash; its text is in the reply that made it and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from aiohttp import web

from aiogate.control.describe import described
from aiogate.control.envelopes import change, reply
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.keys import Keys, WriteOptions, Written
from aiogate.control.operations.names import Name, public_name
from aiogate.control.requests import flag, json_object, session_document, string_list, text_field
from aiogate.control.routes import Route, other_than
from aiogate.domain.session import Record, SessionDocument

__all__ = ["GatewayKeys", "write_options"]

_UNREADABLE = "Unmarshalling failed"
_MALFORMED = "Request malformed"
_UNDECODED = "Couldn't decode instruction"


def write_options(request: web.Request) -> WriteOptions:
    """`reset=1` starts the counters anew; `suppress_reset=1` leaves them even when a limit changes."""
    return WriteOptions(reset=flag(request, "reset"), keep=flag(request, "suppress_reset"))


def _with_hash(request: web.Request) -> WriteOptions:
    """The same, and `password_hash=1`: the password is a hash. Only who has the control secret may say so."""
    return replace(write_options(request), hashed=flag(request, "password_hash"))


class GatewayKeys:
    __slots__ = ("_gateway", "_keys")

    def __init__(self, gateway: ControlledGateway, keys: Keys) -> None:
        self._gateway = gateway
        self._keys = keys

    def routes(self) -> Iterable[Route]:
        one = f"/tyk/keys/{{name:{other_than('create', 'preview')}}}"
        return [
            ("GET", "/tyk/keys", self.listing),
            ("POST", "/tyk/keys", self.create),
            ("POST", "/tyk/keys/create", self.create),
            ("POST", "/tyk/keys/preview", self.preview),
            ("POST", "/tyk/keys/policy/{name:[^/]+}", self.set_policies),
            ("DELETE", f"{one}/counters", self.reset_counters),
            ("GET", one, self.show),
            ("POST", one, self.put),
            ("PUT", one, self.replace),
            ("DELETE", one, self.delete),
        ]

    @described("List the hashes of keys and users", query=("filter", "api_id", "org_id", "detail"))
    async def listing(self, request: web.Request) -> web.Response:
        """Hashes as Tyk; with `detail=1` also what each is: hash, kind, organisation and label."""
        query = request.query
        org = query.get("org_id") or None
        records = await self._keys.filtered(query.get("filter", ""), org=org, api=query.get("api_id", ""))
        listed: dict[str, object] = {"keys": [record.name_hash for record in records]}
        if flag(request, "detail"):
            listed["records"] = [
                {"key_hash": record.name_hash, "kind": record.kind, "org_id": record.org, "label": record.label}
                for record in records
            ]
        return reply(listed)

    @described("Make a key with a random name", query=("org_id",), body="session")
    async def create(self, request: web.Request) -> web.Response:
        document = await self._document(request, _UNREADABLE)
        return _written(await self._keys.create(document), "added")

    @described(
        "Make or overwrite a key or user of this name",
        query=("api_id", "org_id", "hashed", "password_hash", "reset", "suppress_reset"),
        body="session",
        refuses=(404,),
    )
    async def put(self, request: web.Request) -> web.Response:
        document = await self._document(request, _MALFORMED)
        return _written(await self._keys.put(_name(request), document, _with_hash(request)), "added")

    @described(
        "Replace an existing key or user",
        query=("api_id", "org_id", "hashed", "password_hash", "reset", "suppress_reset"),
        body="session",
        refuses=(404,),
    )
    async def replace(self, request: web.Request) -> web.Response:
        document = await self._document(request, _MALFORMED)
        return _written(await self._keys.replace(_name(request), document, _with_hash(request)), "modified")

    @described("Show the effective session", query=("api_id", "org_id", "hashed", "raw"), refuses=(400, 404))
    async def show(self, request: web.Request) -> web.Response:
        shown = await self._keys.show(_name(request), raw=flag(request, "raw"))
        return reply(shown.data)

    @described(
        "Revoke a key or user",
        query=(
            "api_id",
            "org_id",
            "hashed",
        ),
        refuses=(400, 404),
    )
    async def delete(self, request: web.Request) -> web.Response:
        return _changed(await self._keys.delete(_name(request)), "deleted")

    @described("Start the rate and quota of a key anew", query=("api_id", "org_id", "hashed"), refuses=(400, 404))
    async def reset_counters(self, request: web.Request) -> web.Response:
        return _changed(await self._keys.reset_counters(_name(request)), "reset")

    @described("Give a key other policies", query=("api_id", "org_id", "hashed"), body="policies", refuses=(404,))
    async def set_policies(self, request: web.Request) -> web.Response:
        body = await json_object(request, _UNDECODED, self._deadline)
        policy = text_field(body, "policy", _UNDECODED)
        policies = string_list(body, "apply_policies", _UNDECODED)
        return _written(await self._keys.set_policies(_name(request), policy, policies), "updated")

    @described("Show what a session would become, storing nothing", query=("org_id",), body="session")
    async def preview(self, request: web.Request) -> web.Response:
        data, warnings = self._keys.preview(await self._document(request, _UNREADABLE))
        return reply({**data, "warnings": list(warnings)} if warnings else data)

    async def _document(self, request: web.Request, refusal: str) -> SessionDocument:
        document = await session_document(request, refusal, self._deadline)
        org = request.query.get("org_id", "")
        return document.changed(org_id=org) if org else document

    @property
    def _deadline(self) -> float:
        return self._gateway.settings.timeouts.client_body


def _name(request: web.Request) -> Name:
    query = request.query
    api = query.get("api_id", "")
    return Name(
        request.match_info["name"],
        org=query.get("org_id") or None,
        hashed=bool(query.get("hashed")),
        api="" if api == "-1" else api,
    )


def _written(written: Written, action: str) -> web.Response:
    body = change(written.key, action, written.record.name_hash, written.warnings)
    return reply({**body, "hmac_string": written.hmac_string} if written.hmac_string else body)


def _changed(record: Record, action: str) -> web.Response:
    return reply(change(public_name(record), action, record.name_hash))
