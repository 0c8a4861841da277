"""Authenticate by user name and password (RFC 7617).

    auth:
      - basic: {realm: Login}
      - basic: {body: {user: "<user>(.*)</user>", password: "<password>(.*)</password>"}, cache: off}

A user is a session stored under the user's name, unique in its organisation. The password is verified by bcrypt off the
event loop; a credential that passed is remembered for a while, so that the next request costs a keyed digest. Who is
refused learns neither whether the user exists nor what was wrong; `aiogate why` tells the operator. Who fails too often
is refused before anything is hashed.
"""

from __future__ import annotations

import binascii
import math
from base64 import b64decode, b64encode
from collections.abc import Awaitable
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator

from aiogate import (
    PROBLEMS,
    Authenticator,
    AuthenticatorKind,
    BuildContext,
    Capture,
    Duration,
    Exchange,
    LookupFailure,
    Model,
    Problem,
    Session,
    Size,
    hookimpl,
)


class Body(Model):
    """Where user and password stand in a body: patterns with one group each, looked for anywhere in it.

    At most `limit` bytes are read, and kept until they go upstream; a larger body is refused with 413.
    """

    user: Capture
    password: Capture
    limit: Size = 64 * 1024


def _parse_cache(value: Any) -> Any:
    return "0s" if value is False or value == "off" else value  # YAML's `off` may be a boolean


class Config(Model):
    """`realm` is what browsers show when they ask for the password; default: the API's name.

    `body` is where the credentials stand when there is no Authorization header. `cache` is for how long a verified
    password is not verified again, or `off`; default: the setting `passwords.cache`.
    """

    realm: str | None = None
    body: Body | None = None
    cache: Annotated[Duration, BeforeValidator(_parse_cache)] | None = None


class Credentials(NamedTuple):
    user: str
    password: str


@hookimpl
def aiogate_middleware() -> AuthenticatorKind:
    return AuthenticatorKind("basic", Config, build, "user name and password in the Authorization header or the body")


