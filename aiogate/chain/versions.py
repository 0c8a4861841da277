"""Which version of an API a request asks for, and whether that version is still served.

Choosing is a plain look at the request, done before the chain runs, because each version has a chain of its own.
Refusing is a step in stage VERSION, so that the steps of stage ENTRY see refused requests too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from aiogate.errors import PROBLEMS, Problem

if TYPE_CHECKING:
    from aiogate.chain.contracts import OnRequest
    from aiogate.chain.exchange import Exchange
    from aiogate.clock import Clock
    from aiogate.config.definition import Versions

__all__ = ["DEFAULT_VERSION", "chooser", "expiry_step"]

DEFAULT_VERSION: Final = "Default"
"""The version's name where a definition declares none (spec/api-definition.md section 8)."""

Choose = Callable[["Exchange"], "str | Problem"]


def chooser(versions: Versions) -> Choose:
    """A function that names the version of a request, or the problem with it. It may shorten `exchange.tail`."""
    names = versions.list
    default = versions.default

    def known(presented: list[str]) -> str | Problem:
        distinct = set(presented)
        if len(distinct) > 1:
            return PROBLEMS["version_ambiguous"].because(
                f"{len(distinct)} differing values in {versions.by} {versions.name}"
            )
        if not distinct or "" in distinct:
            return default or PROBLEMS["version_missing"].because(
                f"no {versions.by} {versions.name}, and no default version"
            )
        name = distinct.pop()
        return name if name in names else PROBLEMS["version_unknown"].because(f"the request asks for version {name!r}")

    if versions.by == "header":
        header = versions.name

        def by_header(exchange: Exchange) -> str | Problem:
            if default is not None and header not in exchange.headers:
                return default
            return known([value.strip() for value in exchange.headers.getall(header, ())])

        return by_header
    if versions.by == "query":
        parameter = versions.name

        def by_query(exchange: Exchange) -> str | Problem:
            if not exchange.query:
                return known([])
            pairs = parse_qsl(exchange.query, keep_blank_values=True)
            return known([value for name, value in pairs if name == parameter])

        return by_query

    def by_path(exchange: Exchange) -> str | Problem:
        segment, _, rest = exchange.tail[1:].partition("/")
        name = known([segment] if segment else [])
        if versions.strip and name == segment:
            exchange.tail = "/" + rest
        return name

    return by_path


def expiry_step(api_expires: float | None, version_expires: float | None, clock: Clock) -> OnRequest | None:
    """The step that refuses what has expired, or None where nothing can."""
    if api_expires is None and version_expires is None:
        return None

    def expiry(exchange: Exchange) -> Problem | None:
        now = clock.now()
        if api_expires is not None and now >= api_expires:
            return PROBLEMS["api_expired"].because(f"the API expired at {api_expires:.0f}")
        if version_expires is not None and now >= version_expires:
            return PROBLEMS["version_expired"].because(f"version {exchange.version} expired at {version_expires:.0f}")
        return None

    return expiry


def refusal_step() -> OnRequest:
    """The step of a chain without a version: it refuses with what the chooser found."""

    def refuse(exchange: Exchange) -> Problem | None:
        return exchange.version_problem

    return refuse


def expiries(versions: Versions | None) -> Mapping[str, float | None]:
    """Name to expiry of every declared version; one version called `Default` where none is declared."""
    if versions is None:
        return {DEFAULT_VERSION: None}
    return {name: version.expires for name, version in versions.list.items()}
