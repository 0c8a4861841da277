"""Be an OAuth 2 server for an API, and let in whoever presents a token that it issued (RFC 6749, RFC 6750).

    auth:
      - oauth:
          login: https://login.example.com/allow
          token_lifetime: 1h
          default_policies: [gold]

The endpoints stand under the listen path: `oauth/authorize`, `oauth/token`, `oauth/introspect`, `oauth/revoke`,
`oauth/revoke_all` and `.well-known/oauth-authorization-server`. A user is sent on to the page `login`; its server says
to the control API what the user allowed (`POST /tyk/oauth/authorize-client`), and gets the address to send the user
back to. Clients are made there too (`/tyk/oauth/clients`).

A token is a session like that of a key: verified from the same cache, and revoked as fast.
"""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote_plus

import orjson

from aiogate import (
    PROBLEMS,
    Authenticator,
    AuthenticatorKind,
    BuildContext,
    Exchange,
    LookupFailure,
    OAuthRules,
    Problem,
    Response,
    Session,
    hookimpl,
)

if TYPE_CHECKING:
    from aiogate import OAuthClient, OAuthGrant, OAuthIssued

ISSUED = "oat_"
"""What a token begins with."""
LONGEST = 4096
_MOST = 64 * 1024
_MOST_PARAMETERS = 100
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache", "Content-Type": "application/json"}
Parameters = Mapping[str, str]
refused = OAuthRules.refused


@hookimpl
def aiogate_middleware() -> AuthenticatorKind:
    return AuthenticatorKind("oauth", OAuthRules, build, "tokens of the OAuth 2 server that this API has")


def build(rules: OAuthRules, context: BuildContext) -> Authenticator:
    sessions, book = context.services.sessions, context.services.oauth
    org, realm = context.definition.org, context.definition.name
    alone = len(context.siblings) == 1
    leaves_signed = not {"jwt", "oidc"}.isdisjoint(context.siblings)
    only_issued = not {"key", "introspection"}.isdisjoint(context.siblings)
    missing = replace(PROBLEMS["auth_missing"], status=400, event="AuthFailure").with_challenge("Bearer", realm=realm)
    malformed = PROBLEMS["bearer_malformed"].with_challenge("Bearer", realm=realm, error="invalid_request")
    unknown, revoked = (
        PROBLEMS[code].with_challenge("Bearer", realm=realm, error="invalid_token")
        for code in ("token_unknown", "client_revoked")
    )

    def authenticate(exchange: Exchange) -> Session | Problem | None | Awaitable[Session | Problem]:
        value = exchange.headers.get(rules.header)
        if value is None:
            return None
        scheme, _, rest = value.partition(" ")
        token = rest.strip()
        if scheme.lower() != "bearer" or not token or " " in token:
            return malformed.because("the header is not the word Bearer and one token") if alone else None
        if (leaves_signed and token.count(".") == 2) or (only_issued and not token.startswith(ISSUED)):
            return None
        found = sessions.cached(org, token, exchange.policies)
        if type(found) is Session and found.kind == "oauth":
            return found
        return look_up(exchange, token)

    async def look_up(exchange: Exchange, token: str) -> Session | Problem:
        if len(token) > LONGEST:
            return unknown.because(f"no token has {len(token)} characters")
        found = await sessions.find(org, token, exchange.policies)
        if isinstance(found, Session):
            if found.kind == "oauth":
                return found
            return unknown.because(f"the name belongs to a session of kind {found.kind}, which is not an OAuth token")
        if not found.missing:
            return unknown.because(found.reason)
        held = await book.held_by(org, token) if token.startswith(ISSUED) else None
        if held is not None and held.gone:
            return revoked.because(f"the token was issued to client {held.client}, which was deleted")
        return unknown.because(await sessions.explain_missing(org, token))

    return Authenticator(
        kind="oauth",
        authenticate=authenticate,
        missing=missing,
        credential_headers=(rules.header,),
        endpoints=Endpoints(rules, context).answer,
    )


