"""`/tyk/oauth`: clients and tokens of the APIs that are OAuth 2 servers, and what users allow, in Tyk's words.

The secret of a client is in the reply that made it and nowhere else; tokens are called by their hashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from aiogate.control.describe import described
from aiogate.control.envelopes import change, gateway_ok, reply
from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.oauth import ClientRequest, OAuth
from aiogate.control.operations.reads import paged
from aiogate.control.requests import form_or_object, json_object, string_list, text_field, whole_number
from aiogate.control.routes import Route, other_than
from aiogate.errors import Rejected

if TYPE_CHECKING:
    from aiogate.credentials.oauth import OAuthClient

__all__ = ["GatewayOAuth"]

_UNREADABLE: Final = "Unmarshalling failed"
_MALFORMED: Final = "Request malformed"
_PAGE: Final = 100
# `create` and `apis` stand where ids of APIs do, with routes of their own.
_API: Final = f"/tyk/oauth/clients/{{api:{other_than('create', 'apis')}}}"
_ONE: Final = f"{_API}/{{client:[^/]+}}"


class GatewayOAuth:
    __slots__ = ("_gateway", "_oauth")

    def __init__(self, gateway: ControlledGateway) -> None:
        self._gateway = gateway
        self._oauth = OAuth(gateway)

    def routes(self) -> Iterable[Route]:
        return [
            ("POST", "/tyk/oauth/clients/create", self.create),
            ("GET", "/tyk/oauth/clients/apis/{client:[^/]+}", self.apis),
            ("GET", _API, self.listing),
            ("GET", _ONE, self.show),
            ("PUT", _ONE, self.change),
            ("DELETE", _ONE, self.delete),
            ("PUT", f"{_ONE}/rotate", self.rotate),
            ("GET", f"{_ONE}/tokens", self.tokens),
            ("DELETE", "/tyk/oauth/refresh/{token:[^/]+}", self.invalidate_refresh),
            ("DELETE", "/tyk/oauth/tokens", self.purge),
            ("POST", "/tyk/oauth/revoke", self.revoke),
            ("POST", "/tyk/oauth/revoke_all", self.revoke_all),
            ("POST", "/tyk/oauth/authorize-client", self.authorise),
        ]

    @described("Make an OAuth client", body="client")
    async def create(self, request: web.Request) -> web.Response:
        made = await self._oauth.create(await self._request(request))
        return reply(_shown(made.client, made.secret))

    @described("List the APIs where an OAuth client is known", query=("orgID",))
    async def apis(self, request: web.Request) -> web.Response:
        return reply(await self._oauth.apis_of(request.match_info["client"], request.query.get("orgID", "")))

    @described("List the OAuth clients of an API", refuses=(404,))
    async def listing(self, request: web.Request) -> web.Response:
        clients = await self._oauth.clients(request.match_info["api"])
        return reply(None, 404) if clients is None else reply([_shown(client) for client in clients])

    @described("Show an OAuth client", refuses=(404,))
    async def show(self, request: web.Request) -> web.Response:
        return reply(_shown(await self._oauth.client(*_named(request))))

    @described("Change an OAuth client", body="client", refuses=(404,))
    async def change(self, request: web.Request) -> web.Response:
        return reply(_shown(await self._oauth.change(*_named(request), await self._request(request))))

    @described("Give an OAuth client another secret", refuses=(400, 404))
    async def rotate(self, request: web.Request) -> web.Response:
        made = await self._oauth.rotate(*_named(request))
        return reply(_shown(made.client, made.secret))

    @described("Delete an OAuth client with everything it holds", refuses=(404,))
    async def delete(self, request: web.Request) -> web.Response:
        api, client = _named(request)
        await self._oauth.delete(api, client)
        return reply(change(client, "deleted"))

    @described("List the access tokens of an OAuth client by their hashes", query=("page",), refuses=(400, 404))
    async def tokens(self, request: web.Request) -> web.Response:
        """A list as Tyk; with `page`, a page of it."""
        found = await self._oauth.tokens(*_named(request))
        tokens = [{"code": token.name_hash, "expires": token.expires} for token in found]
        if "page" not in request.query:
            return reply(tokens)
        page = max(1, whole_number(request, "page", 1))
        shown, total = paged(tokens, page, _PAGE)
        pagination = {"page_num": page, "page_total": total, "page_size": _PAGE}
        return reply({"Pagination": pagination, "Tokens": shown})

    @described("Forget a refresh token", query=("api_id",), refuses=(400, 404))
    async def invalidate_refresh(self, request: web.Request) -> web.Response:
        name_hash = await self._oauth.invalidate_refresh(request.query.get("api_id", ""), request.match_info["token"])
        return reply(change(name_hash, "deleted"))

    @described("Have tokens purged that have lapsed", query=("scope",), refuses=(400, 422))
    async def purge(self, request: web.Request) -> web.Response:
        """Tyk's. Here they go by themselves: one that has lapsed is neither accepted nor listed."""
        scope = request.query.get("scope", "")
        if not scope:
            raise Rejected(422, "scope parameter is required")
        if scope != "lapsed":
            raise Rejected(400, "unknown scope")
        return reply(gateway_ok("lapsed tokens purged"))

    @described("Revoke a token", body="token of a client")
    async def revoke(self, request: web.Request) -> web.Response:
        form = await self._form(request, "token", "client_id", "org_id", "token_type_hint")
        for name in ("token", "client_id"):
            if not form[name]:
                raise Rejected(400, f"{name} is required")
        await self._oauth.revoke(form["client_id"], form["token"], form["org_id"])
        return reply(gateway_ok("token revoked successfully"))

    @described("Revoke every token of an OAuth client", body="client and secret", refuses=(401, 404))
    async def revoke_all(self, request: web.Request) -> web.Response:
        form = await self._form(request, "client_id", "client_secret", "org_id")
        for name in ("client_id", "client_secret"):
            if not form[name]:
                raise Rejected(401, f"{name} is required")
        await self._oauth.revoke_all(form["client_id"], form["client_secret"], form["org_id"])
        return reply(gateway_ok("tokens revoked successfully"))

    @described("Note what a user who has logged in allows an OAuth client", body="authorisation", refuses=(404,))
    async def authorise(self, request: web.Request) -> web.Response:
        form = await self._form(
            request, "client_id", "api_id", "response_type", "redirect_uri", "state", "scope", "code_challenge",
            "code_challenge_method", "key_rules",
        )  # fmt: skip
        code, address = await self._oauth.authorise(form)
        return reply({"code": code, "redirect_to": address})

    async def _form(self, request: web.Request, *names: str) -> Mapping[str, str]:
        body = await form_or_object(request, _MALFORMED, self._deadline)
        return {name: text_field(body, name, _MALFORMED) for name in names}

    async def _request(self, request: web.Request) -> ClientRequest:
        body = await json_object(request, _UNREADABLE, self._deadline)
        meta, public = body.get("meta_data"), body.get("public")
        if meta is not None and not isinstance(meta, dict):
            raise Rejected(400, _UNREADABLE, ["meta_data: should be an object"])
        if public is not None and not isinstance(public, bool):
            raise Rejected(400, _UNREADABLE, ["public: should be true or false"])
        uri = text_field(body, "redirect_uri", _UNREADABLE)
        uris = (*((uri,) if uri else ()), *string_list(body, "redirect_uris", _UNREADABLE))
        texts = {
            name: text_field(body, name, _UNREADABLE)
            for name in ("client_id", "api_id", "policy_id", "secret", "description")
        }
        return ClientRequest(**texts, redirect_uris=tuple(dict.fromkeys(uris)), meta=meta, public=bool(public))

    @property
    def _deadline(self) -> float:
        return self._gateway.settings.timeouts.client_body


def _named(request: web.Request) -> tuple[str, str]:
    return request.match_info["api"], request.match_info["client"]


def _shown(client: OAuthClient, secret: str = "") -> dict[str, Any]:
    return {
        "client_id": client.id,
        "redirect_uri": client.redirect_uris[0] if client.redirect_uris else "",
        "redirect_uris": list(client.redirect_uris),
        "api_id": client.api,
        "policy_id": client.policy,
        "secret": secret,
        "public": client.public,
        "meta_data": client.meta,
        "description": client.description,
    }
