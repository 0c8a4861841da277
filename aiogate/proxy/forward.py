"""The end of a chain: send the exchange to its upstream and bring the response back.

The head is built once, as bytes, from the canonical path and the filtered headers; the address comes from the
definition alone. The body goes along in the same write when it is here already, as a stream otherwise. What goes
wrong comes back as a `Problem`: 502 for an upstream that cannot be reached or that talks nonsense, 504 for one that is
late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Final

from aiohttp import hdrs

from aiogate.chain.exchange import BodyBroken, BodyTimeout, Exchange, HeaderEdits, Response
from aiogate.errors import PROBLEMS, Problem
from aiogate.proxy.balance import Group, Target
from aiogate.proxy.body import ClientBody
from aiogate.proxy.connection import UpstreamConnection, UpstreamDied, UpstreamInvalid, UpstreamTimeout, UpstreamUnused
from aiogate.proxy.headers import FROM_TRUSTED, FROM_UNTRUSTED, nominated
from aiogate.proxy.pool import Overloaded, Unreachable
from aiogate.proxy.tunnel import DEFAULT_RULES, TunnelRules

__all__ = ["CompiledUpstream", "forward"]

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PROPFIND", "REPORT", "SEARCH"})
_HAS_BODY_BY_NATURE: Final = frozenset({"POST", "PUT", "PATCH"})


class Unsendable(Exception):
    """A step left something in the request that cannot stand in a head."""


@dataclass(frozen=True, slots=True)
class CompiledUpstream:
    """Where the requests of one version of an API go.

    Either the one `target`, or those of `group`. `strip`: the upstream sees the path behind the listen path.
    `preserve_host`: it sees the client's Host instead of the target's. Times are seconds: `response_timeout` from the
    end of the request to the head of the response, `idle_timeout` between two pieces of its body, `write_timeout`
    without room for the next piece of the request's, `total` for all of it. `tunnels`: which other protocols
    may be switched to, and how.
    """

    target: Target
    group: Group | None = None
    strip: bool = True
    preserve_host: bool = False
    response_timeout: float = 30.0
    idle_timeout: float = 60.0
    write_timeout: float = 30.0
    total: float | None = None
    tunnels: TunnelRules = DEFAULT_RULES


def forward(exchange: Exchange, upstream: CompiledUpstream) -> Awaitable[Response | Problem]:
    """Forward one request. Cancelling it (the client is gone) aborts the upstream's part at once.

    At most one more attempt follows, on another target if there is one: when nothing of the request was sent, or when
    the method is idempotent, there is no body, and a reused connection died before the first byte of a response. An
    upstream may close an idle connection at the very moment it is used again.
    """
    if exchange.upstream_timeout is None and upstream.total is None:
        return _forward(exchange, upstream)
    return _in_time(exchange, upstream)


async def _in_time(exchange: Exchange, upstream: CompiledUpstream) -> Response | Problem:
    limit, total = exchange.upstream_timeout, upstream.total
    ends = inf
    if total is not None:
        ends = asyncio.get_running_loop().time() + total
        limit = total if limit is None else min(limit, total)
    assert limit is not None
    tried: list[Target] = []
    try:
        async with asyncio.timeout(limit):
            return await _forward(exchange, upstream, ends, tried)
    except TimeoutError:
        reason = f"no response within {limit:g} s"
        if upstream.group is not None and tried:
            if limit == total:
                upstream.group.failed(tried[-1], reason, exchange)
            else:
                # What a step allows may be less than what the target is asked for in general.
                upstream.group.undecided(tried[-1], exchange)
        where = tried[-1].pool.origin if tried else upstream.target.pool.origin
        return PROBLEMS["upstream_timeout"].because(f"{where}: {reason}")
    except asyncio.CancelledError:
        if upstream.group is not None and tried:
            upstream.group.undecided(tried[-1], exchange)
        raise


async def _forward(
    exchange: Exchange, upstream: CompiledUpstream, ends: float = inf, tried: list[Target] | None = None
) -> Response | Problem:
    body = exchange.body
    whole = body.whole() if isinstance(body, ClientBody) else b""
    upgrade = exchange.upgrade
    if upgrade is not None:
        refused = upgrade.admit(exchange, upstream.tunnels)
        if refused is not None:
            return refused
    group = upstream.group
    target = upstream.target if group is None else group.choose(exchange)
    connection = target.pool.take_idle()
    attempts = 1
    while True:
        if tried is not None:
            tried.append(target)
        reused = connection is not None
        try:
            try:
                head = _head(exchange, upstream, target, whole)
            except ValueError as error:
                raise Unsendable(str(error)) from error
            if connection is None:
                connection = await target.pool.connect()
            pending = _begin(connection, head, exchange, upstream, whole, ends)
            try:
                response = await pending
            except asyncio.CancelledError:
                connection.abandon(pending)
                raise
            if response.status == 101:
                assert upgrade is not None
                upgrade.check(response)
        except (UpstreamDied, UpstreamInvalid, UpstreamTimeout, Unreachable) as error:
            stale = reused and isinstance(error, UpstreamDied) and error.untouched
            if group is not None:
                if stale:
                    group.undecided(target, exchange)
                else:
                    group.failed(target, str(error), exchange)
            if attempts > 1:
                return _problem(error, target)
            other = group.another(target) if group is not None else None
            if isinstance(error, Unreachable):
                if other is None:
                    return _problem(error, target)
                connection = other.pool.take_idle()
            elif isinstance(error, UpstreamUnused) or (
                stale and not exchange.body.present and exchange.method in _IDEMPOTENT
            ):
                connection = None
            else:
                return _problem(error, target)
            target = other or target
            attempts += 1
            if exchange.api is not None:
                exchange.api.counts.upstream_repeats += 1
        except BaseException as error:
            # Why it was cancelled, and what that says about the target, is known to `_in_time`.
            if group is not None and not (isinstance(error, asyncio.CancelledError) and tried is not None):
                group.undecided(target, exchange)
            if isinstance(error, Exception) and (problem := _own_problem(error)) is not None:
                return problem
            raise
        else:
            if group is not None:
                group.answered(target, response.status, exchange)
            return response


def _problem(error: Exception, target: Target) -> Problem:
    """The refusal for what the upstream did."""
    if isinstance(error, Unreachable):
        return PROBLEMS["upstream_timeout" if error.timed_out else "upstream_unreachable"].because(str(error))
    code = "upstream_unreachable"
    if isinstance(error, UpstreamTimeout):
        code = "upstream_timeout"
    elif isinstance(error, UpstreamInvalid):
        code = "upstream_invalid"
    return PROBLEMS[code].because(f"{target.pool.origin}: {error}")


def _own_problem(error: Exception) -> Problem | None:
    """The refusal for what the upstream has no part in; None: there is none for it."""
    if isinstance(error, Overloaded):
        return PROBLEMS["overloaded"].because(str(error))
    if isinstance(error, BodyTimeout):
        return PROBLEMS["request_timeout"].because(str(error))
    if isinstance(error, BodyBroken):
        return PROBLEMS["bad_request"].because(str(error))
    if isinstance(error, Unsendable):
        return PROBLEMS["upstream_invalid"].because(f"the request cannot be sent: {error}")
    return None


def _begin(
    connection: UpstreamConnection,
    head: bytes,
    exchange: Exchange,
    upstream: CompiledUpstream,
    whole: bytes | None,
    ends: float,
) -> asyncio.Future[Response]:
    """Send the head, and begin to send the body that is not here yet."""
    response = connection.begin(
        head + whole if whole else head,
        exchange.method == "HEAD",
        upstream.response_timeout,
        upstream.idle_timeout,
        upstream.write_timeout,
        ends,
        exchange.upgrade,
    )
    if whole is None:
        # Its own task: an upstream may answer before it has read all, or while it reads (an echo).
        pump = asyncio.get_running_loop().create_task(_send_body(connection, exchange))
        connection.pump(pump, upstream.response_timeout)
    return response


async def _send_body(connection: UpstreamConnection, exchange: Exchange) -> None:
    body = exchange.body
    if body.length is not None:
        while piece := await body.read():
            await connection.write(piece)
        return
    while piece := await body.read():
        await connection.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    await connection.write(b"0\r\n\r\n")


def _head(exchange: Exchange, upstream: CompiledUpstream, target: Target, whole: bytes | None) -> bytes:
    """The request's head. Raises ValueError when a step left something in it that cannot stand in a head."""
    headers = exchange.headers
    client_host = headers.get(hdrs.HOST, exchange.host)
    begins = FROM_TRUSTED if exchange.trusted_peer else FROM_UNTRUSTED
    pairs: Iterable[tuple[bytes, bytes]] = exchange.raw_headers
    if hdrs.CONNECTION in headers:
        # Before ours go in: a client cannot nominate what we say about it.
        gone = nominated(",".join(headers.getall(hdrs.CONNECTION)).encode("utf-8", "surrogateescape"))
        if gone:
            pairs = [pair for pair in pairs if pair[0].lower() not in gone]
    edits = exchange.header_edits
    if edits is None:
        lines = [begin + value for name, value in pairs if (begin := begins[name])]
    else:
        lines = [b"%b: %b" % pair for pair in _edited([pair for pair in pairs if begins[pair[0]]], edits)]
    if exchange.upgrade is not None:
        lines.extend(exchange.upgrade.request_lines())
    if framing := _framing(exchange, whole):
        lines.append(framing)
    said = _about_the_client(exchange, client_host)
    first = (
        f"{exchange.method} {_target(exchange, upstream, target)} HTTP/1.1\r\n"
        f"Host: {client_host if upstream.preserve_host and client_host else target.host}\r\n"
        f"{said}X-Request-Id: {exchange.request_id}"
    )
    lines.insert(0, first.encode("utf-8", "surrogateescape"))
    lines.append(b"\r\n")
    head = b"\r\n".join(lines)
    breaks = len(lines) + 2 + said.count("\n")
    if not head.count(b"\n") == head.count(b"\r") == breaks or b"\0" in head:
        raise ValueError("a control character where none may be")
    return head


