"""Messages between the supervisor and its workers, over a socket pair that nobody else holds.

A message is a tuple that begins with its kind; `Framer` finds their ends in a stream. Both ends are this very program,
in the same version, so plain pickles of frozen values travel.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["Framer", "Message", "packed"]

Message = tuple[Any, ...]

_LENGTH: Final = struct.Struct("!I")
_LONGEST: Final = 256 * 1024 * 1024


def packed(message: Message) -> bytes:
    """The message as it travels."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


class Framer:
    """Bytes in, messages out."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are whole now. Raises ValueError for a length that cannot be."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > _LONGEST:
                raise ValueError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            data = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            message: Message = pickle.loads(data)  # noqa: S301  # from our own process, see above
            yield message
