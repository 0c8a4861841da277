"""The PROXY protocol, versions 1 and 2: a header before the first byte of a connection that names the real client.

What a header says is decided by plain functions from bytes. `read_source` takes exactly the header's bytes from the
socket, none of what follows: that may be a TLS handshake, which is not ours to read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from typing import Final

__all__ = ["ProxyHeaderBroken", "parse_v1", "parse_v2", "read_source"]

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V1: Final = b"PROXY "
_LONGEST_V1: Final = 107
_LONGEST_V2: Final = 4096
_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}")
_AT_LEAST: Final = 12
"""Bytes of version 2's signature. No header of version 1 is shorter."""


class ProxyHeaderBroken(Exception):
    """What came is not a PROXY header."""


def parse_v1(line: bytes) -> str:
    """The client's address in a header of version 1, CR LF included; empty where it names none (`UNKNOWN`)."""
    if len(line) > _LONGEST_V1 or not line.endswith(b"\r\n"):
        raise ProxyHeaderBroken("the line does not end")
    words = line[:-2].split(b" ")
    if words[:2] == [b"PROXY", b"UNKNOWN"]:
        return ""
    if len(words) != 6 or words[0] != b"PROXY" or words[1] not in (b"TCP4", b"TCP6"):
        raise ProxyHeaderBroken("not a PROXY line")
    if not all(_PORT.fullmatch(port) and int(port) <= 65535 for port in words[4:]):
        raise ProxyHeaderBroken("not a port")
    family = ipaddress.IPv4Address if words[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        source, _ = (family(word.decode("ascii")) for word in words[2:4])
    except ValueError as error:
        raise ProxyHeaderBroken("not an address") from error
    return str(source)


def length_v2(head: bytes) -> int:
    """How many bytes follow the 16 that a header of version 2 begins with."""
    if head[12] >> 4 != 2 or head[12] & 0xF > 1:
        raise ProxyHeaderBroken("an unknown version or command")
    length = int.from_bytes(head[14:16], "big")
    if length > _LONGEST_V2:
        raise ProxyHeaderBroken(f"{length} bytes of header")
    return length


def parse_v2(head: bytes, rest: bytes) -> str:
    """The client's address in a header of version 2; empty for the proxy's own connections and unknown families."""
    local, family = not head[12] & 0xF, head[13]
    if local or family not in (0x11, 0x21):
        return ""
    addresses = 12 if family == 0x11 else 36
    if len(rest) < addresses:
        raise ProxyHeaderBroken("too short for its addresses")
    return str(ipaddress.IPv4Address(rest[:4]) if family == 0x11 else ipaddress.IPv6Address(rest[:16]))


async def read_source(sock: socket.socket) -> str:
    """Take the header from a connection; the client's address, empty where it names none.

    Raises `ProxyHeaderBroken`, or OSError from the socket. Waits without a limit of its own.
    """
    begin = b""
    while len(begin) < _AT_LEAST:
        begin += await _some(sock, _AT_LEAST - len(begin))
        # What is no header is known by its first bytes, and may send no more of them.
        if not SIGNATURE.startswith(begin) and not _V1.startswith(begin[: len(_V1)]):
            raise ProxyHeaderBroken("not a PROXY header")
    if begin == SIGNATURE:
        head = begin + await _exactly(sock, 4)
        return parse_v2(head, await _exactly(sock, length_v2(head)))
    line = begin
    while not line.endswith(b"\n"):
        seen = await _some(sock, _LONGEST_V1 - len(line), socket.MSG_PEEK)
        line += await _exactly(sock, seen.find(b"\n") + 1 or len(seen))
        if len(line) >= _LONGEST_V1 and not line.endswith(b"\n"):
            raise ProxyHeaderBroken("the line does not end")
    return parse_v1(line)


async def _exactly(sock: socket.socket, count: int) -> bytes:
    taken = b""
    while len(taken) < count:
        taken += await _some(sock, count - len(taken))
    return taken


async def _some(sock: socket.socket, most: int, flags: int = 0) -> bytes:
    """What is there, at least one byte."""
    while True:
        try:
            data = sock.recv(most, flags)
        except (BlockingIOError, InterruptedError):
            await _readable(sock)
            continue
        if not data:
            raise ProxyHeaderBroken("the connection ended")
        return data


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(sock, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
