"""Asking other servers for what credentials need: key sets, discovery documents, introspection.

One client for the whole gateway, made when it is first needed and never for a request to an upstream. It keeps no
cookies, follows no redirect, reads no proxy from the environment, sends none of its library's own headers, and ends
every answer at a size and a time that the caller sets. Addresses are the operator's; link-local ones, where clouds keep
their machines' secrets, are refused all the same, after names are resolved.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Answer", "Outbound", "OutboundFailed", "address_mistake"]

_CONNECTIONS: Final = 100
_PER_HOST: Final = 20


class OutboundFailed(Exception):
    """There is no answer to work with. The text says why, without the address's query and without credentials."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered, whole."""

    status: int
    body: bytes


def address_mistake(url: str) -> str:
    """Why `url` cannot be asked; empty when it can."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not an address"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "is not an http:// or https:// address"
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "holds a user name, a password or a fragment"
    if not url.isascii() or any(char <= " " or char == "\x7f" for char in url):
        return "holds a blank or a character that is not ASCII"
    return "is a link-local address" if _link_local(parts.hostname) else ""


def _link_local(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_link_local


class Outbound:
    """The client. Safe to make without an event loop; `close` when the gateway ends."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        most: int,
        within: float,
    ) -> Answer:
        """One request and its whole answer: at most `most` bytes, within `within` seconds. Raises `OutboundFailed`."""
        import aiohttp

        if self._session is None:
            self._session = self._made()
        try:
            async with (
                asyncio.timeout(within),
                self._session.request(
                    method, url, headers=headers, data=dict(form) if form is not None else None, allow_redirects=False
                ) as response,
            ):
                body = bytearray()
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > most:
                        raise OutboundFailed(f"the answer has more than {most} bytes")
                return Answer(response.status, bytes(body))
        except TimeoutError:
            raise OutboundFailed(f"no whole answer came within {within:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise OutboundFailed(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close every connection. Safe to call more than once."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    @staticmethod
    def _made() -> aiohttp.ClientSession:
        import aiohttp

        class Resolver(aiohttp.ThreadedResolver):
            async def resolve(
                self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
            ) -> list[Any]:
                found: list[Any] = await super().resolve(host, port, family)
                if any(_link_local(one["host"]) for one in found):
                    raise OSError(f"{host} has a link-local address")
                return found

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=_CONNECTIONS,
                limit_per_host=_PER_HOST,
                ttl_dns_cache=30,
                resolver=Resolver(),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            requote_redirect_url=False,
            trust_env=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
            timeout=aiohttp.ClientTimeout(total=None, connect=5, sock_connect=3, sock_read=30),
        )
