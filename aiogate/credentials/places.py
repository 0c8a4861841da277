"""Where a request carries a credential: a header, a query parameter, a cookie.

The same credential may stand in several of them; differing ones are refused, because two readers could choose
differently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from pydantic import model_validator

from aiogate.config.headers import HeaderName
from aiogate.config.model import Model
from aiogate.errors import PROBLEMS, Problem

if TYPE_CHECKING:
    from aiogate.chain.exchange import Exchange

__all__ = ["Places"]


class Places(Model):
    """The base of configurations that say where a credential is looked for; `null` switches a place off.

    The cookie and the parameter hold the bare credential.
    """

    header: HeaderName | None = "Authorization"
    query: str | None = None
    cookie: str | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> Places:
        if not (self.header or self.query or self.cookie):
            raise ValueError("a credential needs a place: header, query or cookie")
        return self

    @property
    def headers(self) -> tuple[str, ...]:
        """For `Authenticator.credential_headers`."""
        return (self.header,) if self.header else ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """For `Authenticator.credential_query`."""
        return (self.query,) if self.query else ()

    @property
    def cookies(self) -> tuple[str, ...]:
        """For `Authenticator.credential_cookies`."""
        return (self.cookie,) if self.cookie else ()

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
            found: dict[str, str] = {}
            if header is not None:
                for value in exchange.headers.getall(header, ()):
                    if taken := of_header(value):
                        found.setdefault(taken, f"the header {header}")
            if query is not None and exchange.query:
                for name, value in parse_qsl(exchange.query, keep_blank_values=False):
                    if name == query:
                        found.setdefault(value, f"the parameter `{query}`")
            if cookie is not None:
                for line in exchange.headers.getall("Cookie", ()):
                    for value in cookies_named(cookie, line):
                        found.setdefault(value, f"the cookie `{cookie}`")
            if len(found) > 1:
                places = " and ".join(dict.fromkeys(found.values()))
                return PROBLEMS["auth_ambiguous"].because(f"{places} carry {len(found)} differing values")
            return next(iter(found), None)

        return from_anywhere


def cookies_named(name: str, line: str) -> list[str]:
    """Every non-empty value of the cookie in one Cookie header (RFC 6265 section 5.4)."""
    values = []
    for crumb in line.split(";"):
        key, found, value = crumb.strip().partition("=")
        if found and key.strip() == name and value:
            values.append(value.strip().strip('"'))
    return values
