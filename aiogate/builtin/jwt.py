"""Authenticate by signed tokens: JSON Web Tokens (RFC 7519).

    auth:
      - jwt:
          algorithms: [RS256]
          jwks: https://login.example.com/.well-known/jwks.json
          issuer: https://login.example.com/
          audience: my-api
          policy_claim: plan
          default_policies: [gold]

The keys are one of `key` (a secret, a PEM text or a JWK, usually `${…}`), `jwks` (addresses of published key sets) or
`from_session`: each key that was made here signs by its own `jwt_data.secret`, Tyk's one-to-one mode.

With keys of an issuer the session is made in memory from the policies that the token names; limits count per issuer and
identity, and nothing is stored. A token that was right is remembered until it expires, so that the next request costs a
keyed digest; changed keys, changed policies and a changed record end that at once.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

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
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
    "EdDSA", "Ed25519", "Ed448",
]  # fmt: skip
Text = Annotated[str, Field(min_length=1)]
_one_or_more = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
Texts = Annotated[tuple[Text, ...], _one_or_more]
Skew = Annotated[Duration, Field(le=300)]


class Skews(Model):
    """By how much the issuer's clock may differ; `exp`, `nbf` and `iat` go before `each`."""

    shorthand: ClassVar[str | None] = "each"

    each: Skew = 0.0
    exp: Skew | None = None
    nbf: Skew | None = None
    iat: Skew | None = None

    @property
    def seconds(self) -> tuple[float, float, float]:
        exp, nbf, iat = (self.each if one is None else one for one in (self.exp, self.nbf, self.iat))
        return exp, nbf, iat


class Config(TokenRights, Places):
    """Where the token stands, what it must be signed with, what it must say, and what it opens."""

    algorithms: Annotated[tuple[Algorithm, ...], _one_or_more, Field(min_length=1)]
    key: Annotated[str | None, Field(min_length=1, repr=False)] = None
    jwks: Annotated[Texts | None, Field(min_length=1)] = None
    jwks_cache: Annotated[Duration, Field(ge=30, le=86400)] = 300.0
    from_session: bool = False
    kid_is_key: bool = True
    issuer: Texts = ()
    audience: Texts = ()
    require: Texts = ("exp",)
    skew: Skews = Skews()

    @model_validator(mode="after")
    def _whole(self) -> Config:
        if sum((self.key is not None, self.jwks is not None, self.from_session)) != 1:
            raise ValueError("say where the keys come from: one of `key`, `jwks` and `from_session: true`")
        if self.jwks is not None and any(name.startswith("HS") for name in self.algorithms):
            raise ValueError("HS algorithms need a secret; what `jwks` publishes is known to everybody")
        if self.from_session and self.opens:
            raise ValueError("with `from_session` the rights are those of the key, not of policies named here")
        if not self.from_session and not self.opens:
            raise ValueError(
                "nothing says what a token opens: add `default_policies`, `policy_claim`, `client_claim` or `scopes`"
            )
        return self


@dataclass(frozen=True, slots=True)
class Known:
    """A token that was verified, and what that depends on."""

    session: Session
    claims: Mapping[str, Any]
    policies: object
    generation: int
    name: str | None = None
    record: Session | None = None
    """The session of the record `name`, which must still be the same; None: no record is involved."""


Outcome = Session | Problem


@hookimpl
def aiogate_middleware() -> AuthenticatorKind:
    return AuthenticatorKind("jwt", Config, build, "a JSON Web Token, signed by an issuer or by a key of its own")


