"""What the gateway remembers as an OAuth 2 server: clients, grants, codes and tokens.

An access token is a session of kind `oauth` in the session store, so that a request meets it like a key, and revoking
it is deleting it: in force at once here, and by the store's messages elsewhere. Everything else is in the vault:

    oauth.client:<api>:<id>       a client, its secret as a digest
    oauth.grant:<id>              what a user allowed: gone, it takes all tokens with it
    oauth.code:<digest>           an authorisation code; once used it stays as spent, so that a second use is noticed
    oauth.refresh:<digest>        a refresh token, likewise
    oauth.token:<digest>          who has which access token

Codes and refresh tokens are spent by one atomic swap. Whoever finds one spent ends its grant (RFC 9700 section 4.14),
and whoever has just issued a token looks whether its grant still lives: so nothing outlives the end of a grant,
whatever happens at the same time.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, Final

import orjson

from aiogate.credentials.oauth_rules import Authorisation, OAuthRules, answered, authorisation, proves
from aiogate.domain.account import stored_name
from aiogate.domain.session import (
    BasicAuthData,
    DocumentError,
    JwtData,
    Record,
    SessionDocument,
    parse_stored,
)
from aiogate.errors import Problem

if TYPE_CHECKING:
    from aiogate.clock import Clock
    from aiogate.stores.base import VaultStore
    from aiogate.stores.repositories import SessionDirectory

refused = OAuthRules.refused

__all__ = [
    "HeldToken",
    "OAuthBook",
    "OAuthClient",
    "OAuthGrant",
    "OAuthIssued",
    "client_mistake",
    "new_secret",
    "secret_digest",
]

ACCESS: Final = "oat_"
REFRESH: Final = "ort_"
_AT_A_TIME: Final = 200
_SHORTEST_SECRET: Final = 16
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}")
_NOBODY: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """An application that gets tokens of one API. Without a secret it is public: an app, or a page in a browser."""

    api: str
    org: str
    id: str
    secret: str = field(default="", repr=False)
    """SHA-256 of the secret, which has 128 bits or more; empty: none."""
    redirect_uris: tuple[str, ...] = ()
    policy: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""

    @property
    def public(self) -> bool:
        return not self.secret


@dataclass(frozen=True, slots=True)
class OAuthGrant:
    """What somebody allowed a client. `document` is the session that its tokens get.

    `user` is the stored name of a basic-auth user whose rights are read again for each token; empty: `document` holds.
    `id` empty: nobody allowed it, the client acts for itself, and there is nothing to refresh.
    """

    id: str
    api: str
    org: str
    client: str
    subject: str
    document: Mapping[str, Any]
    user: str = ""


@dataclass(frozen=True, slots=True)
class OAuthIssued:
    """Tokens as their client gets them, once."""

    access: str = field(repr=False)
    expires_in: int
    refresh: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class HeldToken:
    """An access token of a client: its stored name, and when it expires."""

    name_hash: str
    client: str
    grant: str
    subject: str
    issued: int
    expires: int
    api: str = ""
    gone: bool = False
    """Its client was deleted."""


def new_secret() -> str:
    """A secret for a client: 256 random bits."""
    return secrets.token_urlsafe(32)


def secret_digest(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def client_mistake(client_id: str, secret: str) -> str:
    """Why a client cannot have this id and secret; empty when it can. Secrets are hashed fast: they must be long."""
    if not _ID.fullmatch(client_id):
        return "client_id: should have from 1 to 128 letters, digits and . _ ~ -, a letter or digit first"
    if secret and len(secret) < _SHORTEST_SECRET:
        return f"secret: should have at least {_SHORTEST_SECRET} characters; leave it out to have one made"
    return ""


class OAuthBook:
    """Reads and writes raise `StoreUnavailable`. Refusals are `Problem`s in the form of RFC 6749."""

    __slots__ = ("_clock", "_sessions", "_vault")

    def __init__(self, vault: VaultStore, sessions: SessionDirectory, clock: Clock) -> None:
        self._vault = vault
        self._sessions = sessions
        self._clock = clock

    # Clients

    async def client(self, api: str, client_id: str) -> OAuthClient | None:
        if not _ID.fullmatch(client_id):
            return None
        found = await self._vault.get(f"oauth.client:{api}:{client_id}")
        return _client(found) if found is not None else None

    async def clients(self, api: str) -> Sequence[OAuthClient]:
        return [_client(document) async for _, document in self._all(f"oauth.clients:{api}")]

    async def apis_of(self, client_id: str) -> Sequence[str]:
        """The APIs where a client of this id is known."""
        if not _ID.fullmatch(client_id):
            return []
        return [_client(document).api async for _, document in self._all(f"oauth.apis:{client_id}")]

    async def keep(self, client: OAuthClient) -> None:
        """Write a client."""
        groups = (f"oauth.clients:{client.api}", f"oauth.apis:{client.id}")
        await self._vault.put(f"oauth.client:{client.api}:{client.id}", orjson.dumps(asdict(client)), groups=groups)

    async def forget(self, client: OAuthClient) -> bool:
        """Delete a client, and with it all that it holds. False: there was none."""
        known = await self._vault.take(f"oauth.client:{client.api}:{client.id}")
        await self.end_all(client, gone=True)
        return known is not None

    async def authenticate(self, api: str, client_id: str, secret: str) -> OAuthClient | None:
        """The client that proves to be it; None: it does not. Who has no secret proves nothing, and shows none."""
        client = await self.client(api, client_id)
        expected = client.secret if client is not None and client.secret else _NOBODY
        right = compare_digest(secret_digest(secret), expected)
        if client is None or (client.public and secret) or (not client.public and not right):
            return None
        return client

    # Authorisation

    def authorisation(
        self, client: OAuthClient, parameters: Mapping[str, str], rules: OAuthRules
    ) -> Authorisation | Problem:
        """See `oauth_rules.authorisation`."""
        return authorisation(parameters, uris=client.redirect_uris, public=client.public, rules=rules)

    async def hand_over(
        self, client: OAuthClient, asked: Authorisation, document: SessionDocument, rules: OAuthRules
    ) -> tuple[str, str] | Problem:
        """Note what a user who has logged in allows: the code, and the address to send the user to."""
        grant = OAuthGrant(
            secrets.token_hex(16), client.api, client.org, client.id, document.alias, orjson.loads(document.stored())
        )
        now = self._clock.now()
        until = now + rules.code_lifetime + rules.kept
        code = secrets.token_urlsafe(32)
        noted = {
            "grant": grant.id, "api": client.api, "client": client.id, "uri": asked.sent_uri,
            "challenge": asked.challenge, "expires": now + rules.code_lifetime, "spent": False,
            "until": until,
        }  # fmt: skip
        # A code stays past its end, spent or not, so that whoever comes with it later is noticed.
        await self._keep_grant(grant, until)
        await self._vault.put(_code_name(code), orjson.dumps(noted), until=until)
        if await self.client(client.api, client.id) is None:
            await self.end(grant.id)
            return refused("invalid_client", "client is not known", "the client was deleted meanwhile", 401)
        return code, answered(asked, code, rules)

    async def redeem(self, client: OAuthClient, code: str, uri: str, verifier: str) -> OAuthGrant | Problem:
        """What a code stands for; it is spent by this. A second use ends the grant."""
        name = _code_name(code)
        found = await self._vault.get(name)
        invalid = "code is not valid"
        if found is None:
            return refused("invalid_grant", invalid, "no such code was issued, or it is long past its end")
        noted = orjson.loads(found)
        if noted["spent"]:
            return await self._reused(noted["grant"], "the code")
        if (noted["api"], noted["client"]) != (client.api, client.id):
            reason = f"the code was issued to client {noted['client']} of API {noted['api']}, not to {client.id}"
            return refused("invalid_grant", invalid, reason)
        if noted["expires"] <= self._clock.now():
            return refused("invalid_grant", invalid, "the code has expired")
        if noted["uri"] != uri:
            return refused("invalid_grant", "redirect_uri is not that of the authorisation", f"it says {uri[:300]!r}")
        if noted["challenge"]:
            if not proves(verifier, noted["challenge"]):
                what = "does not match the challenge" if verifier else "is missing"
                return refused("invalid_grant", f"code_verifier {what}")
        elif verifier:
            return refused("invalid_grant", "code_verifier without a challenge", "no challenge was sent for this code")
        before = await self._spend(name, noted)
        if before is None or before["spent"]:
            return await self._reused(noted["grant"], "the code")
        return await self._grant(noted["grant"])

    # Tokens

    async def issue(self, grant: OAuthGrant, client: OAuthClient, rules: OAuthRules) -> OAuthIssued | Problem:
        """Tokens for a grant."""
        document = await self._document(grant, client, rules)
        if isinstance(document, Problem):
            return document
        now = self._clock.now()
        expires = int(now) + int(rules.token_lifetime)
        if document.expires >= 1:
            expires = min(expires, document.expires)
        if expires <= now:
            return refused("invalid_grant", "the session has expired")
        access = ACCESS + secrets.token_urlsafe(32)
        name_hash = stored_name(client.org, access)
        held = HeldToken(name_hash, client.id, grant.id, grant.subject, int(now), expires, client.api)
        groups = [f"oauth.tokens:{client.api}:{client.id}", *([f"oauth.parts:{grant.id}"] if grant.id else ())]
        await self._vault.put(f"oauth.token:{name_hash}", orjson.dumps(held), until=expires, groups=groups)
        document = document.changed(expires=expires)
        record = Record(
            name_hash, client.org, "oauth", document.alias or client.id, document.stored(), delete_at=float(expires)
        )
        await self._sessions.put(record)
        refresh = ""
        if grant.id and "refresh_token" in rules.allowed:
            refresh = REFRESH + secrets.token_urlsafe(32)
            until = now + rules.refresh_lifetime
            noted = {"grant": grant.id, "api": client.api, "client": client.id, "until": until, "spent": False}
            name = f"oauth.refresh:{stored_name(client.org, refresh)}"
            await self._vault.put(name, orjson.dumps(noted), until=until, groups=[f"oauth.parts:{grant.id}"])
        if not await self._lives(grant, client, now + rules.kept):
            await self._drop_token(held)
            await self._end_parts(grant.id)
            return refused("invalid_grant", "the grant has ended", "the grant or its client was revoked meanwhile")
        return OAuthIssued(access, expires - int(now), refresh)

    async def refresh(self, client: OAuthClient, token: str) -> OAuthGrant | Problem:
        """What a refresh token continues; it is spent by this. A second use ends the grant."""
        name = f"oauth.refresh:{stored_name(client.org, token)}"
        found = await self._vault.get(name)
        invalid = "refresh_token is not valid"
        if found is None:
            return refused("invalid_grant", invalid, "no such refresh token is known: never issued, ended or revoked")
        noted = orjson.loads(found)
        if (noted["api"], noted["client"]) != (client.api, client.id):
            return refused("invalid_grant", invalid, f"it was issued to client {noted['client']} of API {noted['api']}")
        before = await self._spend(name, noted)
        if before is None or before["spent"]:
            return await self._reused(noted["grant"], "the refresh token")
        return await self._grant(noted["grant"])

    async def held(self, name_hash: str) -> HeldToken | None:
        """The access token of this stored name."""
        found = await self._vault.get(f"oauth.token:{name_hash}")
        return HeldToken(**orjson.loads(found)) if found is not None else None

    async def held_by(self, org: str, token: str) -> HeldToken | None:
        """The same, by the token itself."""
        return await self.held(stored_name(org, token))

    async def described(
        self, client: OAuthClient, token: str, issuer: str, *, of_all: bool = False
    ) -> Mapping[str, Any]:
        """What a client may know of a token of its own (RFC 7662 section 2.2); any other is as inactive as a dead one.

        `of_all`: it may know of the access tokens of all clients of its API. A refresh token is nobody else's matter.
        """
        held = await self.held_by(client.org, token)
        if held is not None and held.api == client.api and not held.gone and (of_all or held.client == client.id):
            if await self._sessions.get_record(held.name_hash) is not None:
                known = {"token_type": "bearer", "client_id": held.client, "iat": held.issued, "exp": held.expires}
                return {"active": True, **known, "iss": issuer, **({"sub": held.subject} if held.subject else {})}
        noted = await self._refresh_of(client.org, token)
        if noted is None or noted["spent"] or (noted["api"], noted["client"]) != (client.api, client.id):
            return {"active": False}
        return {"active": True, "client_id": noted["client"], "exp": int(noted["until"]), "iss": issuer}

    async def tokens(self, client: OAuthClient) -> Sequence[HeldToken]:
        """The access tokens that a client holds."""
        group = f"oauth.tokens:{client.api}:{client.id}"
        tokens = [HeldToken(**orjson.loads(document)) async for _, document in self._all(group)]
        return [token for token in tokens if not token.gone]

    async def revoke(self, client: OAuthClient, token: str) -> bool:
        """Revoke an access token, or a refresh token with all that came of its grant (RFC 7009). False: not its own.

        `token` may also be the stored name of an access token.
        """
        for name_hash in (stored_name(client.org, token), token):
            held = await self.held(name_hash)
            if held is not None and (held.api, held.client) == (client.api, client.id):
                await self._drop_token(held)
                return True
        noted = await self._refresh_of(client.org, token)
        if noted is None or (noted["api"], noted["client"]) != (client.api, client.id):
            return False
        await self.end(noted["grant"])
        return True

    async def invalidate_refresh(self, org: str, api: str, token: str) -> bool:
        """Forget a refresh token; the tokens that it brought live on. False: this API knows none such."""
        noted = await self._refresh_of(org, token)
        if noted is None or noted["api"] != api:
            return False
        return await self._vault.take(f"oauth.refresh:{stored_name(org, token)}") is not None

    async def refresh_api(self, org: str, token: str) -> str:
        """The API of a refresh token that is not spent; empty: there is none."""
        noted = await self._refresh_of(org, token)
        return "" if noted is None or noted["spent"] else str(noted["api"])

    async def end_all(self, client: OAuthClient, *, gone: bool = False) -> None:
        """End every grant and token of a client. `gone`: the client is no more, and whoever comes is told."""
        async for name, _ in self._all(f"oauth.grants:{client.api}:{client.id}"):
            await self._vault.take(name)
            await self._end_parts(name.partition(":")[2], gone=gone)
        async for _, document in self._all(f"oauth.tokens:{client.api}:{client.id}"):
            await self._drop_token(HeldToken(**orjson.loads(document)), gone=gone)

    async def end(self, grant: str) -> None:
        """End one grant with everything that came of it."""
        await self._vault.take(f"oauth.grant:{grant}")
        await self._end_parts(grant)

    # Inside

    async def _spend(self, name: str, noted: Mapping[str, Any]) -> Mapping[str, Any] | None:
        before = await self._vault.swap(name, orjson.dumps({**noted, "spent": True}), until=noted["until"])
        return orjson.loads(before) if before is not None else None

    async def _reused(self, grant: str, what: str) -> Problem:
        await self.end(grant)
        reason = f"{what} was used before; the grant and every token of it are revoked"
        return refused("invalid_grant", f"{what.removeprefix('the ')} is not valid", reason)

    async def _grant(self, grant: str) -> OAuthGrant | Problem:
        found = await self._vault.get(f"oauth.grant:{grant}")
        if found is None:
            return refused("invalid_grant", "the grant has ended", "it was revoked, or not used for too long")
        return OAuthGrant(**orjson.loads(found))

    async def _keep_grant(self, grant: OAuthGrant, until: float) -> None:
        groups = [f"oauth.grants:{grant.api}:{grant.client}"]
        await self._vault.put(f"oauth.grant:{grant.id}", orjson.dumps(grant), until=until, groups=groups)

    def grant_of(self, client: OAuthClient, subject: str = "", user: str = "") -> OAuthGrant:
        """The grant of a client for itself, or of a basic-auth user by name and stored name; nothing is noted."""
        return OAuthGrant("", client.api, client.org, client.id, subject, {}, user)

    async def begin(self, grant: OAuthGrant, rules: OAuthRules) -> OAuthGrant:
        """Note a grant that needs no code."""
        grant = replace(grant, id=secrets.token_hex(16))
        await self._keep_grant(grant, self._clock.now() + rules.kept)
        return grant

    async def _lives(self, grant: OAuthGrant, client: OAuthClient, until: float) -> bool:
        """Whether nobody has ended what was just issued; the grant lives on from here."""
        if await self.client(client.api, client.id) is None:
            return False
        if not grant.id:
            return True
        return await self._vault.swap(f"oauth.grant:{grant.id}", orjson.dumps(grant), until=until) is not None

    async def _document(self, grant: OAuthGrant, client: OAuthClient, rules: OAuthRules) -> SessionDocument | Problem:
        """The session that a token gets: the grant's, under the client's policy where it has one."""
        document = SessionDocument.model_validate(grant.document)
        counted = grant.id or stored_name(client.org, f"oauth\0{client.api}\0{client.id}")
        if grant.user:
            record = await self._sessions.get_record(grant.user)
            if record is None or record.kind != "basic":
                return refused("invalid_grant", "the user may not log in", f"user {grant.subject} was deleted")
            try:
                document = parse_stored(record.document)
            except DocumentError as broken:
                return refused("invalid_grant", "the user may not log in", f"the user's record is broken: {broken}")
            if document.is_inactive or 1 <= document.expires <= self._clock.now():
                return refused(
                    "invalid_grant", "the user may not log in", f"user {grant.subject} is inactive or expired"
                )
            document = document.changed(alias=document.alias or record.label)
            counted = document.counts_under or record.name_hash
        elif client.policy:
            document = document.changed(apply_policies=(client.policy,), apply_policy_id="")
        elif not document.policy_ids and not document.access_rights:
            if not rules.default_policies:
                reason = f"client {client.id} has no policy, there are no default_policies, and no session came with it"
                return refused("unauthorized_client", "the client has no rights", reason)
            document = document.changed(apply_policies=rules.default_policies)
        return document.changed(
            oauth_client_id=client.id, counts_under=counted, meta_data={**document.meta_data, **client.meta},
            basic_auth_data=BasicAuthData(), jwt_data=JwtData(), hmac_enabled=False, hmac_string="",
            enable_http_signature_validation=False, oauth_keys={},
        )  # fmt: skip

    async def _refresh_of(self, org: str, token: str) -> Mapping[str, Any] | None:
        found = await self._vault.get(f"oauth.refresh:{stored_name(org, token)}")
        return orjson.loads(found) if found is not None else None

    async def _drop_token(self, held: HeldToken, *, gone: bool = False) -> None:
        name = f"oauth.token:{held.name_hash}"
        if gone:
            await self._vault.swap(name, orjson.dumps(replace(held, gone=True)), until=held.expires)
        else:
            await self._vault.take(name)
        await self._sessions.delete(held.name_hash)

    async def _end_parts(self, grant: str, *, gone: bool = False) -> None:
        if not grant:
            return
        async for name, document in self._all(f"oauth.parts:{grant}"):
            if name.startswith("oauth.token:"):
                await self._drop_token(HeldToken(**orjson.loads(document)), gone=gone)
            else:
                await self._vault.take(name)

    async def _all(self, group: str) -> AsyncIterator[tuple[str, bytes]]:
        after = ""
        while page := await self._vault.page(group, after=after, limit=_AT_A_TIME):
            for name, document in page:
                yield name, document
            after = page[-1][0]


def _client(document: bytes) -> OAuthClient:
    fields = orjson.loads(document)
    return OAuthClient(**{**fields, "redirect_uris": tuple(fields["redirect_uris"])})


def _code_name(code: str) -> str:
    return f"oauth.code:{sha256(code.encode('utf-8', 'surrogateescape')).hexdigest()}"