class Endpoints:
    """What the server answers itself."""

    def __init__(self, rules: OAuthRules, context: BuildContext) -> None:
        definition = context.definition
        self.rules = rules
        self.api, self.org, self.listen = definition.id, definition.org, definition.listen.path
        self.book = context.services.oauth
        self.sessions, self.passwords = context.services.sessions, context.services.passwords
        self.failures = context.services.failures
        form, page = ("POST",), ("GET", "POST")
        table: Mapping[str, tuple[tuple[str, ...], Callable[[Exchange], Any]]] = {
            "oauth/authorize": (page, self.authorize),
            "oauth/token": (form, self.token),
            "oauth/introspect": (form, self.introspect),
            "oauth/revoke": (form, self.revoke),
            "oauth/revoke_all": (form, self.revoke_all),
            ".well-known/oauth-authorization-server": (("GET", "HEAD"), self.metadata),
        }
        self.table = {f"{self.listen}{path}{slash}": row for path, row in table.items() for slash in ("", "/")}

    def answer(self, exchange: Exchange) -> Problem | Response | None | Awaitable[Problem | Response]:
        row = self.table.get(exchange.path)
        if row is None:
            return None
        methods, handle = row
        if exchange.method not in methods:
            if exchange.method == "OPTIONS":
                return Response(204, headers={"Allow": ", ".join(methods)})
            problem = PROBLEMS["method_not_allowed"].because(f"{exchange.method} at an endpoint for {methods[0]}")
            return problem.with_header("Allow", ", ".join(methods))
        answer: Problem | Response | Awaitable[Problem | Response] = handle(exchange)
        return answer

    # Authorisation

    async def authorize(self, exchange: Exchange) -> Problem | Response:
        """Send the user on to the login page, with the request as it was found right (RFC 6749 section 4.1.1)."""
        asked = await read_form(exchange) if exchange.method == "POST" else pairs_of(exchange.query)
        if isinstance(asked, Problem):
            return asked
        client = await self.book.client(self.api, asked.get("client_id", ""))
        if client is None:
            # Where nobody vouches for the address, nobody is sent there.
            return refused("invalid_request", "client_id is not known", f"client {asked.get('client_id', '')[:200]!r}")
        found = self.book.authorisation(client, asked, self.rules)
        if isinstance(found, Problem):
            return found
        assert self.rules.login is not None
        onward = {**asked, "redirect_uri": found.redirect_uri, "api_id": self.api}
        location = self.rules.address(self.rules.login, onward)
        status = 303 if exchange.method == "POST" else 307
        return Response(status, headers={**_NO_STORE, "Location": location})

    # Tokens

    async def token(self, exchange: Exchange) -> Problem | Response:
        """RFC 6749 section 3.2."""
        form = await read_form(exchange)
        if isinstance(form, Problem):
            return form
        client = await self.client(exchange, form)
        if isinstance(client, Problem):
            return client
        kind = form.get("grant_type", "")
        if not kind:
            return refused("invalid_request", "grant_type is missing")
        if kind not in self.rules.allowed:
            offered = ", ".join(self.rules.allowed)
            return refused("unsupported_grant_type", "the grant is not offered", f"{kind[:100]!r}, offered: {offered}")
        grants = {
            "authorization_code": self.by_code,
            "refresh_token": self.by_refresh,
            "client_credentials": self.by_itself,
            "password": self.by_password,
        }
        grant = await grants[kind](client, form, exchange)
        if isinstance(grant, Problem):
            return grant
        issued = await self.book.issue(grant, client, self.rules)
        return issued if isinstance(issued, Problem) else self.issued(issued, form)

    async def by_code(self, client: OAuthClient, form: Parameters, exchange: Exchange) -> OAuthGrant | Problem:
        if not form.get("code"):
            return refused("invalid_request", "code is missing")
        return await self.book.redeem(client, form["code"], form.get("redirect_uri", ""), form.get("code_verifier", ""))

    async def by_refresh(self, client: OAuthClient, form: Parameters, exchange: Exchange) -> OAuthGrant | Problem:
        if not form.get("refresh_token"):
            return refused("invalid_request", "refresh_token is missing")
        return await self.book.refresh(client, form["refresh_token"])

    async def by_itself(self, client: OAuthClient, form: Parameters, exchange: Exchange) -> OAuthGrant | Problem:
        if client.public:
            reason = f"client {client.id} has no secret: anybody could get its tokens"
            return refused("unauthorized_client", "the client may not use this grant", reason)
        return self.book.grant_of(client)

    async def by_password(self, client: OAuthClient, form: Parameters, exchange: Exchange) -> OAuthGrant | Problem:
        name, password = form.get("username", ""), form.get("password", "")
        if not name or not password:
            return refused("invalid_request", "username or password is missing")
        wait = self.failures.wait(exchange.client_ip, name)
        if wait:
            return throttled(exchange.client_ip, wait, "passwords", f"user {name[:100]!r}")
        found = await self.sessions.find(self.org, name, exchange.policies)
        if isinstance(found, LookupFailure) or found.kind != "basic":
            self.failures.failed(exchange.client_ip, name)
            # As slow as a wrong password, so that the time does not tell whether the user exists.
            if await self.passwords.verify_nothing(password) is None:
                return PROBLEMS["auth_busy"]
            reason = found.reason if isinstance(found, LookupFailure) else f"{name} is a session of kind {found.kind}"
            return refused("invalid_grant", "username or password is wrong", reason)
        verdict = await self.passwords.verify(found.name_hash, found.password, password)
        if verdict is None:
            return PROBLEMS["auth_busy"].because("the queue of passwords to verify is full")
        if not verdict:
            self.failures.failed(exchange.client_ip, name)
            return refused("invalid_grant", "username or password is wrong", f"the password of user {name} is wrong")
        self.failures.passed(exchange.client_ip, name)
        return await self.book.begin(self.book.grant_of(client, name, found.name_hash), self.rules)

    def issued(self, issued: OAuthIssued, form: Parameters) -> Response:
        answer: dict[str, Any] = {
            "access_token": issued.access, "token_type": "bearer", "expires_in": issued.expires_in,
        }  # fmt: skip
        if issued.refresh:
            answer["refresh_token"] = issued.refresh
        if form.get("scope"):
            answer["scope"] = ""  # rights are those of policies; RFC 6749 section 3.3 wants it said
        return self.json(answer)

    # Questions about tokens, and their end

    async def introspect(self, exchange: Exchange) -> Problem | Response:
        """RFC 7662. Only clients that prove who they are may ask, and about their own tokens: nobody tries some here.

        Of a token of somebody else they learn nothing, as of one that does not exist (section 2.2). The servers behind
        the API, which get tokens of all clients, are named under `resource_servers`.
        """
        form = await read_form(exchange)
        if isinstance(form, Problem):
            return form
        client = await self.client(exchange, form)
        if isinstance(client, Problem):
            return client
        if client.public:
            return refused("invalid_client", "the client has no secret", f"client {client.id} is public", 401)
        if not form.get("token"):
            return refused("invalid_request", "token is missing")
        of_all = client.id in self.rules.resource_servers
        return self.json(await self.book.described(client, form["token"], self.issuer(exchange), of_all=of_all))

    async def revoke(self, exchange: Exchange) -> Problem | Response:
        """RFC 7009. A token that is not the client's own is left alone, and nobody learns whether it exists."""
        form = await read_form(exchange)
        if isinstance(form, Problem):
            return form
        client = await self.client(exchange, form)
        if isinstance(client, Problem):
            return client
        if not form.get("token"):
            return refused("invalid_request", "token is missing")
        await self.book.revoke(client, form["token"])
        return self.json({})

    async def revoke_all(self, exchange: Exchange) -> Problem | Response:
        """Every grant and token of the client that asks; Tyk's own."""
        form = await read_form(exchange)
        if isinstance(form, Problem):
            return form
        client = await self.client(exchange, form)
        if isinstance(client, Problem):
            return client
        if client.public:
            return refused("invalid_client", "the client has no secret", f"client {client.id} is public", 401)
        await self.book.end_all(client)
        return self.json({})

    def metadata(self, exchange: Exchange) -> Response:
        """RFC 8414."""
        issuer, allowed = self.issuer(exchange), self.rules.allowed
        code = "authorization_code" in allowed
        methods = ["client_secret_basic", "client_secret_post"]
        told: dict[str, Any] = {
            "issuer": issuer,
            "token_endpoint": f"{issuer}/oauth/token",
            "introspection_endpoint": f"{issuer}/oauth/introspect",
            "revocation_endpoint": f"{issuer}/oauth/revoke",
            "response_types_supported": ["code"] if code else [],
            "grant_types_supported": list(allowed),
            "token_endpoint_auth_methods_supported": [*methods, "none"],
            "revocation_endpoint_auth_methods_supported": [*methods, "none"],
            "introspection_endpoint_auth_methods_supported": methods,
        }
        if code:
            told["authorization_endpoint"] = f"{issuer}/oauth/authorize"
            told["code_challenge_methods_supported"] = ["S256"]
            told["authorization_response_iss_parameter_supported"] = self.rules.issuer is not None
        return self.json(told)

    # Who asks

    async def client(self, exchange: Exchange, form: Parameters) -> OAuthClient | Problem:
        """The client, by the Authorization header or by the form, never by both (RFC 6749 section 2.3)."""
        header = exchange.headers.get("Authorization")
        name, secret = form.get("client_id", ""), form.get("client_secret", "")
        if header is not None:
            presented = basic(header)
            if presented is None:
                return self.stranger("the Authorization header is not Basic with a client and its secret")
            if secret:
                return refused("invalid_request", "the client presents its secret twice")
            if name and name != presented[0]:
                return refused("invalid_request", "client_id is not that of the Authorization header")
            name, secret = presented
        if not name:
            return self.stranger("neither an Authorization header nor client_id names a client")
        if (waiting := self.waiting(exchange, name)) is not None:
            return waiting
        client = await self.book.authenticate(self.api, name, secret)
        # Asked again: of many guesses at once, those beyond the limit are not answered either.
        if (waiting := self.waiting(exchange, name)) is not None:
            return waiting
        counted = f"{self.api}\0{name}"
        if client is not None:
            if secret and not self.failures.quiet:
                self.failures.passed(exchange.client_ip, counted)
            return client
        if secret:
            self.failures.failed(exchange.client_ip, counted)
        known = await self.book.client(self.api, name)
        if known is None:
            elsewhere = ", ".join(await self.book.apis_of(name))
            where = f"; there is one of that id at {elsewhere}" if elsewhere else ""
            return self.stranger(f"API {self.api} has no client {name[:200]!r}{where}")
        if known.public:
            return self.stranger(f"client {name} has no secret, and one was presented")
        return self.stranger(f"the secret of client {name} is {'wrong' if secret else 'missing'}")

    def waiting(self, exchange: Exchange, name: str) -> Problem | None:
        """The refusal of an address that has presented too many wrong secrets."""
        if self.failures.quiet:
            return None
        wait = self.failures.wait(exchange.client_ip, f"{self.api}\0{name}")
        return throttled(exchange.client_ip, wait, "client secrets", f"client {name[:100]!r}") if wait else None

    def stranger(self, reason: str) -> Problem:
        problem = refused("invalid_client", "the client is not who it says", reason, 401)
        return problem.with_challenge("Basic", realm=self.api)

    def issuer(self, exchange: Exchange) -> str:
        if self.rules.issuer is not None:
            return self.rules.issuer.rstrip("/")
        return f"{exchange.scheme}://{exchange.headers.get('Host', exchange.host)}{self.listen.rstrip('/')}"

    def json(self, value: Mapping[str, Any]) -> Response:
        return Response(200, orjson.dumps(value), headers=_NO_STORE)


