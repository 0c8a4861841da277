"""What a parsed request must be before anybody looks at it.

aiohttp's parser refuses broken framing; it lets pass what other servers read differently, and that is where attacks
live. Here are the rest of the rules, as plain functions from a message to a `Problem` or to what the journey goes on
with. RFC 9110 and 9112; where they leave a choice, we refuse.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from aiohttp import hdrs
from aiohttp.http_exceptions import BadStatusLine, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion10, HttpVersion11
from multidict import CIMultiDictProxy

from aiogate.errors import PROBLEMS, Problem
from aiogate.proxy.paths import PLAIN, canonical

__all__ = ["HeadTimeout", "HeadTooLarge", "Network", "Target", "behind_proxies", "examine", "parse_problem"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ASTERISK: Final = "*"
# What the generated constructor of a named tuple does, without a call through Python.
_tuple: Final = tuple.__new__
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::([0-9]{0,5}))?")
_LARGEST_LENGTH: Final = 2**63 - 1
_MOST_HOPS: Final = 50
_hosts: Final[dict[str, str | None]] = {}
_HOSTS_REMEMBERED: Final = 1024


class HeadTooLarge(Exception):
    """The head of a request grew past the limit before it was complete."""


class HeadTimeout(Exception):
    """The head of a request began and did not end in time."""


class Target(NamedTuple):
    """Where a request wants to go. `host` is lower case, without a port, and empty when an old client named none.

    `path` is canonical; it is `*` for `OPTIONS *`. `length` is the announced length of the body, None when chunked.
    """

    path: str
    query: str
    host: str
    length: int | None


def examine(message: RawRequestMessage, header_limit: int, *, small: bool = False) -> Target | Problem:
    """The target of a message that has one reading, else why it is refused.

    `small`: the head is known to be within the limit, because it came in a read that was.
    """
    headers = message.headers
    method = message.method
    if method in ("TRACE", "CONNECT"):
        return PROBLEMS["method_not_allowed"].with_header("Allow", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT")
    version = message.version
    if version is not HttpVersion11 and version is not HttpVersion10:
        return PROBLEMS["http_version"].because(f"HTTP/{version.major}.{version.minor}")
    if not small and sum([len(name) + len(value) + 4 for name, value in message.raw_headers]) > header_limit:
        return PROBLEMS["headers_too_large"].because(f"more than {header_limit} bytes of headers")
    if len(headers.getall(hdrs.AUTHORIZATION, ())) > 1:
        return PROBLEMS["auth_ambiguous"].because("more than one Authorization header")
    length: int | None = 0
    if hdrs.CONTENT_LENGTH in headers or hdrs.TRANSFER_ENCODING in headers:
        framed = _body_length(message)
        if isinstance(framed, Problem):
            return framed
        length = framed
    if hdrs.EXPECT in headers and headers[hdrs.EXPECT].lower() != "100-continue":
        return PROBLEMS["expectation_failed"].because(f"Expect: {headers['Expect']}")
    sent_host = headers.get(hdrs.HOST)
    host = "" if sent_host is None else host_name(sent_host)
    if host is None:
        return _bad(f"not a host: {sent_host!r}")
    if message.path == ASTERISK:
        return Target(ASTERISK, "", host, length) if method == "OPTIONS" else _bad("the target is * without OPTIONS")
    path = message.path
    if PLAIN.fullmatch(path) is not None:
        # Canonical as it stands, as nearly all are.
        return _tuple(Target, (path, "", host, length))
    found = canonical(path)
    if isinstance(found, Problem):
        return found
    if found.authority is not None and (problem := _contradiction(found.authority, sent_host)):
        return problem
    return Target(found.path, found.query, host or host_name(found.authority or "") or "", length)


def _body_length(message: RawRequestMessage) -> int | None | Problem:
    headers = message.headers
    coding = headers.get(hdrs.TRANSFER_ENCODING)
    if coding is not None:
        if message.version is not HttpVersion11:
            return _bad("Transfer-Encoding before HTTP/1.1")
        if coding.lower() != "chunked":
            return PROBLEMS["not_implemented"].because(f"Transfer-Encoding: {coding}")
        return None
    announced = headers[hdrs.CONTENT_LENGTH]
    if not (announced.isascii() and announced.isdigit()) or int(announced) > _LARGEST_LENGTH:
        return _bad(f"Content-Length: {announced[:40]}")
    return int(announced)


def host_name(host: str) -> str | None:
    """The name or address in a Host header, in lower case and without its port; None for what is neither."""
    try:
        return _hosts[host]
    except KeyError:
        name = _host_name(host)
        if len(_hosts) < _HOSTS_REMEMBERED and len(host) <= 255:
            _hosts[host] = name
        return name


def _host_name(host: str) -> str | None:
    matched = _HOST.fullmatch(host)
    if matched is None or int(matched[2] or 0) > 65535:
        return None
    name = matched[1].lower()
    if name.startswith("["):
        try:
            ipaddress.IPv6Address(name[1:-1])
        except ValueError:
            return None
    else:
        name = name.removesuffix(".")
    return name or None


def _contradiction(authority: str, host: str | None) -> Problem | None:
    """An absolute target must name the same host as the Host header; an HTTP/1.0 client may have sent none."""
    if host_name(authority) is None:
        return _bad(f"not a host in the target: {authority[:100]!r}")
    if host is not None and authority.lower().removesuffix(":80") != host.lower().removesuffix(":80"):
        return _bad(f"the target names {authority[:100]!r}, the Host header {host!r}")
    return None


def behind_proxies(headers: CIMultiDictProxy[str], peer: str, trusted: Sequence[Network]) -> str | Problem:
    """The client's address: from the right of X-Forwarded-For, the first that is not a trusted proxy.

    An entry that is no address ends the walk: whoever stands right of it is the last that somebody trusted vouched for.
    """
    hops = [hop.strip() for line in headers.getall(hdrs.X_FORWARDED_FOR, ()) for hop in line.split(",")]
    if len(hops) > _MOST_HOPS:
        return _bad(f"{len(hops)} entries in X-Forwarded-For")
    client = peer
    for hop in reversed(hops):
        if not is_trusted(client, trusted):
            break
        address = normal_address(hop)
        if not address:
            break
        client = address
    return client


def is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    if not trusted or not address:
        return False
    found = ipaddress.ip_address(address)
    return any(found in network for network in trusted)


def normal_address(text: str) -> str:
    """An address in its one spelling: IPv4 mapped into IPv6 is unwrapped, a zone or port cut off. Empty: it is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


def parse_problem(error: BaseException) -> Problem:
    """The refusal for what the parser, or the connection, threw out before there was a message."""
    reason = f"{type(error).__name__}: {error}"[:500]
    if isinstance(error, HeadTimeout):
        return PROBLEMS["request_timeout"].because(reason)
    if isinstance(error, (LineTooLong, HeadTooLarge)) or "Too many headers" in reason:
        return PROBLEMS["headers_too_large"].because(reason)
    if isinstance(error, BadStatusLine) and "HTTP version" in reason:
        return PROBLEMS["http_version"].because(reason)
    return _bad(reason)


def _bad(reason: str) -> Problem:
    return PROBLEMS["bad_request"].because(reason)