def build(config: Config, context: BuildContext) -> Authenticator:
    services, org = context.services, context.definition.org
    tokens, sessions = services.tokens, services.sessions
    close: Callable[[], None] | None = None
    if config.jwks is not None:
        keys = tokens.published_keys(config.jwks, config.jwks_cache)
        close = partial(tokens.give_back, keys)
    elif config.key is not None:
        keys = tokens.written_keys(config.key, config.algorithms)
    else:
        keys = tokens.no_keys()
    verifier = tokens.verifier(
        config.algorithms,
        keys,
        issuers=config.issuer,
        audiences=config.audience,
        required=config.require,
        skews=config.skew.seconds,
    )
    memory = tokens.memory(Known)
    present = config.reader(of_header(context.siblings))
    realm = context.definition.name

    # Before `oidc` a token of another issuer is left to that; without `issuer` every token is for this method.
    later = context.siblings[context.siblings.index("jwt") + 1 :] if "jwt" in context.siblings else ()
    leaves_others = "oidc" in later and bool(config.issuer)

    missing = replace(PROBLEMS["auth_missing"], status=400, event="AuthFailure").with_challenge("Bearer", realm=realm)

    def authenticate(exchange: Exchange) -> Outcome | None | Awaitable[Outcome]:
        text = present(exchange)
        if text is None or type(text) is Problem:
            return text
        assert isinstance(text, str)
        known = memory.get(text)
        if (
            known is not None
            and known.policies is exchange.policies
            and known.generation == verifier.generation
            and (known.name is None or sessions.cached(org, known.name, exchange.policies) is known.record)
        ):
            exchange.state["jwt"] = known.claims
            return known.session
        if leaves_others and tokens.issuer_of(text) not in config.issuer:
            return None
        return verify(exchange, text)

    async def verify(exchange: Exchange, text: str) -> Outcome:
        token = verifier.read(text)
        if isinstance(token, Problem):
            return challenged(token)
        outcome = await (by_session if config.from_session else by_policies)(exchange, token, text)
        if isinstance(outcome, Problem):
            return challenged(outcome)
        exchange.state["jwt"] = token.claims
        return outcome

    async def by_policies(exchange: Exchange, token: Token, text: str) -> Outcome:
        pending = verifier.verify(token)
        until = await pending if isinstance(pending, Awaitable) else pending
        if isinstance(until, Problem):
            return until
        generation = verifier.generation
        identity = config.identity_of(token)
        if isinstance(identity, Problem):
            return identity
        client: Session | None = None
        name = config.client_of(token)
        if name is not None:
            found = await sessions.find(org, name, exchange.policies)
            if wrong := config.client_mistake(found):
                return PROBLEMS["token_policy"].because(wrong)
            assert isinstance(found, Session)
            client = found
        policies = config.policies_of(token, client)
        if isinstance(policies, Problem):
            return policies
        issuer = token.claims.get("iss")
        own_name = f"jwt\0{issuer if isinstance(issuer, str) else ''}\0{identity}"
        session = sessions.derived(org, "jwt", own_name, policies, exchange.policies, identity)
        if isinstance(session, LookupFailure):
            return PROBLEMS["token_policy"].because(session.reason)
        session = replace(session, expires=0.0 if math.isinf(until) else until)
        memory.put(text, Known(session, token.claims, exchange.policies, generation, name, client), until)
        return session

    async def by_session(exchange: Exchange, token: Token, text: str) -> Outcome:
        by_kid = config.kid_is_key and bool(token.kid)
        name = token.kid if by_kid else config.identity_of(token)
        if isinstance(name, Problem):
            return replace(name, status=404)
        assert name is not None
        said = "the header `kid`" if by_kid else "the identity in the token"
        found = await sessions.find(org, name, exchange.policies)
        if isinstance(found, LookupFailure):
            if found.missing:
                reason = await sessions.explain_missing(org, name)
                return PROBLEMS["token_invalid"].because(f"{said} names no key: {reason}")
            return PROBLEMS["token_invalid"].because(f"the key that {said} names cannot be used: {found.reason}")
        if found.kind != "jwt":
            return PROBLEMS["token_invalid"].because(
                f"{said} names a session of kind {found.kind} ({found.label}), which signs no tokens"
            )
        try:
            own = tokens.parsed(found.secret)
        except ValueError as mistake:
            return PROBLEMS["token_invalid"].because(f"the key's own jwt_data.secret cannot be used: {mistake}")
        until = verifier.verify_by(token, own)
        if isinstance(until, Problem):
            return until
        # The token may end before the key does: a tunnel that it opened ends with it.
        ends = min(until, found.expires if found.expires >= 1 else math.inf)
        session = replace(found, expires=0.0 if math.isinf(ends) else ends)
        memory.put(text, Known(session, token.claims, exchange.policies, verifier.generation, name, found), until)
        return session

    def challenged(problem: Problem) -> Problem:
        if problem.status != 401:
            return problem
        return problem.with_challenge("Bearer", realm=realm, error="invalid_token")

    return Authenticator(
        kind="jwt",
        authenticate=authenticate,
        missing=missing,
        credential_headers=config.headers,
        credential_query=config.parameters,
        credential_cookies=config.cookies,
        close=close,
    )


def of_header(siblings: tuple[str, ...]) -> Callable[[str], str | None]:
    """The token in a header's value, `Bearer` or bare as in Tyk; beside other methods only what has three parts."""
    alone = len(siblings) == 1
    bare_too = "key" not in siblings

    def read(value: str) -> str | None:
        scheme, _, rest = value.partition(" ")
        if rest:
            if scheme.lower() != "bearer":
                return None
            value = rest
        elif not bare_too:
            return None
        value = value.strip()
        return value if alone or value.count(".") == 2 else None

    return read
