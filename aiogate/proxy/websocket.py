"""WebSocket as far as a gateway has to know it: the handshake, and where frames begin (RFC 6455).

Nothing here is done for its own sake. The handshake is checked on both sides, because a tunnel that one side believes
in and the other does not is a way to smuggle requests. Frames are followed so that a frame of our own (Close, Ping) is
never put into the middle of another; only where a definition sets limits are they looked into.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import os
from collections.abc import Sequence
from hashlib import sha1
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

__all__ = ["PING", "Closing", "Frames", "InspectedFrames", "close_frame", "flaw_of", "flaw_of_answer"]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION: Final = "13"
_CLOSE: Final = 8
_KNOWN: Final = frozenset({0, 1, 2, 8, 9, 10})
_CODES_IN_USE: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
PING: Final = b"\x89\x00"
"""A Ping without a payload, as a server sends it."""


# The handshake


def flaw_of(headers: CIMultiDictProxy[str]) -> str:
    """What is wrong with a client's handshake (RFC 6455 section 4.2.1); empty: nothing."""
    versions = headers.getall("Sec-WebSocket-Version", ())
    if list(versions) != [_VERSION]:
        return f"Sec-WebSocket-Version is {', '.join(versions) or 'missing'}, and only {_VERSION} is spoken"
    keys = headers.getall("Sec-WebSocket-Key", ())
    if len(keys) != 1:
        return f"{len(keys)} Sec-WebSocket-Key headers"
    try:
        nonce = base64.b64decode(keys[0].encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        nonce = b""
    return "" if len(nonce) == 16 else "Sec-WebSocket-Key is not 16 bytes in base64"


def flaw_of_answer(key: str, headers: Sequence[tuple[bytes, bytes]], *, extensions: bool) -> str:
    """What is wrong with an upstream's 101 to the handshake with `key` (section 4.1); empty: nothing.

    `extensions`: whether any had been offered to it.
    """
    told = [value for name, value in headers if name.lower() == b"sec-websocket-accept"]
    expected = base64.b64encode(sha1(key.encode("ascii") + _GUID).digest())  # noqa: S324  # the protocol's choice
    if told != [expected]:
        return "Sec-WebSocket-Accept does not answer the key"
    if not extensions and any(name.lower() == b"sec-websocket-extensions" for name, _ in headers):
        return "an extension that nobody offered"
    return ""


# Frames


def close_frame(code: int, reason: str = "", *, masked: bool = False) -> bytes:
    """A Close frame. `masked`: as a client sends it. `reason` is at most 123 bytes."""
    payload = code.to_bytes(2) + reason.encode()
    assert len(payload) <= 125
    if not masked:
        return bytes((0x80 | _CLOSE, len(payload))) + payload
    mask = os.urandom(4)
    return bytes((0x80 | _CLOSE, 0x80 | len(payload))) + mask + _unmasked(payload, mask, 0)


class Closing(NamedTuple):
    """The code and the reason of a Close frame, such as the one for a side that did what it may not."""

    code: int
    reason: str


class Frames:
    """Follows the frames of one direction, without looking into them.

    `between`: the next byte begins a frame. `closed`: a Close frame has passed, and nothing may follow it.
    """

    __slots__ = ("_head", "_left", "closed")

    def __init__(self) -> None:
        self.closed = False
        self._left = 0
        self._head = b""

    @property
    def between(self) -> bool:
        return not self._left and not self._head

    def feed(self, data: bytes) -> tuple[bytes, Closing | None]:
        """Follow what came. What may go on to the other side, and why no more may come; None: all is well."""
        size = len(data)
        if self._left >= size:
            self._left -= size
            return data, None
        at, self._left = self._left, 0
        seen = data
        if self._head:
            seen, at = self._head + data, 0
            size = len(seen)
            self._head = b""
        while at < size:
            head = _head_size(seen, at)
            if size - at < head:
                self._head = seen[at:]
                return data, None
            length = seen[at + 1] & 127
            if length > 125:
                length = int.from_bytes(seen[at + 2 : at + (4 if length == 126 else 10)])
            if seen[at] & 15 == _CLOSE:
                self.closed = True
            at += head + length
        self._left = at - size
        return data, None


class InspectedFrames(Frames):
    """Follows frames and holds them against the protocol and against limits.

    `masked`: the direction from the client. `max_frame` and `max_message` are bytes of payload; None: any. A frame's
    head is passed on only when all of it has come and been approved, so that a frame that is refused never begins on
    the other side.
    """

    __slots__ = (
        "_close",
        "_decoder",
        "_final",
        "_mask",
        "_masked",
        "_max_frame",
        "_max_message",
        "_message",
        "_offset",
        "_opcode",
        "_size",
    )

    def __init__(self, *, masked: bool, max_frame: int | None = None, max_message: int | None = None) -> None:
        super().__init__()
        self._masked = masked
        self._max_frame = max_frame
        self._max_message = max_message
        self._message = 0
        """Opcode of the message in progress; 0: none."""
        self._size = 0
        self._decoder: codecs.IncrementalDecoder | None = None
        self._opcode = 0
        self._final = True
        self._mask = b""
        self._offset = 0
        self._close = b""

    @property
    def between(self) -> bool:
        # The head in `_head` was not passed on.
        return not self._left

    def feed(self, data: bytes) -> tuple[bytes, Closing | None]:
        if self._head:
            data, self._head = self._head + data, b""
        size = len(data)
        at = 0
        begun: int | None = None
        """Where the frame in progress begins; None: in an earlier piece."""
        while at < size:
            wrong = None
            if not self._left:
                head = _head_size(data, at)
                if size - at < head:
                    self._head = data[at:]
                    return data[:at], None
                begun = at
                wrong = self._begin(data, at, head)
                at += head
            if wrong is None:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                wrong = self._payload(piece) or (self._end() if not self._left else None)
            if wrong is not None:
                if begun is None:
                    # The other side has its beginning already, and nothing of ours can stand in the middle of it.
                    self._left = max(self._left, 1)
                    return b"", wrong
                self._left = 0
                return data[:begun], wrong
        return data, None

    def _begin(self, data: bytes, at: int, head: int) -> Closing | None:
        """Approve a frame by its head (sections 5.2, 5.4, 5.5)."""
        first, second = data[at], data[at + 1]
        opcode, final, length = first & 15, bool(first & 128), second & 127
        if self.closed:
            return Closing(1002, "a frame behind Close")
        if first & 0x70:
            return Closing(1002, "a reserved bit is set")
        if opcode not in _KNOWN:
            return Closing(1002, "an unknown kind of frame")
        if bool(second & 128) is not self._masked:
            return Closing(1002, "a frame is not masked" if self._masked else "a frame is masked")
        if opcode & 8:
            if not final or length > 125:
                return Closing(1002, "a control frame in pieces, or a long one")
        elif bool(self._message) is bool(opcode):
            return Closing(1002, "a message inside a message" if opcode else "a continuation of nothing")
        if length > 125:
            shortest = 126 if length == 126 else 65536
            length = int.from_bytes(data[at + 2 : at + (4 if length == 126 else 10)])
            if not shortest <= length < 2**63:
                return Closing(1002, "a length in the wrong form")
        if self._max_frame is not None and length > self._max_frame:
            return Closing(1009, f"a frame is over {self._max_frame} bytes")
        if not opcode & 8:
            self._size = self._size + length if not opcode else length
            if self._max_message is not None and self._size > self._max_message:
                return Closing(1009, f"a message is over {self._max_message} bytes")
            if opcode:
                self._message = opcode
                self._decoder = codecs.getincrementaldecoder("utf-8")() if opcode == 1 else None
        self._mask = data[at + head - 4 : at + head] if self._masked else b""
        self._opcode, self._final, self._offset, self._left, self._close = opcode, final, 0, length, b""
        return None

    def _payload(self, piece: bytes) -> Closing | None:
        text = not self._opcode & 8 and self._decoder is not None
        if text or self._opcode == _CLOSE:
            plain = _unmasked(piece, self._mask, self._offset) if self._mask else piece
            self._offset += len(piece)
            if not text:
                self._close += plain
            elif not self._decodes(plain, final=False):
                return Closing(1007, "text is not UTF-8")
        return None

    def _end(self) -> Closing | None:
        """The frame is complete."""
        if self._opcode == _CLOSE:
            self.closed = True
            return _flaw_of_close(self._close)
        if not self._opcode & 8 and self._final:
            self._message = 0
            if self._decoder is not None and not self._decodes(b"", final=True):
                return Closing(1007, "text is not UTF-8")
        return None

    def _decodes(self, plain: bytes, *, final: bool) -> bool:
        assert self._decoder is not None
        try:
            self._decoder.decode(plain, final)
        except UnicodeDecodeError:
            return False
        return True


def _head_size(data: bytes, at: int) -> int:
    """How long the head of the frame at `at` is, or how much of it must have come before that can be told."""
    second = data[at + 1] if len(data) - at > 1 else 0
    length = second & 127
    return 2 + (0 if length < 126 else 2 if length == 126 else 8) + (second >> 5 & 4)


def _flaw_of_close(payload: bytes) -> Closing | None:
    """What is wrong with the payload of a Close frame (sections 5.5.1 and 7.4)."""
    if not payload:
        return None
    code = int.from_bytes(payload[:2])
    if len(payload) == 1 or not (code in _CODES_IN_USE or 3000 <= code <= 4999):
        return Closing(1002, "a Close frame without a proper code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        return Closing(1007, "the reason of a Close frame is not UTF-8")
    return None


def _unmasked(data: bytes, mask: bytes, offset: int) -> bytes:
    """The payload, or a part of it that begins at `offset`, with the mask taken off or put on."""
    size = len(data)
    turn = offset & 3
    stream = (mask[turn:] + mask[:turn]) * (size // 4 + 1)
    return (int.from_bytes(data) ^ int.from_bytes(stream[:size])).to_bytes(size)
