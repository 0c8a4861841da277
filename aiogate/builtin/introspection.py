"""Authenticate by access tokens that another server knows: token introspection (RFC 7662).

    auth:
      - introspection:
          url: https://login.example.com/introspect
          client_id: gateway
          client_secret: ${INTROSPECTION_SECRET}
          default_policies: [gold]

The server is asked once for a token, however many requests carry it at that moment, and its answer is remembered for
`cache`, as a keyed digest of the token. While the server is away nobody gets in whose token has to be asked for: 503,
never a guess. `stale` lets an answer that has grown old stand in for that time.
"""

from __future__ import annotations

import asyncio
import math
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal
from urllib.parse import quote_plus

from pydantic import BeforeValidator, Field, model_validator

from aiogate import (
    PROBLEMS,
    Authenticator,
    AuthenticatorKind,
    BuildContext,
    Duration,
    Exchange,
    LookupFailure,
    Places,
    Problem,
    Session,
    Token,
    TokenRights,
    hookimpl,
)

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
_MOST = 64 * 1024
_MOST_WAITING = 200
_UNKNOWN_SECONDS = 5.0
"""How long a token that is not active is remembered at most."""
_LONGEST = 16 * 1024


class Config(TokenRights, Places):
    """The server, how it is asked, how long its answers hold, and what a token opens."""

    url: Text
    client_id: Text
    client_secret: Annotated[str, Field(min_length=1, repr=False)]
    authenticate: Literal["header", "body"] = "header"
    cache: Annotated[Duration, Field(le=3600)] = 30.0
    stale: Annotated[Duration, Field(le=86400)] = 0.0
    timeout: Annotated[Duration, Field(gt=0, le=30)] = 3.0
    issuer: Texts = ()
    audience: Texts = ()
    skew: Annotated[Duration, Field(le=300)] = 0.0

    @model_validator(mode="after")
    def _whole(self) -> Config:
        if not self.opens:
            raise ValueError(
                "nothing says what a token opens: add `default_policies`, `policy_claim`, `client_claim` or `scopes`"
            )
        return self


@dataclass(frozen=True, slots=True)
class Known:
    """What the server said about a token, and what became of it under one set of policies."""

    said: Token | Problem
    fresh: float
    """Epoch seconds until which it holds without asking again."""
    until: float = math.inf
    """When the token expires."""
    session: Session | None = None
    policies: object = None
    client: tuple[str, Session] | None = None


@hookimpl
def aiogate_middleware() -> AuthenticatorKind:
    return AuthenticatorKind("introspection", Config, build, "an access token that another server is asked about")


