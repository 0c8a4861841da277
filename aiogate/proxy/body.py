"""The client's body: a stream with back-pressure that is read once, by the forwarder or by a step.

aiohttp's parser feeds a `StreamReader` and stops reading the socket while that is full. What is added here: the promise
of `Expect: 100-continue` is kept only when somebody really reads, which is after authentication and limits; a client
that stalls or drips is cut off; a body that breaks its framing ends in an exception, never in a regular end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError

from aiogate.chain.exchange import BodyBroken, BodyTimeout, BodyTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NO_BODY", "ClientBody", "NoBody"]

_SLOW_AFTER: Final = 10.0
_SLOWEST: Final = 240.0
"""Bytes a second that a client must send on average once `_SLOW_AFTER` seconds have been waited for it."""


class NoBody:
    """The body of a request without one."""

    __slots__ = ()

    length = 0
    present = False

    async def read(self) -> bytes:
        return b""

    async def read_all(self, limit: int) -> bytes:
        return b""

    def cap(self, limit: int) -> None:
        pass

    def whole(self) -> bytes:
        return b""

    def close(self) -> None:
        pass


NO_BODY: Final = NoBody()


class ClientBody:
    """A `RequestBody` over aiohttp's payload stream.

    `promise` sends `100 Continue`; None when the client did not ask for it. `idle_timeout` is seconds without a byte
    while somebody waits for one.
    """

    __slots__ = (
        "_came",
        "_idle_timeout",
        "_most",
        "_payload",
        "_promise",
        "_read",
        "_seen",
        "_seen_at",
        "_started",
        "_waiting",
        "_whole",
        "length",
    )

    present = True

    def __init__(
        self, payload: StreamReader, length: int | None, idle_timeout: float, promise: Callable[[], None] | None
    ) -> None:
        self.length = length
        self._payload = payload
        self._idle_timeout = idle_timeout
        self._promise = promise
        self._whole: bytes | None = None
        self._read = False
        self._came = 0
        self._most: int | None = None
        self._waiting = False
        self._seen = -1
        self._seen_at = 0.0
        self._started = 0.0

    async def read(self) -> bytes:
        if self._whole is not None:
            piece = b"" if self._read else self._whole
            self._read = True
            return piece
        self._read = True
        return await self._next()

    async def read_all(self, limit: int) -> bytes:
        if self._whole is None:
            if self._read:
                raise RuntimeError("the body has been read as a stream already")
            if self.length is not None and self.length > limit:
                raise BodyTooLarge(f"{self.length} bytes are announced, {limit} allowed")
            pieces = []
            size = 0
            while piece := await self._next():
                size += len(piece)
                if size > limit:
                    raise BodyTooLarge(f"more than {limit} bytes came")
                pieces.append(piece)
            self._whole = b"".join(pieces)
        if len(self._whole) > limit:
            raise BodyTooLarge(f"{len(self._whole)} bytes, {limit} allowed")
        return self._whole

    def cap(self, limit: int) -> None:
        if self._most is None or limit < self._most:
            self._most = limit

    def whole(self) -> bytes | None:
        """The body when all of it is here and nobody has read it yet, else None. Takes it: like `read`, but at once.

        Raises `BodyTooLarge` past a cap.
        """
        if self._read:
            return None
        if self._whole is None and self._payload.is_eof() and self._payload.exception() is None:
            self._whole = self._counted(self._payload.read_nowait() if not self._payload.at_eof() else b"")
        if self._whole is not None:
            self._read = True
        return self._whole

    def close(self) -> None:
        """What has not been read is left to the listener, which closes the connection."""

    @property
    def promised(self) -> bool:
        """Whether the client waits for `100 Continue` in vain so far."""
        return self._promise is not None

    def fail(self, error: Exception) -> None:
        """No more will come."""
        if not self._payload.is_eof() and self._payload.exception() is None:
            self._payload.set_exception(error)

    def sweep(self, now: float) -> None:
        """Cut off a client that stalls or drips. Counts only the time in which somebody waits for it."""
        if not self._waiting:
            self._seen = -1
            return
        arrived = self._payload.total_bytes
        if self._seen < 0:
            self._started = self._started or now
        if arrived != self._seen:
            self._seen, self._seen_at = arrived, now
        elif now - self._seen_at > self._idle_timeout:
            self.fail(BodyTimeout(f"no byte of the body came for {self._idle_timeout:g} s"))
        elapsed = now - self._started
        if elapsed > _SLOW_AFTER and arrived / elapsed < _SLOWEST:
            self.fail(BodyTimeout(f"the body came at {arrived / elapsed:.0f} bytes a second"))

    async def _next(self) -> bytes:
        if self._promise is not None:
            promise, self._promise = self._promise, None
            promise()
        self._waiting = True
        try:
            return self._counted(await self._payload.readany())
        except RequestPayloadError as error:
            raise BodyBroken(str(error)) from error
        except RuntimeError as error:
            # The stream's way to say that the connection is gone.
            raise BodyBroken("the client is gone") from error
        finally:
            self._waiting = False

    def _counted(self, piece: bytes) -> bytes:
        if self._most is not None:
            self._came += len(piece)
            if self._came > self._most:
                raise BodyTooLarge(f"more than {self._most} bytes came")
        return piece
