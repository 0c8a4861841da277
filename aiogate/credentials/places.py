"""Where a request carries a credential: a header, a query parameter, a cookie.

The same credential may stand in several of them; differing ones are refused, because two readers could choose
differently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from aiogate.errors import PROBLEMS, Problem

if TYPE_CHECKING:
    from aiogate.chain.exchange import Exchange

__all__ = ["Places"]


@dataclass(frozen=True, slots=True)
class Places:
    """The names of the places; None: not looked at. The cookie and the parameter hold the bare credential."""

    header: str | None = None
    query: str | None = None
    cookie: str | None = None

    def reader(self, of_header: Callable[[str], str | None]) -> Callable[[Exchange], str | Problem | None]:
        """The function that finds the credential of a request: its text, None, or a problem where two places differ.

        `of_header` takes the value of the header apart; it answers with None where that is not of its kind.
        """
        header, query, cookie = self.header, self.query, self.cookie

        def from_header(exchange: Exchange) -> str | None:
            assert header is not None
            value = exchange.headers.get(header)
            return None if value is None else of_header(value)

        # A second Authorization header never gets this far: the listener refuses the request.
        if header is not None and header.lower() == "authorization" and query is None and cookie is None:
            return from_header

        def from_anywhere(exchange: Exchange) -> str | Problem | None:
            values: set[str] = set()
            if header is not None:
                found = (of_header(value) for value in exchange.headers.getall(header, ()))
                values.update(value for value in found if value)
            if query is not None and exchange.query:
                pairs = parse_qsl(exchange.query, keep_blank_values=False)
                values.update(value for name, value in pairs if name == query)
            if cookie is not None:
                for line in exchange.headers.getall("Cookie", ()):
                    values.update(cookies_named(cookie, line))
            if len(values) > 1:
                return PROBLEMS["auth_ambiguous"].because("the header, the query or the cookie carry differing values")
            return values.pop() if values else None

        return from_anywhere


def cookies_named(name: str, line: str) -> list[str]:
    """Every non-empty value of the cookie in one Cookie header (RFC 6265 section 5.4)."""
    values = []
    for crumb in line.split(";"):
        key, found, value = crumb.strip().partition("=")
        if found and key.strip() == name and value:
            values.append(value.strip().strip('"'))
    return values
