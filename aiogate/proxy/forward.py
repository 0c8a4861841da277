"""The end of a chain: send the exchange to its upstream and bring the response back.

The head is built once, as bytes, from the canonical path and the filtered headers; the address comes from the
definition alone. The body goes along in the same write when it is here already, as a stream otherwise. What goes
wrong comes back as a `Problem`: 502 for an upstream that cannot be reached or that talks nonsense, 504 for one that is
late.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from aiohttp import hdrs

from aiogate.chain.exchange import BodyBroken, BodyTimeout, Exchange, HeaderEdits, Response
from aiogate.errors import PROBLEMS, Problem
from aiogate.proxy.body import ClientBody
from aiogate.proxy.connection import UpstreamConnection, UpstreamDied, UpstreamInvalid, UpstreamTimeout
from aiogate.proxy.headers import FROM_TRUSTED, FROM_UNTRUSTED, nominated
from aiogate.proxy.pool import Overloaded, Pool, Unreachable
from aiogate.proxy.tunnel import DEFAULT_RULES, TunnelRules

__all__ = ["CompiledUpstream", "forward"]

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PROPFIND", "REPORT", "SEARCH"})
_HAS_BODY_BY_NATURE: Final = frozenset({"POST", "PUT", "PATCH"})


@dataclass(frozen=True, slots=True)
class CompiledUpstream:
    """Where the requests of one version of an API go.

    `pool` is leased by whoever compiled this. `base_path` begins with `/` or is empty; `base_query` is without `?`.
    `strip`: the upstream sees the path behind the listen path. `preserve_host`: it sees the client's Host instead of
    `host_header`. Times are seconds: `response_timeout` from the end of the request to the head of the response,
    `idle_timeout` between two pieces of a body. `tunnels`: which other protocols may be switched to, and how.
    """

    pool: Pool
    host_header: bytes
    base_path: str = ""
    base_query: str = ""
    strip: bool = True
    preserve_host: bool = False
    response_timeout: float = 30.0
    idle_timeout: float = 60.0
    tunnels: TunnelRules = DEFAULT_RULES


async def forward(exchange: Exchange, upstream: CompiledUpstream) -> Response | Problem:
    """Forward one request. Cancelling it (the client is gone) aborts the upstream's part at once.

    A reused connection that died before the first byte of a response is tried once more on a fresh one, if the method
    is idempotent and there is no body: an upstream may close an idle connection at the very moment it is used again.
    """
    limit = exchange.upstream_timeout
    if limit is None:
        return await _forward(exchange, upstream)
    try:
        async with asyncio.timeout(limit):
            return await _forward(exchange, upstream)
    except TimeoutError:
        return PROBLEMS["upstream_timeout"].because(f"{upstream.pool.origin}: no response within {limit:g} s")


async def _forward(exchange: Exchange, upstream: CompiledUpstream) -> Response | Problem:
    body = exchange.body
    whole = body.whole() if isinstance(body, ClientBody) else b""
    upgrade = exchange.upgrade
    if upgrade is not None:
        refused = upgrade.admit(exchange, upstream.tunnels)
        if refused is not None:
            return refused
    try:
        head = _head(exchange, upstream, whole)
    except ValueError as error:
        return PROBLEMS["upstream_invalid"].because(f"the request cannot be sent: {error}")
    pool = upstream.pool
    connection = pool.take_idle()
    fresh = connection is None
    while True:
        try:
            if connection is None:
                connection = await pool.connect()
            response = await _attempt(connection, head, exchange, upstream, whole)
            if response.status == 101:
                assert upgrade is not None
                upgrade.check(response)
            return response
        except UpstreamDied as error:
            bodyless = not exchange.body.present
            if fresh or not (error.untouched and bodyless and exchange.method in _IDEMPOTENT):
                return PROBLEMS["upstream_unreachable"].because(f"{pool.origin}: {error}")
            connection = None
            fresh = True
        except UpstreamInvalid as error:
            return PROBLEMS["upstream_invalid"].because(f"{pool.origin}: {error}")
        except UpstreamTimeout as error:
            return PROBLEMS["upstream_timeout"].because(f"{pool.origin}: {error}")
        except Unreachable as error:
            return PROBLEMS["upstream_timeout" if error.timed_out else "upstream_unreachable"].because(str(error))
        except Overloaded as error:
            return PROBLEMS["overloaded"].because(str(error))
        except BodyTimeout as error:
            return PROBLEMS["request_timeout"].because(str(error))
        except BodyBroken as error:
            return PROBLEMS["bad_request"].because(str(error))


async def _attempt(
    connection: UpstreamConnection, head: bytes, exchange: Exchange, upstream: CompiledUpstream, whole: bytes | None
) -> Response:
    response = connection.begin(
        head + whole if whole else head,
        to_head=exchange.method == "HEAD",
        response_timeout=upstream.response_timeout,
        idle_timeout=upstream.idle_timeout,
        upgrade=exchange.upgrade,
    )
    try:
        if whole is None:
            # Its own task: an upstream may answer before it has read all, or while it reads (an echo).
            pump = asyncio.get_running_loop().create_task(_send_body(connection, exchange))
            connection.pump(pump, upstream.response_timeout)
        return await response
    except asyncio.CancelledError:
        connection.abandon(response)
        raise


async def _send_body(connection: UpstreamConnection, exchange: Exchange) -> None:
    body = exchange.body
    if body.length is not None:
        while piece := await body.read():
            await connection.write(piece)
        return
    while piece := await body.read():
        await connection.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    await connection.write(b"0\r\n\r\n")


def _head(exchange: Exchange, upstream: CompiledUpstream, whole: bytes | None) -> bytes:
    """The request's head. Raises ValueError when a step left something in it that cannot stand in a head."""
    client_host = exchange.headers.get(hdrs.HOST, exchange.host)
    host = client_host.encode("latin-1") if upstream.preserve_host and client_host else upstream.host_header
    passes = FROM_TRUSTED if exchange.trusted_peer else FROM_UNTRUSTED
    pairs = [pair for pair in exchange.raw_headers if passes[pair[0]]]
    connection = exchange.headers.getall(hdrs.CONNECTION, ())
    if connection:
        # Before ours go in: a client cannot nominate what we say about it.
        gone = nominated(",".join(connection).encode("utf-8", "surrogateescape"))
        if gone:
            pairs = [pair for pair in pairs if pair[0].lower() not in gone]
    edits = exchange.header_edits
    if edits is not None:
        pairs = _edited(pairs, edits)
    lines = [
        f"{exchange.method} {_target(exchange, upstream)} HTTP/1.1".encode("ascii"),
        b"Host: " + host,
        *[b"%b: %b" % pair for pair in pairs],
        *_about_the_client(exchange, client_host),
        *_framing(exchange, whole),
        *(() if exchange.upgrade is None else exchange.upgrade.request_lines()),
        b"\r\n",
    ]
    head = b"\r\n".join(lines)
    if not head.count(b"\n") == head.count(b"\r") == len(lines) or b"\0" in head:
        raise ValueError("a control character where none may be")
    return head


