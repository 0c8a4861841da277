"""Authenticate partners by tokens that they sign themselves.

    auth:
      - partner_token: {secret: "${PARTNER_SECRET}", header: X-Partner-Token, longest: 5m}

A token is `NAME.EXPIRES.SIGNATURE`: the name of a key that was made here, the second (since the epoch) at which the
token ends, and the HMAC-SHA256 in hex, under the shared secret, of `ORGANISATION`, `NAME` and `EXPIRES` on a line each.
Whoever holds the secret may speak for every key of the organisation, so the secret is as good as all of them. The
rights and limits are those of the named key.
"""

from __future__ import annotations

import hmac
from typing import Annotated

from pydantic import Field

from aiogate import (
    PROBLEMS,
    Authenticator,
    AuthenticatorKind,
    BuildContext,
    Duration,
    Exchange,
    LookupFailure,
    Model,
    Problem,
    Session,
    hookimpl,
)


class Config(Model):
    """`longest` is how far in the future a token may end."""

    secret: str = Field(min_length=32, repr=False)
    header: str = Field(default="X-Partner-Token", pattern=r"^[A-Za-z0-9-]+$")
    longest: Annotated[Duration, Field(gt=0)] = 300.0


@hookimpl
def aiogate_middleware() -> AuthenticatorKind:
    return AuthenticatorKind("partner_token", Config, build, "a token that a partner signed")


def build(config: Config, context: BuildContext) -> Authenticator:
    clock, sessions = context.services.clock, context.services.sessions
    org = context.definition.org
    secret = config.secret.encode()

    async def authenticate(exchange: Exchange) -> Session | Problem | None:
        presented = exchange.headers.getall(config.header, [])
        if not presented:
            return None
        if len(set(presented)) > 1:
            return PROBLEMS["auth_ambiguous"].because(f"{len(presented)} differing tokens")
        signed, _, signature = presented[0].rpartition(".")
        name, _, expires = signed.rpartition(".")
        expected = sign(secret, org, name, expires)
        if not hmac.compare_digest(signature.encode("utf-8", "surrogateescape"), expected.encode()):
            return PROBLEMS["key_unknown"].because("the signature of the partner token is wrong")
        # What is signed was written by a partner, which does not make it a number.
        left = int(expires) - clock.now() if expires.isdecimal() and len(expires) < 12 else 0.0
        if left <= 0:
            return PROBLEMS["key_expired"].because("the partner token has ended")
        if left > config.longest:
            return PROBLEMS["key_unknown"].because(f"the partner token lasts longer than {config.longest:g} s")
        found = await sessions.find(org, name, exchange.policies)
        if isinstance(found, LookupFailure):
            return PROBLEMS["key_unknown"].because(found.reason)
        if found.kind != "key":
            return PROBLEMS["key_unknown"].because(f"the token names a session of kind {found.kind}, not a key")
        return found

    return Authenticator(
        kind="partner_token",
        authenticate=authenticate,
        missing=PROBLEMS["auth_missing"],
        credential_headers=(config.header,),
    )


def sign(secret: bytes, org: str, name: str, expires: str) -> str:
    """The signature that a partner makes."""
    return hmac.digest(secret, f"{org}\n{name}\n{expires}".encode("utf-8", "surrogateescape"), "sha256").hex()
