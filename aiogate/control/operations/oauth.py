"""Clients and tokens of the APIs that are OAuth 2 servers, and what users allow there.

The words of refusals are Tyk's (spec/gateway-api.md A7). The work is `credentials.oauth`'s, which is loaded with the
first call: a gateway without such an API does not need it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aiogate.control.operations.gateway import ControlledGateway
from aiogate.control.operations.locks import Locks
from aiogate.domain.session import DocumentError, SessionDocument, parse_document
from aiogate.errors import Problem, Rejected

if TYPE_CHECKING:
    from aiogate.config.definition import Definition
    from aiogate.credentials.oauth import HeldToken, OAuthBook, OAuthClient
    from aiogate.credentials.oauth_rules import OAuthRules

__all__ = ["ClientRequest", "Made", "OAuth"]

_NO_API = "API doesn't exist"
_NO_CLIENT = "OAuth Client ID not found"
_UNREADABLE = "Unmarshalling failed"
_FOREIGN_POLICY = "Policy access rights doesn't contain API this OAuth client belongs to"


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """A client as a caller describes it; empty: not said. `public`: it has no secret."""

    client_id: str = ""
    api_id: str = ""
    policy_id: str = ""
    secret: str = ""
    redirect_uris: tuple[str, ...] = ()
    meta: Mapping[str, Any] | None = None
    description: str = ""
    public: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """A client, and its secret where that was just made or given."""

    client: OAuthClient
    secret: str = ""


class OAuth:
    __slots__ = ("_gateway", "_locks")

    def __init__(self, gateway: ControlledGateway) -> None:
        self._gateway = gateway
        self._locks = Locks()

    @property
    def _book(self) -> OAuthBook:
        from aiogate.credentials.oauth import OAuthBook

        return OAuthBook(self._gateway.store.vault, self._gateway.sessions, self._gateway.clock)

    # Clients

    async def create(self, request: ClientRequest) -> Made:
        """Make a client at one API, or at every OAuth API of a policy."""
        from aiogate.credentials.oauth import OAuthClient, client_mistake, new_secret, secret_digest

        client_id = request.client_id or secrets.token_hex(16)
        secret = "" if request.public else request.secret or new_secret()
        if mistake := client_mistake(client_id, secret):
            raise Rejected(400, "The client cannot be made", [mistake])
        if request.public and request.secret:
            raise Rejected(400, "The client cannot be made", ["secret: a public client has none"])
        _check_uris(request.redirect_uris)
        book = self._book
        apis = self._apis_for(request)
        async with self._locks.hold(client_id):
            for api in apis:
                if await book.client(api.id, client_id) is not None:
                    raise Rejected(400, "OAuth Client ID exists already", [f"API {api.id} has a client {client_id}"])
            for api in apis:
                made = OAuthClient(
                    api.id, api.org, client_id, secret_digest(secret) if secret else "", request.redirect_uris,
                    request.policy_id, request.meta or {}, request.description,
                )  # fmt: skip
                await book.keep(made)
        return Made(made, secret)

    def _apis_for(self, request: ClientRequest) -> Sequence[Definition]:
        policy = self._gateway.current.table.policies.get(request.policy_id) if request.policy_id else None
        if request.policy_id and policy is None:
            raise Rejected(400, "Policy doesn't exist")
        if request.api_id:
            api = self._served(request.api_id, 400)
            if policy is not None and (request.api_id not in policy.access or policy.org != api.org):
                raise Rejected(400, _FOREIGN_POLICY)
            return [api]
        if policy is None:
            raise Rejected(400, _NO_API, ["say api_id, or a policy_id"])
        served = self._gateway.current.table.apis
        apis = [served[api].definition for api in sorted(policy.access) if api in served]
        apis = [api for api in apis if _is_server(api) and api.org == policy.org]
        if not apis:
            raise Rejected(400, "API is not OAuth2", [f"policy {policy.id} grants no API with the method `oauth`"])
        return apis

    async def clients(self, api: str) -> Sequence[OAuthClient] | None:
        """The clients of an API in the order of their ids; None: no such API."""
        if api not in self._gateway.current.table.apis:
            return None
        return await self._book.clients(api)

    async def client(self, api: str, client_id: str) -> OAuthClient:
        client = await self._book.client(api, client_id)
        if client is None:
            raise Rejected(404, _NO_CLIENT)
        return client

    async def change(self, api: str, client_id: str, request: ClientRequest) -> OAuthClient:
        """Give a client other addresses, another policy, meta data, description. Another policy ends its tokens."""
        if api not in self._gateway.current.table.apis:
            raise Rejected(404, _NO_API)
        _check_uris(request.redirect_uris)
        policy = self._gateway.current.table.policies.get(request.policy_id) if request.policy_id else None
        if request.policy_id and policy is None:
            raise Rejected(404, "Policy doesn't exist")
        async with self._locks.hold(client_id):
            known = await self.client(api, client_id)
            if policy is not None and (api not in policy.access or policy.org != known.org):
                raise Rejected(400, _FOREIGN_POLICY)
            changed = replace(
                known, redirect_uris=request.redirect_uris, policy=request.policy_id, meta=request.meta or {},
                description=request.description,
            )  # fmt: skip
            await self._book.keep(changed)
            if changed.policy != known.policy:
                await self._book.end_all(changed)
        return changed

    async def rotate(self, api: str, client_id: str) -> Made:
        """Give a client another secret."""
        from aiogate.credentials.oauth import new_secret, secret_digest

        async with self._locks.hold(client_id):
            known = await self.client(api, client_id)
            if known.public:
                raise Rejected(400, "The client has no secret", ["it is public"])
            secret = new_secret()
            changed = replace(known, secret=secret_digest(secret))
            await self._book.keep(changed)
        return Made(changed, secret)

    async def delete(self, api: str, client_id: str) -> None:
        """Delete a client with everything it holds."""
        async with self._locks.hold(client_id):
            if not await self._book.forget(await self.client(api, client_id)):
                raise Rejected(404, _NO_CLIENT)

    async def apis_of(self, client_id: str, org: str) -> Sequence[str]:
        """The APIs where a client is known, of one organisation or (empty) of all."""
        apis = await self._book.apis_of(client_id)
        served = self._gateway.current.table.apis
        return [api for api in apis if not org or (api in served and served[api].definition.org == org)]

    # Tokens

    async def tokens(self, api: str, client_id: str) -> Sequence[HeldToken]:
        return await self._book.tokens(await self.client(api, client_id))

    async def revoke(self, client_id: str, token: str, org: str) -> None:
        """Revoke a token of a client, by its text or by its hash. One that is unknown is as good as revoked."""
        for client in await self._named(client_id, org, 400):
            if await self._book.revoke(client, token):
                return

    async def revoke_all(self, client_id: str, secret: str, org: str) -> None:
        """Revoke everything that a client holds. The secret must be right as well."""
        proven = [
            client
            for client in await self._named(client_id, org, 404)
            if await self._book.authenticate(client.api, client.id, secret) is not None
        ]
        if not proven:
            raise Rejected(404, "oauth client doesn't exist", ["the secret is not that of the client"])
        for client in proven:
            await self._book.end_all(client)

    async def invalidate_refresh(self, api: str, token: str) -> str:
        """Forget a refresh token; its stored name."""
        from aiogate.domain.account import stored_name

        if not api:
            raise Rejected(400, "Missing parameter api_id")
        served = self._gateway.current.table.apis.get(api)
        if served is None:
            raise Rejected(404, "API for this refresh token not found")
        if not _is_server(served.definition):
            raise Rejected(400, "OAuth is not enabled on this API")
        org = served.definition.org
        if not await self._book.invalidate_refresh(org, api, token):
            raise Rejected(404, "API for this refresh token not found", ["the API knows no such refresh token"])
        return stored_name(org, token)

    # What users allow

    async def authorise(self, parameters: Mapping[str, str]) -> tuple[str, str]:
        """Note what a user who has logged in allows a client: the code, and the address to send the user to."""
        client = await self._asking(parameters)
        definition = self._served(client.api, 400)
        rules = _rules(definition)
        asked = self._book.authorisation(client, parameters, rules)
        if isinstance(asked, Problem):
            raise Rejected(400, asked.message, [asked.detail])
        document = self._handed_over(parameters.get("key_rules", ""), client)
        if not (client.policy or document.policy_ids or document.access_rights or rules.default_policies):
            raise Rejected(
                400, "key_rules are missing", ["the client has no policy, and there are no default_policies"]
            )
        noted = await self._book.hand_over(client, asked, document, rules)
        if isinstance(noted, Problem):
            raise Rejected(404, _NO_CLIENT, [noted.detail])
        return noted

    async def _asking(self, parameters: Mapping[str, str]) -> OAuthClient:
        client_id, api = parameters.get("client_id", ""), parameters.get("api_id", "")
        if not client_id:
            raise Rejected(400, "client_id is required")
        if api:
            return await self.client(api, client_id)
        known = await self._named(client_id, "", 404)
        if len(known) > 1:
            apis = ", ".join(client.api for client in known)
            raise Rejected(400, "api_id is required", [f"the client is known at {apis}"])
        return known[0]

    def _handed_over(self, text: str, client: OAuthClient) -> SessionDocument:
        try:
            document = parse_document(text) if text.strip() else SessionDocument()
        except DocumentError as wrong:
            raise Rejected(400, "Couldn't decode key_rules", wrong.problems) from None
        policies = self._gateway.current.table.policies
        if not client.policy and (missing := policies.missing(document.policy_ids)):
            raise Rejected(400, "Policy doesn't exist", missing)
        return document.changed(org_id=client.org)

    async def _named(self, client_id: str, org: str, status: int) -> Sequence[OAuthClient]:
        found = [await self._book.client(api, client_id) for api in await self._book.apis_of(client_id)]
        clients = [client for client in found if client is not None and org in ("", client.org)]
        if not clients:
            raise Rejected(status, "oauth client doesn't exist")
        return clients

    def _served(self, api: str, status: int) -> Definition:
        served = self._gateway.current.table.apis.get(api)
        if served is None:
            raise Rejected(status, _NO_API)
        if not _is_server(served.definition):
            raise Rejected(status, "API is not OAuth2")
        return served.definition


def _is_server(definition: Definition) -> bool:
    return any(method.name == "oauth" for method in definition.auth.methods)


def _rules(definition: Definition) -> OAuthRules:
    from aiogate.credentials.oauth_rules import OAuthRules

    method = next(method for method in definition.auth.methods if method.name == "oauth")
    return OAuthRules.model_validate(method.config)


def _check_uris(uris: Sequence[str]) -> None:
    from aiogate.credentials.oauth_rules import redirect_mistake

    mistakes = [f"redirect_uri: {uri[:200]!r} {mistake}" for uri in uris if (mistake := redirect_mistake(uri))]
    if mistakes:
        raise Rejected(400, "The client cannot be made", mistakes)