def build(config: Config, context: BuildContext) -> Authenticator:
    sessions = context.services.sessions
    passwords = context.services.passwords
    failures = context.services.failures
    cache = config.cache
    body = config.body
    org = context.definition.org
    realm = config.realm if config.realm is not None else context.definition.name
    refusal = PROBLEMS["auth_failed"].with_challenge("Basic", realm=realm, charset="UTF-8")
    busy = PROBLEMS["auth_busy"].because("the queue of passwords to verify is full, or nothing can hash; see the log")
    alone = len(context.siblings) == 1

    def authenticate(exchange: Exchange) -> Session | Problem | None | Awaitable[Session | Problem | None]:
        value = exchange.headers.get("Authorization")
        if value is None:
            if body is None or not exchange.body.present:
                return None
            return from_body(exchange, body)
        presented = read(value, alone=alone)
        if type(presented) is not Credentials:
            return None if presented is None else malformed(presented)
        return known(exchange, presented) or verify(exchange, presented)

    async def from_body(exchange: Exchange, places: Body) -> Session | Problem | None:
        text = (await exchange.body.read_all(places.limit)).decode("utf-8", "replace")
        presented = search(places, text)
        if isinstance(presented, Problem):
            # With other methods beside it, such a body is just one without a credential of this kind.
            return presented if alone else None
        return known(exchange, presented) or await verify(exchange, presented)

    def malformed(problem: object) -> Problem:
        assert isinstance(problem, Problem)
        return refusal.because(problem.detail) if problem.status == 401 else problem

    def known(exchange: Exchange, presented: Credentials) -> Session | Problem | None:
        """What can be said without hashing."""
        if (refused := waiting(exchange, presented)) is not None:
            return refused
        session = sessions.cached(org, presented.user, exchange.policies)
        if (
            type(session) is Session
            and session.kind == "basic"
            and passwords.remembered(session.name_hash, session.password, presented.password, cache)
        ):
            passed(exchange, presented)
            return session
        return None

    def waiting(exchange: Exchange, presented: Credentials) -> Problem | None:
        """The refusal of an address that has tried too often."""
        if failures.quiet:
            return None
        wait = failures.wait(exchange.client_ip, presented.user)
        return throttled(exchange.client_ip, presented.user, wait) if wait else None

    def passed(exchange: Exchange, presented: Credentials) -> None:
        if not failures.quiet:
            failures.passed(exchange.client_ip, presented.user)

    async def verify(exchange: Exchange, presented: Credentials) -> Session | Problem:
        answer = await verdict_on(exchange, presented)
        if answer is not busy and (refused := waiting(exchange, presented)) is not None:
            # Asked again: of guesses that came together none knew of the others.
            return refused
        if isinstance(answer, Session):
            passed(exchange, presented)
        elif answer is not busy:
            failures.failed(exchange.client_ip, presented.user)
        return answer

    async def verdict_on(exchange: Exchange, presented: Credentials) -> Session | Problem:
        found = await sessions.find(org, presented.user, exchange.policies)
        if isinstance(found, LookupFailure) or found.kind != "basic":
            # As slow as a wrong password, so that the time does not tell whether the user exists.
            for _ in variants(presented.password):
                if await passwords.verify_nothing(presented.password) is None:
                    return busy
            # The name is not told: where it is no user's it may be a key.
            if not isinstance(found, LookupFailure):
                return refusal.because(f"the name belongs to a session of kind {found.kind}, not to a basic-auth user")
            reason = await sessions.explain_missing(org, presented.user) if found.missing else found.reason
            return refusal.because(reason)
        for variant in variants(presented.password):
            verdict = await passwords.verify(found.name_hash, found.password, variant, cache)
            if verdict is None:
                return busy
            if verdict:
                break
        if verdict and variant is presented.password:
            return found
        if unusable := passwords.unusable(found.password):
            return refusal.because(f"the password of user {found.label} is stored as {unusable}")
        if impossible := passwords.impossible(found.password, presented.password):
            return refusal.because(f"no user has what was presented as the password of {found.label}: {impossible}")
        return refusal.because(wrong_password(found, presented.password, trimmed_matches=bool(verdict)))

    return Authenticator(
        kind="basic",
        authenticate=authenticate,
        missing=PROBLEMS["auth_missing"].with_challenge("Basic", realm=realm, charset="UTF-8"),
        credential_headers=("Authorization",),
    )


def throttled(address: str, user: str, wait: float) -> Problem:
    problem = PROBLEMS["auth_throttled"].with_header("Retry-After", str(math.ceil(wait)))
    return problem.because(f"too many wrong passwords came from {address}; user {user[:100]!r} waits {wait:.0f} s")


def search(places: Body, text: str) -> Credentials | Problem:
    """The credentials in a body, or what is wrong with it in Tyk's words (spec/middleware.md section 2)."""
    found: list[str] = []
    for name, key, capture in (("username", "user", places.user), ("password", "password", places.password)):
        matched, part = capture.find(text)
        if not matched:
            reason = f"the pattern `body.{key}` matches nothing in a body of {len(text)} characters"
            return malformed_body(f"Body do not contain {name}").because(reason)
        if part is None:
            reason = f"the pattern `body.{key}` matches, and its group takes no part in that"
            return malformed_body(f"{name} should be inside regexp match group").because(reason)
        found.append(part)
    if any("\ufffd" in part for part in found):
        return malformed_body("Body do not contain username").because("user name or password is not UTF-8")
    return Credentials(*found)


def malformed_body(message: str) -> Problem:
    problem = PROBLEMS["auth_malformed"]
    return Problem(problem.code, problem.status, message)


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
        decoded = None
    # Spare bits behind the last byte must be zero (RFC 4648 section 3.5): one credential has one spelling.
    if decoded is None or b64encode(decoded).decode("ascii") != encoded:
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
