"""Stage AUTHENTICATE: the list under `auth:` as one step.

Any-of: the first method whose kind of credential is present decides, without falling through to the next. All-of: every
method must pass; the first supplies the session, or the one that `session_from` names (differences.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import unquote_plus

from aiogate.domain.session import Session
from aiogate.errors import Problem

if TYPE_CHECKING:
    from aiogate.chain.contracts import Authenticator, OnRequest
    from aiogate.chain.exchange import Exchange

__all__ = ["all_of", "any_of", "strip_step"]

_LONGEST_SCHEME: Final = 20


def any_of(methods: Sequence[Authenticator]) -> OnRequest:
    """The step for a list: one credential is enough."""
    missing = _missing(methods)
    headers = tuple(dict.fromkeys(name for method in methods for name in method.credential_headers))
    calls = tuple((method.kind, method.authenticate) for method in methods)

    def authenticate(exchange: Exchange) -> Problem | None | Awaitable[Problem | None]:
        for index, (kind, call) in enumerate(calls):
            answer = call(exchange)
            if answer is None:
                continue
            if type(answer) is Session:
                exchange.session = answer
                exchange.credential_kind = kind
                return None
            if isinstance(answer, Problem):
                return answer
            return settle(exchange, index, cast("Awaitable[Session | Problem | None]", answer))
        return _seen(missing, headers, exchange)

    async def settle(exchange: Exchange, index: int, pending: Awaitable[Session | Problem | None]) -> Problem | None:
        """The rest of the walk, once a method had to wait for its answer."""
        answer = await pending
        while answer is None:
            index += 1
            if index == len(calls):
                return _seen(missing, headers, exchange)
            asked = calls[index][1](exchange)
            answer = await asked if isinstance(asked, Awaitable) else asked
        if isinstance(answer, Problem):
            return answer
        exchange.session = answer
        exchange.credential_kind = calls[index][0]
        return None

    return authenticate


def all_of(methods: Sequence[Authenticator], names: Sequence[str], session_from: str | None) -> OnRequest:
    """The step for `{all: […]}`: every method must pass."""
    source = names.index(session_from) if session_from is not None else 0
    missing = tuple(
        method.missing.because(f"no credential was found by {name}{_places(method)}, and all methods are required")
        for method, name in zip(methods, names, strict=True)
    )

    async def authenticate(exchange: Exchange) -> Problem | None:
        for index, method in enumerate(methods):
            asked = method.authenticate(exchange)
            answer = await asked if isinstance(asked, Awaitable) else asked
            if answer is None:
                return _seen(missing[index], method.credential_headers, exchange)
            if isinstance(answer, Problem):
                return answer
            if index == source:
                exchange.session = answer
                exchange.credential_kind = method.kind
        return None

    return authenticate


def _missing(methods: Sequence[Authenticator]) -> Problem:
    """The first method's message with the challenges of all."""
    problem = methods[0].missing
    for other in methods[1:]:
        for header in other.missing.headers:
            if header not in problem.headers:
                problem = problem.with_header(*header)
    looked = ", ".join(f"{method.kind}{_places(method)}" for method in methods)
    return problem.because(f"no credential was found by {looked}")


def _places(method: Authenticator) -> str:
    """Where a method looks for its credential, for `why`."""
    places = [f"header {name}" for name in method.credential_headers]
    places += [f"parameter `{name}`" for name in method.credential_query]
    places += [f"cookie `{name}`" for name in method.credential_cookies]
    return f" ({', '.join(places)})" if places else ""


def _seen(missing: Problem, headers: Sequence[str], exchange: Exchange) -> Problem:
    """The refusal with what stood where a credential was looked for: its scheme, and never the rest."""
    seen = [f"; {name} was there, {_form(exchange.headers[name])}" for name in headers if name in exchange.headers]
    return missing.because(missing.detail + "".join(seen)) if seen else missing


def _form(value: str) -> str:
    scheme, blank, _ = value.strip().partition(" ")
    if not scheme:
        return "empty"
    return f"of the scheme {scheme!r}" if blank and len(scheme) <= _LONGEST_SCHEME else "not of a kind that is read"


def strip_step(methods: Sequence[Authenticator]) -> OnRequest:
    """`strip_credentials: true`: what the methods read does not reach the upstream."""
    headers = tuple({name.lower(): name for method in methods for name in method.credential_headers}.values())
    parameters = frozenset(name for method in methods for name in method.credential_query)
    cookies = frozenset(name for method in methods for name in method.credential_cookies)

    def strip(exchange: Exchange) -> None:
        edits = exchange.upstream_headers
        for header in headers:
            edits.remove(header)
        query = exchange.query if exchange.upstream_query is None else exchange.upstream_query
        if parameters and query:
            kept = [part for part in query.split("&") if unquote_plus(part.partition("=")[0]) not in parameters]
            exchange.upstream_query = "&".join(kept)
        if cookies and "Cookie" in exchange.headers:
            crumbs = [crumb.strip() for line in exchange.headers.getall("Cookie") for crumb in line.split(";")]
            left = [crumb for crumb in crumbs if crumb and crumb.partition("=")[0].strip() not in cookies]
            edits.remove("Cookie")
            if left:
                edits.add("Cookie", "; ".join(left))

    return strip