def _target(exchange: Exchange, upstream: CompiledUpstream, target: Target) -> str:
    path = exchange.upstream_path
    if path is None:
        tail = exchange.tail if upstream.strip else exchange.path
        path = target.base_path.rstrip("/") + tail if target.base_path else tail
    if not path.startswith("/") or " " in path or not path.isascii():
        raise ValueError(f"not a path: {path!r}")
    query = exchange.query if exchange.upstream_query is None else exchange.upstream_query
    if target.base_query:
        query = f"{target.base_query}&{query}" if query else target.base_query
    return f"{path}?{query}" if query else path


def _edited(pairs: list[tuple[bytes, bytes]], edits: HeaderEdits) -> list[tuple[bytes, bytes]]:
    if edits.removed:
        removed = {name.encode("latin-1") for name in edits.removed}
        pairs = [pair for pair in pairs if pair[0].lower() not in removed]
    added = [(name.encode("latin-1"), value.encode("utf-8", "surrogateescape")) for name, value in edits.added]
    return [*pairs, *added]


def _about_the_client(exchange: Exchange, client_host: str) -> str:
    """What we say about the client. Of a trusted proxy in front of us, what it said stands, and we append."""
    headers = exchange.headers
    chain = exchange.peer
    host = client_host
    if exchange.trusted_peer:
        before = headers.getall(hdrs.X_FORWARDED_FOR, ())
        if before:
            chain = f"{', '.join(before)}, {chain}"
        host = headers.get("X-Forwarded-Host", host)
    said = _known_of_it(chain, exchange.scheme, exchange.client_ip, host)
    if hdrs.FORWARDED in headers:
        # Only in reply to one, so that a forged one is replaced; X-Forwarded-* say the same to everybody else.
        node = f'"[{exchange.peer}]"' if ":" in exchange.peer else exchange.peer
        element = f'for={node};host="{client_host}";proto={exchange.scheme}'
        earlier = headers.getall(hdrs.FORWARDED) if exchange.trusted_peer else []
        said += f"Forwarded: {', '.join([*earlier, element])}\r\n"
    return said


@lru_cache(maxsize=1024)
def _known_of_it(chain: str, scheme: str, address: str, host: str) -> str:
    """What is the same for all requests of most clients."""
    named = f"X-Forwarded-Host: {host}\r\n" if host else ""
    return f"X-Forwarded-For: {chain}\r\nX-Forwarded-Proto: {scheme}\r\nX-Real-IP: {address}\r\n{named}"


def _framing(exchange: Exchange, whole: bytes | None) -> bytes:
    """The line that says where the body ends; empty where there is none."""
    body = exchange.body
    if whole is None:
        length = body.length
        return b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    if whole or body.present or exchange.method in _HAS_BODY_BY_NATURE:
        return b"Content-Length: %d" % len(whole)
    return b""
