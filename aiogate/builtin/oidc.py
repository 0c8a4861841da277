"""Authenticate by ID tokens of OpenID providers (OpenID Connect Core 1.0).

    auth:
      - oidc:
          providers:
            - issuer: https://login.example.com/
              clients: {web-app: gold, phone-app: silver}

The provider's discovery document says where its keys are. A token must be for one of the clients, and the client says
which policy it opens. As with `jwt`, sessions are made in memory: limits count per issuer and subject, with
`segregate_by_client` per client too, and a token that was right is remembered until it expires.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator, Field, model_validator

from aiogate import (
    PROBLEMS,
    Authenticator,
    AuthenticatorKind,
    BuildContext,
    Duration,
    Exchange,
    LookupFailure,
    Model,
    Places,
    Problem,
    Session,
    Token,
    TokenRights,
    hookimpl,
)

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "Ed448"
]  # fmt: skip
Text = Annotated[str, Field(min_length=1)]
_one_or_more = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)


class Provider(Model):
    """One provider. `issuer` is what `iss` must be, and where the discovery document is found."""

    issuer: Text
    clients: Mapping[str, Text] = Field(min_length=1)
    algorithms: Annotated[tuple[Algorithm, ...], _one_or_more, Field(min_length=1)] = (
        "RS256",
        "PS256",
        "ES256",
        "EdDSA",
    )


class Config(Places):
    """The providers whose tokens are taken, each with its clients and their policies."""

    providers: Annotated[tuple[Provider, ...], Field(min_length=1)]
    segregate_by_client: bool = False
    identity: Text = "sub"
    skew: Annotated[Duration, Field(le=300)] = 0.0
    keys_cache: Annotated[Duration, Field(ge=30, le=86400)] = 300.0

    @model_validator(mode="after")
    def _whole(self) -> Config:
        issuers = [provider.issuer for provider in self.providers]
        if len(set(issuers)) < len(issuers):
            raise ValueError("two providers have the same issuer")
        return self


class Verifier(Protocol):
    """What verifies the tokens of one provider."""

    @property
    def generation(self) -> int: ...

    def read(self, text: str) -> Token | Problem: ...

    def verify(self, token: Token) -> float | Problem | Awaitable[float | Problem]: ...


@dataclass(frozen=True, slots=True)
class Known:
    """A token that was verified, and what that depends on."""

    session: Session
    claims: Mapping[str, Any]
    policies: object
    verifier: Verifier
    generation: int


@hookimpl
def aiogate_middleware() -> AuthenticatorKind:
    return AuthenticatorKind("oidc", Config, build, "an ID token of an OpenID provider")


def build(config: Config, context: BuildContext) -> Authenticator:
    services, org = context.services, context.definition.org
    tokens, sessions = services.tokens, services.sessions
    rings = [tokens.discovered_keys(provider.issuer, config.keys_cache) for provider in config.providers]
    providers: dict[str, tuple[Provider, Verifier]] = {}
    for provider, keys in zip(config.providers, rings, strict=True):
        verifier = tokens.verifier(
            provider.algorithms,
            keys,
            issuers=[provider.issuer],
            audiences=provider.clients,
            required=("exp", "iat"),
            skews=(config.skew, config.skew, config.skew),
        )
        providers[provider.issuer] = (provider, verifier)
    memory = tokens.memory(Known)
    rights = TokenRights(identity=config.identity)
    present = config.reader(of_header(context.siblings))
    realm = context.definition.name
    # Before `jwt` a token of another issuer is left to that.
    later = context.siblings[context.siblings.index("oidc") + 1 :] if "oidc" in context.siblings else ()
    leaves_others = "jwt" in later

    missing = replace(PROBLEMS["auth_missing"], message="Key not authorised", event="AuthFailure")
    missing = missing.with_challenge("Bearer", realm=realm)

    def authenticate(exchange: Exchange) -> Session | Problem | None | Awaitable[Session | Problem]:
        text = present(exchange)
        if text is None or isinstance(text, Problem):
            return text
        known = memory.get(text)
        if known is not None and known.policies is exchange.policies and known.generation == known.verifier.generation:
            exchange.state["oidc"] = known.claims
            return known.session
        issuer = tokens.issuer_of(text)
        if issuer not in providers:
            if leaves_others:
                return None
            return refused(foreign(text, issuer))
        return verify(exchange, text, *providers[issuer])

    async def verify(exchange: Exchange, text: str, provider: Provider, verifier: Verifier) -> Session | Problem:
        token = verifier.read(text)
        if isinstance(token, Problem):
            return refused(token)
        pending = verifier.verify(token)
        until = await pending if isinstance(pending, Awaitable) else pending
        if isinstance(until, Problem):
            return refused(until)
        generation = verifier.generation
        client = client_of(token, provider.clients)
        if isinstance(client, Problem):
            return refused(client)
        identity = rights.identity_of(token)
        if isinstance(identity, Problem):
            return refused(identity)
        apart = f"\0{client}" if config.segregate_by_client else ""
        name = f"oidc\0{provider.issuer}\0{identity}{apart}"
        session = sessions.derived(org, "jwt", name, [provider.clients[client]], exchange.policies, identity)
        if isinstance(session, LookupFailure):
            message = "Key not authorized: no matching policy"
            return replace(PROBLEMS["token_policy"], message=message, detail=f"client {client}: {session.reason}")
        session = replace(session, expires=0.0 if math.isinf(until) else until)
        memory.put(text, Known(session, token.claims, exchange.policies, verifier, generation), until)
        exchange.state["oidc"] = token.claims
        return session

    def foreign(text: str, issuer: str | None) -> Problem:
        """Why a token is of none of the providers: it may not be a token at all."""
        for _, verifier in providers.values():
            token = verifier.read(text)
            if isinstance(token, Problem) and token.code == "token_invalid":
                return token
            if isinstance(token, Token) and token.broken:
                return PROBLEMS["token_invalid"].because(token.broken)
        said = "has no claim `iss` that is text" if issuer is None else f"is of the issuer {issuer[:200]!r}"
        return PROBLEMS["token_invalid"].because(f"the token {said}, accepted: {', '.join(providers)}")

    def refused(problem: Problem) -> Problem:
        """Tyk has one text and status for whatever is wrong with an ID token."""
        if problem.status >= 500:
            return problem
        told = replace(problem, status=401, message="Key not authorised")
        return told.with_challenge("Bearer", realm=realm, error="invalid_token")

    def close() -> None:
        for keys in rings:
            tokens.give_back(keys)

    return Authenticator(
        kind="oidc",
        authenticate=authenticate,
        missing=missing,
        credential_headers=config.headers,
        credential_query=config.parameters,
        credential_cookies=config.cookies,
        close=close,
    )


def of_header(siblings: tuple[str, ...]) -> Callable[[str], str | None]:
    """The token in a header's value, `Bearer` or bare; beside other methods only what has three parts."""
    alone = len(siblings) == 1

    def read(value: str) -> str | None:
        scheme, _, rest = value.partition(" ")
        if rest and scheme.lower() == "bearer":
            value = rest
        elif rest or not alone:
            return None
        value = value.strip()
        return value if alone or value.count(".") == 2 else None

    return read


def client_of(token: Token, clients: Mapping[str, str]) -> str | Problem:
    """The client that the token was made for (OpenID Connect Core 1.0 section 3.1.3.7, 3 to 5).

    `azp` where it is there; else the audience, which must then name a single one of the clients.
    """
    party = token.claims.get("azp")
    if party is not None:
        if isinstance(party, str) and party in clients:
            return party
        detail = f"the claim `azp` is {str(party)[:200]!r}, clients: {', '.join(clients)}"
        return PROBLEMS["token_rejected"].because(detail)
    audience = token.claims.get("aud")
    listed = audience if isinstance(audience, list) else [audience]
    named = {one for one in listed if isinstance(one, str) and one in clients}
    if len(named) == 1:
        return named.pop()
    detail = f"the claim `aud` names {len(named)} of the clients, and there is no `azp`"
    return PROBLEMS["token_rejected"].because(detail)
