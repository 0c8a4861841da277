"""Authenticate by user name and password (RFC 7617).

    auth:
      - basic: {realm: Login}

A user is a session stored under the user's name, unique in its organisation. The password is verified by bcrypt off the
event loop; a credential that passed is remembered for a while, so that the next request costs a keyed digest. Who is
refused learns neither whether the user exists nor what was wrong; `aiogate why` tells the operator.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Awaitable
from typing import NamedTuple

from aiogate import (
    PROBLEMS,
    Authenticator,
    AuthenticatorKind,
    BuildContext,
    Exchange,
    LookupFailure,
    Model,
    Problem,
    Session,
    hookimpl,
)


class Config(Model):
    """`realm` is what browsers show when they ask for the password; default: the API's name."""

    realm: str | None = None


class Credentials(NamedTuple):
    user: str
    password: str


@hookimpl
def aiogate_middleware() -> AuthenticatorKind:
    return AuthenticatorKind("basic", Config, build, "user name and password in the Authorization header")


def build(config: Config, context: BuildContext) -> Authenticator:
    sessions = context.services.sessions
    passwords = context.services.passwords
    org = context.definition.org
    realm = quoted(config.realm if config.realm is not None else context.definition.name)
    challenge = ("WWW-Authenticate", f'Basic realm="{realm}", charset="UTF-8"')
    refusal = PROBLEMS["auth_failed"].with_header(*challenge)
    alone = len(context.siblings) == 1

    def authenticate(exchange: Exchange) -> Session | Problem | None | Awaitable[Session | Problem]:
        value = exchange.headers.get("Authorization")
        if value is None:
            return None
        presented = read(value, alone=alone)
        if type(presented) is not Credentials:
            return None if presented is None else malformed(presented)
        session = sessions.cached(org, presented.user, exchange.policies)
        if (
            type(session) is Session
            and session.kind == "basic"
            and passwords.remembered(session.name_hash, session.password, presented.password)
        ):
            return session
        return verify(exchange, presented)

    def malformed(problem: object) -> Problem:
        assert isinstance(problem, Problem)
        return refusal.because(problem.detail) if problem.status == 401 else problem

    async def verify(exchange: Exchange, presented: Credentials) -> Session | Problem:
        found = await sessions.find(org, presented.user, exchange.policies)
        if isinstance(found, LookupFailure) or found.kind != "basic":
            # As slow as a wrong password, so that the time does not tell whether the user exists.
            for _ in variants(presented.password):
                if await passwords.verify_nothing(presented.password) is None:
                    return PROBLEMS["auth_busy"]
            if not isinstance(found, LookupFailure):
                return refusal.because(f"the name belongs to a session of kind {found.kind}, not to a basic-auth user")
            reason = await sessions.explain_missing(org, presented.user) if found.missing else found.reason
            return refusal.because(reason)
        for variant in variants(presented.password):
            verdict = await passwords.verify(found.name_hash, found.password, variant)
            if verdict is None:
                return PROBLEMS["auth_busy"].because("the queue of passwords to verify is full")
            if verdict:
                break
        if verdict and variant is presented.password:
            return found
        return refusal.because(wrong_password(found, presented.password, trimmed_matches=bool(verdict)))

    return Authenticator(
        kind="basic",
        authenticate=authenticate,
        missing=PROBLEMS["auth_missing"].with_header(*challenge),
        credential_headers=("Authorization",),
    )


def read(value: str, *, alone: bool) -> Credentials | Problem | None:
    """The credentials in an Authorization header, None where it is not ours, or what is wrong with it.

    The texts are Tyk's (spec/middleware.md section 2). The password begins behind the first colon (RFC 7617 section 2).
    """
    scheme, space, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        if space or not alone:
            return None
        return PROBLEMS["auth_malformed"].because("the Authorization header is one word")
    if not encoded or " " in encoded:
        return PROBLEMS["auth_malformed"].because("the Authorization header is not the word Basic and one value")
    try:
        decoded = b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return other_words("auth data not encoded correctly").because("the value is not base64")
    user, colon, password = decoded.partition(b":")
    if not colon:
        return other_words("values not in basic auth format").because("there is no colon between user and password")
    try:
        return Credentials(user.decode(), password.decode())
    except UnicodeDecodeError:
        return PROBLEMS["auth_failed"].because("user name or password is not UTF-8")


def other_words(text: str) -> Problem:
    problem = PROBLEMS["auth_malformed"]
    return Problem(problem.code, problem.status, f"Attempted access with malformed header, {text}")


def variants(password: str) -> tuple[str, ...]:
    """The password, and the password without white space at its end, where it has some.

    The second is verified only to tell the operator what went wrong; it never admits anybody. It is verified for
    unknown users too, so that it does not tell them apart.
    """
    trimmed = password.rstrip()
    return (password,) if trimmed == password else (password, trimmed)


def wrong_password(session: Session, password: str, *, trimmed_matches: bool) -> str:
    """The private reason."""
    if password == password.rstrip():
        return f"the password of user {session.label} is wrong"
    end = "a newline" if password.endswith("\n") else "white space"
    verdict = "it would be right without" if trimmed_matches else "it would be wrong without, too"
    hint = "; `echo` adds a newline, `printf` and `echo -n` do not" if end == "a newline" else ""
    return f"the password of user {session.label} ends in {end}; {verdict}{hint}"


def quoted(text: str) -> str:
    """For a quoted string in a header (RFC 9110 section 5.6.4)."""
    printable = "".join(char if " " <= char <= "~" else "?" for char in text)
    return printable.replace("\\", "\\\\").replace('"', '\\"')
