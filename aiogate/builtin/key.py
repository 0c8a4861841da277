"""Authenticate by a key: a token that names a session.

    auth:
      - key: {header: Authorization, query: api_key, cookie: null}

The key stands in the header (a leading `Bearer ` is taken off), in a query parameter or in a cookie; presented in
several of these places, it must be the same everywhere. Only sessions that were made as keys are accepted: the name of
a basic-auth user is not a key (differences.md, "Credentials and sessions").
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final

from aiogate import (
    PROBLEMS,
    Authenticator,
    AuthenticatorKind,
    BuildContext,
    Exchange,
    LookupFailure,
    Places,
    Problem,
    Session,
    hookimpl,
)

SHORTEST: Final = 3
"""A token shorter than this is no key (Tyk's `min_token_length`)."""
LONGEST: Final = 4096
ISSUED: Final = "oat_"
"""What the tokens begin with that the gateway issues as an OAuth 2 server; beside `oauth` they are left to it."""


class Config(Places):
    """Where the key is looked for."""


@hookimpl
def aiogate_middleware() -> AuthenticatorKind:
    return AuthenticatorKind("key", Config, build, "a token in a header, a query parameter or a cookie")


def build(config: Config, context: BuildContext) -> Authenticator:
    sessions = context.services.sessions
    failures = context.services.failures
    org = context.definition.org
    present = presented_by(config, context.siblings)

    def authenticate(exchange: Exchange) -> Session | Problem | None | Awaitable[Session | Problem]:
        token = present(exchange)
        if token is None or type(token) is Problem:
            return token
        assert isinstance(token, str)
        if not failures.quiet:
            wait = failures.wait(exchange.client_ip, token, secret=True)
            if wait:
                return throttled(exchange.client_ip, wait)
        found = sessions.cached(org, token, exchange.policies)
        if type(found) is Session and found.kind == "key":
            if not failures.quiet:
                failures.passed(exchange.client_ip, token)
            return found
        return look_up(exchange, token)

    async def look_up(exchange: Exchange, token: str) -> Session | Problem:
        found = await known(exchange, token)
        if not failures.quiet and (wait := failures.wait(exchange.client_ip, token, secret=True)):
            # Asked again: of guesses that came together none knew of the others.
            return throttled(exchange.client_ip, wait)
        if isinstance(found, Session):
            if not failures.quiet:
                failures.passed(exchange.client_ip, token)
        else:
            failures.failed(exchange.client_ip, token, secret=True)
        return found

    async def known(exchange: Exchange, token: str) -> Session | Problem:
        if len(token) < SHORTEST or len(token) > LONGEST:
            return PROBLEMS["key_unknown"].because(
                f"what was presented has {len(token)} characters, a key {SHORTEST} to {LONGEST}"
            )
        found = await sessions.find(org, token, exchange.policies)
        if isinstance(found, LookupFailure):
            reason = await sessions.explain_missing(org, token) if found.missing else found.reason
            return PROBLEMS["key_unknown"].because(reason)
        return found if found.kind == "key" else wrong_kind(found)

    return Authenticator(
        kind="key",
        authenticate=authenticate,
        missing=PROBLEMS["auth_missing"],
        credential_headers=config.headers,
        credential_query=config.parameters,
        credential_cookies=config.cookies,
    )


def throttled(address: str, wait: float) -> Problem:
    problem = PROBLEMS["auth_throttled"].with_header("Retry-After", str(math.ceil(wait)))
    return problem.because(f"too many unknown keys came from {address}; it waits {wait:.0f} s")


def wrong_kind(session: Session) -> Problem:
    return PROBLEMS["key_unknown"].because(
        f"the name belongs to a session of kind {session.kind} ({session.label}), which is not accepted as a key"
    )


def presented_by(config: Config, siblings: tuple[str, ...]) -> Callable[[Exchange], str | Problem | None]:
    """The function that finds the token of a request: the token, None, or a problem where two places differ."""
    left = {"basic": "basic", "hmac": "signature"}
    schemes_left = frozenset(scheme for method, scheme in left.items() if method in siblings)
    leaves_signed = not {"jwt", "oidc"}.isdisjoint(siblings)
    leaves_issued = "oauth" in siblings

    def of_header(value: str) -> str | None:
        if " " not in value and not schemes_left:
            return value or None
        scheme, _, rest = value.partition(" ")
        scheme = scheme.lower()
        if scheme == "bearer" and rest:
            token = rest.strip()
            if (leaves_signed and token.count(".") == 2) or (leaves_issued and token.startswith(ISSUED)):
                return None
            return token
        if scheme in schemes_left:
            return None
        return value.strip() or None

    return config.reader(of_header)
