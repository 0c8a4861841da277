"""The way back: a `Response` becomes bytes on the client's connection.

The head is made once. With a body of bytes it leaves in one write; a stream follows piece by piece, and the next piece
is asked for only when the client's socket has room. We frame every body ourselves: by length when it is known, chunked
otherwise, until the end of the connection for HTTP/1.0. A stream that breaks off is never ended cleanly: `Truncated`
tells the listener to reset the connection, so that the client cannot take the part for the whole.
"""

from __future__ import annotations

import http
from functools import lru_cache
from itertools import product
from typing import Final, Protocol

from aiogate.chain.exchange import BodyStream
from aiogate.errors import FAILURES
from aiogate.proxy.headers import TO_CLIENT

__all__ = ["Client", "Framing", "Truncated", "framing_of", "relay", "response_head"]

_STATUS_LINES: Final = {int(known): f"HTTP/1.1 {known.value} {known.phrase}".encode() for known in http.HTTPStatus}


class Truncated(Exception):
    """The body broke off after its head had been sent."""


class Client(Protocol):
    """The connection that a body is written to."""

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None:
        """Wait until there is room. Raises ConnectionError when the client is gone."""
        ...


class Framing:
    """How the end of a body is told. `lines` are its headers; `closes`: by the end of the connection."""

    __slots__ = ("bodiless", "chunked", "closes", "line")

    def __init__(self, line: bytes, *, bodiless: bool = False, chunked: bool = False, closes: bool = False) -> None:
        self.line = line
        self.bodiless = bodiless
        self.chunked = chunked
        self.closes = closes


_NONE: Final = Framing(b"", bodiless=True)
_CHUNKED: Final = Framing(b"Transfer-Encoding: chunked\r\n", chunked=True)
_UNTIL_CLOSE: Final = Framing(b"", closes=True)


def framing_of(
    status: int, pairs: list[tuple[bytes, bytes]], body: bytes | BodyStream, method: str, *, version_1_1: bool
) -> Framing:
    """How a response to `method` ends (RFC 9112 section 6.3)."""
    if status == 204:
        return _NONE
    length = len(body) if isinstance(body, bytes) else body.length
    if method == "HEAD" or status == 304:
        # The length that GET would have: the upstream's word, or the size of what we made ourselves.
        told = length or _told_length(pairs)
        return _NONE if told is None else Framing(b"Content-Length: %d\r\n" % told, bodiless=True)
    if length is not None:
        return _of_length(length)
    return _CHUNKED if version_1_1 else _UNTIL_CLOSE


@lru_cache(maxsize=1024)
def _of_length(length: int) -> Framing:
    return Framing(b"Content-Length: %d\r\n" % length)


def _told_length(pairs: list[tuple[bytes, bytes]]) -> int | None:
    for name, value in pairs:
        if name.lower() == b"content-length":
            return int(value)
    return None


def response_head(
    status: int,
    pairs: list[tuple[bytes, bytes]],
    framing: Framing,
    request_id: str,
    date_line: bytes,
    connection: bytes,
) -> bytes:
    """The head as it is written. `date_line` and `connection` are whole lines; the latter may be empty.

    Raises ValueError when a header holds what would split the response.
    """
    lines = [begin + value for name, value in pairs if (begin := TO_CLIENT[name])]
    lines.insert(0, _STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status)
    lines.append(framing.line)
    theirs = b"\r\n".join(lines)
    if b"\r\nDate: " in theirs or not _DATE.isdisjoint([name for name, _ in pairs]):
        date_line = b""
    head = b"".join([theirs, date_line, b"X-Request-Id: ", request_id.encode("ascii"), b"\r\n", connection, b"\r\n"])
    breaks = len(lines) + 1 + (framing.line != b"") + (date_line != b"") + (connection != b"")
    if not head.count(b"\n") == head.count(b"\r") == breaks or b"\0" in head:
        raise ValueError("a control character in a header")
    return head


# All spellings, because a name's case is the upstream's.
_DATE: Final = frozenset(bytes(letters) for letters in product(*zip(b"date", b"DATE", strict=True)))


async def relay(body: BodyStream, client: Client, framing: Framing) -> None:
    """Write a stream, with back-pressure. Raises `Truncated`, or ConnectionError when the client is gone."""
    written = 0
    while True:
        try:
            piece = await body.read()
        except FAILURES as error:
            raise Truncated(f"{type(error).__name__}: {error}") from error
        if not piece:
            break
        written += len(piece)
        if framing.chunked:
            client.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        else:
            client.write(piece)
        await client.drain()
    if body.length is not None and written != body.length:
        raise Truncated(f"{written} bytes came of {body.length}")
    if framing.chunked:
        client.write(b"0\r\n\r\n")