def _target(exchange: Exchange, upstream: CompiledUpstream) -> str:
    path = exchange.upstream_path
    if path is None:
        tail = exchange.tail if upstream.strip else exchange.path
        path = upstream.base_path.rstrip("/") + tail if upstream.base_path else tail
    if not path.startswith("/") or " " in path:
        raise ValueError(f"not a path: {path!r}")
    query = exchange.query if exchange.upstream_query is None else exchange.upstream_query
    if upstream.base_query:
        query = f"{upstream.base_query}&{query}" if query else upstream.base_query
    return f"{path}?{query}" if query else path


def _edited(pairs: list[tuple[bytes, bytes]], edits: HeaderEdits) -> list[tuple[bytes, bytes]]:
    if edits.removed:
        removed = {name.encode("latin-1") for name in edits.removed}
        pairs = [pair for pair in pairs if pair[0].lower() not in removed]
    added = [(name.encode("latin-1"), value.encode("utf-8", "surrogateescape")) for name, value in edits.added]
    return [*pairs, *added]


def _about_the_client(exchange: Exchange, client_host: str) -> list[bytes]:
    """What we say about the client. Of a trusted proxy in front of us, what it said stands, and we append."""
    headers = exchange.headers
    chain = exchange.peer
    host = client_host
    if exchange.trusted_peer:
        before = headers.getall(hdrs.X_FORWARDED_FOR, ())
        if before:
            chain = f"{', '.join(before)}, {chain}"
        host = headers.get("X-Forwarded-Host", host)
    said = [
        f"X-Forwarded-For: {chain}",
        f"X-Forwarded-Proto: {exchange.scheme}",
        f"X-Real-IP: {exchange.client_ip}",
        f"X-Request-Id: {exchange.request_id}",
    ]
    if host:
        said.append(f"X-Forwarded-Host: {host}")
    if hdrs.FORWARDED in headers:
        # Only in reply to one, so that a forged one is replaced; X-Forwarded-* say the same to everybody else.
        node = f'"[{exchange.peer}]"' if ":" in exchange.peer else exchange.peer
        element = f'for={node};host="{client_host}";proto={exchange.scheme}'
        earlier = headers.getall(hdrs.FORWARDED) if exchange.trusted_peer else []
        said.append(f"Forwarded: {', '.join([*earlier, element])}")
    return [line.encode("utf-8", "surrogateescape") for line in said]


def _framing(exchange: Exchange, whole: bytes | None) -> tuple[bytes, ...]:
    body = exchange.body
    if whole is None:
        length = body.length
        return (b"Transfer-Encoding: chunked",) if length is None else (b"Content-Length: %d" % length,)
    if whole or body.present or exchange.method in _HAS_BODY_BY_NATURE:
        return (b"Content-Length: %d" % len(whole),)
    return ()