def build(config: Config, context: BuildContext) -> Authenticator:
    services, org = context.services, context.definition.org
    clock, tokens, sessions = services.clock, services.tokens, services.sessions
    ask = tokens.asker(config.url)
    check = tokens.checker(
        issuers=config.issuer, audiences=config.audience, required=(), skews=(config.skew, config.skew, config.skew)
    )
    memory = tokens.memory(Known)
    flights: dict[str, asyncio.Task[Known | Problem]] = {}
    present = config.reader(of_header(context.siblings))
    realm = context.definition.name
    headers, form = asking(config)

    missing = replace(PROBLEMS["auth_missing"], status=400, event="AuthFailure").with_challenge("Bearer", realm=realm)

    def authenticate(exchange: Exchange) -> Session | Problem | None | Awaitable[Session | Problem]:
        text = present(exchange)
        if text is None or isinstance(text, Problem):
            return text
        known = memory.get(text)
        if known is not None and known.fresh > clock.now():
            if isinstance(known.said, Problem):
                return known.said
            if known.session is not None and known.policies is exchange.policies and same_client(known, exchange):
                exchange.state["introspection"] = known.said.claims
                return known.session
        return settle(exchange, text)

    def same_client(known: Known, exchange: Exchange) -> bool:
        if known.client is None:
            return True
        name, session = known.client
        return sessions.cached(org, name, exchange.policies) is session

    async def settle(exchange: Exchange, text: str) -> Session | Problem:
        known = memory.get(text)
        if known is None or known.fresh <= clock.now():
            answer = await asked(text, known)
            if isinstance(answer, Problem):
                return answer
            known = answer
        if isinstance(known.said, Problem):
            return known.said
        admitted = await admit(exchange, known.said, known)
        if isinstance(admitted, Problem):
            return admitted
        remember(text, admitted)
        exchange.state["introspection"] = known.said.claims
        assert admitted.session is not None
        return admitted.session

    async def asked(text: str, known: Known | None) -> Known | Problem:
        """What the server says, asked once for all who wait; or what it said before, where `stale` allows that."""
        if len(text) > _LONGEST:
            return refused(f"the token has {len(text)} characters, at most {_LONGEST} are asked about")
        flight = flights.get(text)
        if flight is None:
            if len(flights) >= _MOST_WAITING:
                return PROBLEMS["auth_busy"].because(f"{_MOST_WAITING} tokens are being asked about")
            flight = asyncio.get_running_loop().create_task(introspected(text))
            flights[text] = flight
            flight.add_done_callback(lambda _: flights.pop(text, None))
        answer = await asyncio.shield(flight)
        if isinstance(answer, Problem) and known is not None and not isinstance(known.said, Problem):
            if clock.now() < min(known.fresh + config.stale, known.until):
                return known
        return answer

    async def introspected(text: str) -> Known | Problem:
        answer = await ask(headers, {**form, "token": text, "token_type_hint": "access_token"}, _MOST, config.timeout)
        if isinstance(answer, str):
            return PROBLEMS["issuer_unavailable"].because(f"the introspection at {config.url} failed: {answer}")
        now = clock.now()
        if answer.get("active") is not True:
            said = answer.get("active")
            reason = "that the token is not active" if said is False else f"`active`: {said!r}, which is not true"
            known = Known(refused(f"the introspection says {reason}"[:300]), now + unknown_for())
        else:
            token = Token({}, answer)
            until = check(token, now)
            if isinstance(until, Problem):
                known = Known(refused(until.detail), now + unknown_for())
            else:
                known = Known(token, min(now + config.cache, until), until)
        remember(text, known)
        return known

    def unknown_for() -> float:
        return min(config.cache, _UNKNOWN_SECONDS)

    def remember(text: str, known: Known) -> None:
        stale = 0.0 if isinstance(known.said, Problem) else config.stale
        memory.put(text, known, min(known.fresh + stale, known.until))

    async def admit(exchange: Exchange, token: Token, known: Known) -> Known | Problem:
        identity = config.identity_of(token, "client_id", "username")
        if isinstance(identity, Problem):
            return identity
        client: tuple[str, Session] | None = None
        name = config.client_of(token)
        if name is not None:
            found = await sessions.find(org, name, exchange.policies)
            if wrong := config.client_mistake(found):
                return PROBLEMS["token_policy"].because(wrong)
            assert isinstance(found, Session)
            client = (name, found)
        policies = config.policies_of(token, client[1] if client is not None else None)
        if isinstance(policies, Problem):
            return policies
        issuer = token.claims.get("iss")
        own_name = f"introspection\0{issuer if isinstance(issuer, str) else config.url}\0{identity}"
        session = sessions.derived(org, "oauth", own_name, policies, exchange.policies, identity)
        if isinstance(session, LookupFailure):
            return PROBLEMS["token_policy"].because(session.reason)
        session = replace(session, expires=0.0 if math.isinf(known.until) else known.until)
        return replace(known, session=session, policies=exchange.policies, client=client)

    def refused(reason: str) -> Problem:
        problem = replace(PROBLEMS["token_invalid"], status=401, message="access token is not valid", detail=reason)
        return problem.with_challenge("Bearer", realm=realm, error="invalid_token")

    def close() -> None:
        for flight in flights.values():
            flight.cancel()

    return Authenticator(
        kind="introspection",
        authenticate=authenticate,
        missing=missing,
        credential_headers=config.headers,
        credential_query=config.parameters,
        credential_cookies=config.cookies,
        close=close,
    )


def of_header(siblings: tuple[str, ...]) -> Callable[[str], str | None]:
    """The token behind `Bearer`. Beside methods of signed tokens, what has three parts is left to them.

    Beside `oauth`, so are the tokens that the gateway issues itself.
    """
    leaves_signed = not {"jwt", "oidc"}.isdisjoint(siblings)
    leaves_issued = "oauth" in siblings

    def read(value: str) -> str | None:
        scheme, _, rest = value.partition(" ")
        token = rest.strip()
        if scheme.lower() != "bearer" or not token:
            return None
        if (leaves_signed and token.count(".") == 2) or (leaves_issued and token.startswith("oat_")):
            return None
        return token

    return read


def asking(config: Config) -> tuple[dict[str, str], dict[str, str]]:
    """The headers and the form by which the gateway says who asks (RFC 6749 section 2.3.1)."""
    headers = {"Accept": "application/json"}
    if config.authenticate == "body":
        return headers, {"client_id": config.client_id, "client_secret": config.client_secret}
    pair = f"{quote_plus(config.client_id)}:{quote_plus(config.client_secret)}"
    return headers | {"Authorization": "Basic " + b64encode(pair.encode()).decode()}, {}