def throttled(address: str, wait: float, what: str, who: str) -> Problem:
    problem = PROBLEMS["auth_throttled"].with_header("Retry-After", str(math.ceil(wait)))
    return problem.because(f"too many wrong {what} came from {address}; {who} waits {wait:.0f} s")


async def read_form(exchange: Exchange) -> Parameters | Problem:
    """The parameters of the body, each once; a JSON object does as well, as in Tyk."""
    body = await exchange.body.read_all(_MOST)
    kind = exchange.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            return refused("invalid_request", "the body is not a JSON object of texts")
        return {name: text for name, text in value.items() if text}
    if kind not in ("", "application/x-www-form-urlencoded"):
        return refused("invalid_request", "the body is not a form", f"its Content-Type is {kind[:100]!r}")
    try:
        return pairs_of(body.decode("ascii"))
    except UnicodeDecodeError:
        return refused("invalid_request", "the body is not a form", "it holds bytes that are not ASCII")


def pairs_of(text: str) -> Parameters | Problem:
    """The parameters of a query or a form. None may stand there twice (RFC 6749 section 3.1); empty ones are absent."""
    try:
        pairs = parse_qsl(text, keep_blank_values=False, max_num_fields=_MOST_PARAMETERS, errors="strict")
    except ValueError:
        return refused("invalid_request", "the parameters are not UTF-8, or too many")
    names = [name for name, _ in pairs]
    if len(names) != len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        return refused("invalid_request", "a parameter stands there twice", f"{twice[:100]!r}")
    return dict(pairs)


def basic(header: str) -> tuple[str, str] | None:
    """OAuthClient and secret of an Authorization header; both are form-encoded in it (RFC 6749 section 2.3.1)."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = b64decode(value.strip(), validate=True).decode()
    except ValueError:
        return None
    name, colon, secret = text.partition(":")
    return (unquote_plus(name), unquote_plus(secret)) if colon and name else None
