"""One connection to an upstream: bytes in, responses out, strictly.

llhttp (httptools) finds the boundaries; what it lets pass and we do not is refused here: other transfer codings than
`chunked`, a head over the limit, an endless row of interim responses, an unasked 101. On any doubt the connection is
closed and never used again, because a boundary that two sides see differently hands one client's response to another.

A connection serves one request at a time, in this order:

    IDLE -> begin() -> AWAITING -> head seen -> STREAMING -> message complete -> IDLE (back to the pool)

`response()` answers once per request: with a whole body when it came in the same read as the head, which is one write
to the client; otherwise with an `UpstreamBody`. Nobody reads ahead of the client: with `_READ_AHEAD` bytes unread
the socket is paused.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

import httptools

from aiogate.chain.exchange import BodyBroken, BodyTimeout, Response
from aiogate.proxy.headers import TO_CLIENT, nominated

if TYPE_CHECKING:
    from aiogate.proxy.pool import Pool
    from aiogate.proxy.tunnel import Upgrade

__all__ = ["UpstreamBody", "UpstreamConnection", "UpstreamDied", "UpstreamInvalid", "UpstreamTimeout", "UpstreamUnused"]

_READ_SIZE: Final = 64 * 1024
_READ_AHEAD: Final = 32 * 1024
_WRITE_AHEAD: Final = 64 * 1024
_HEAD_LIMIT: Final = 64 * 1024
_HEADER_COUNT_LIMIT: Final = 256
_INTERIM_LIMIT: Final = 10

# One buffer for all connections: a read is parsed before the next one starts, and the parser copies what it hands on.
_view: Final = memoryview(bytearray(_READ_SIZE))


class UpstreamDied(Exception):
    """The connection ended before a response. `untouched` says that no byte of one had come."""

    def __init__(self, reason: str, *, untouched: bool) -> None:
        super().__init__(reason)
        self.untouched = untouched


class UpstreamUnused(UpstreamDied):
    """The connection ended before any of the request was sent."""

    def __init__(self) -> None:
        super().__init__("the upstream closed the connection before the request was sent", untouched=True)


class UpstreamInvalid(Exception):
    """What came is not a response that has one reading."""


class UpstreamTimeout(Exception):
    """The response did not begin in time."""


class _State(enum.Enum):
    IDLE = enum.auto()
    AWAITING = enum.auto()
    STREAMING = enum.auto()
    CLOSED = enum.auto()


# Names of our own: asking an enumeration for a member is a function call in Python 3.11.
_IDLE: Final = _State.IDLE
_AWAITING: Final = _State.AWAITING
_STREAMING: Final = _State.STREAMING
_CLOSED: Final = _State.CLOSED


class UpstreamBody:
    """The rest of a response whose head has been handed on. A `BodyStream`."""

    __slots__ = ("_connection", "_ended", "_error", "_pieces", "_size", "_waiter", "length")

    def __init__(self, connection: UpstreamConnection, length: int | None) -> None:
        self.length = length
        self._connection = connection
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            waiter = self._waiter = self._connection.loop.create_future()
            self._connection.expect_body()
            try:
                await waiter
            finally:
                self._waiter = None
        piece = self._pieces.popleft() if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        self._connection.resume_reading()
        return piece

    def close(self) -> None:
        if not self._ended:
            self._connection.abort()

    @property
    def read_ahead(self) -> int:
        """Bytes that came and have not been read."""
        return self._size

    def feed(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        self._wake()

    def end(self) -> None:
        self._ended = True
        self._wake()

    def fail(self, error: Exception) -> None:
        if not self._ended and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class UpstreamConnection(asyncio.BufferedProtocol):
    """The protocol of one upstream socket. `deadline` is loop time; the sweeper calls `expire` when it has passed."""

    __slots__ = (
        "_body",
        "_close_delimited",
        "_complete",
        "_connection_header",
        "_drained",
        "_ends",
        "_final",
        "_head_complete",
        "_head_size",
        "_headers",
        "_idle_timeout",
        "_interim",
        "_length",
        "_parser",
        "_paused",
        "_pieces",
        "_pool",
        "_pump",
        "_response",
        "_reusable",
        "_state",
        "_status",
        "_switched_to",
        "_to_head",
        "_touched",
        "_transfer_encoding",
        "_transport",
        "_upgrade",
        "_write_timeout",
        "_writing_paused",
        "deadline",
        "loop",
        "served",
    )

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.deadline = inf
        self.served = 0
        self._pool = pool
        self._state = _IDLE
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._response: asyncio.Future[Response] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._body: UpstreamBody | None = None
        self._writing_paused = False
        self._paused = False
        self._to_head = False
        self._touched = False
        self._interim = 0
        self._status = 0
        self._idle_timeout = inf
        self._upgrade: Upgrade | None = None
        self._write_timeout = inf
        self._ends = inf
        self._reset()

    def _reset(self) -> None:
        """Ready for the next head."""
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._head_size = 0
        self._head_complete = False
        self._final = False
        self._complete = False
        self._reusable = False
        self._close_delimited = False
        self._length: int | None = None
        self._transfer_encoding = b""
        self._connection_header = b""
        self._switched_to = b""

    # What the forwarder does

    @property
    def usable(self) -> bool:
        """Whether a request may begin here."""
        return self._state is _IDLE and self._transport is not None and not self._transport.is_closing()

    def begin(
        self,
        head: bytes,
        to_head: bool,
        response_timeout: float,
        idle_timeout: float,
        write_timeout: float = inf,
        ends: float = inf,
        upgrade: Upgrade | None = None,
    ) -> asyncio.Future[Response]:
        """Send the head of a request, or all of it. `to_head`: the response answers HEAD and so has no body.

        Times are seconds: until the head of the response, between two pieces of its body, and without room for the next
        piece of the request's; `ends` is the loop's time at which the response's body must have ended. `upgrade`: the
        request asks for another protocol. On a 101 it gets the socket, and the pool forgets it.

        What comes back fails with `UpstreamDied`, `UpstreamInvalid`, `UpstreamTimeout`, or with what broke the sending
        of the request's body. Who stops waiting for it must `abandon` it. Raises `UpstreamUnused`.
        """
        transport = self._transport
        if self._state is not _IDLE or transport is None or transport.is_closing():
            raise UpstreamUnused
        self._state = _AWAITING
        self._to_head = to_head
        self._upgrade = upgrade
        self._touched = False
        self._interim = 0
        self._idle_timeout = idle_timeout
        self._write_timeout = write_timeout
        self._ends = ends
        self.served += 1
        self.deadline = self.loop.time() + response_timeout
        self._response = response = self.loop.create_future()
        transport.write(head)
        return response

    def pump(self, task: asyncio.Task[None], response_timeout: float) -> None:
        """The task that sends the request's body. The response is due `response_timeout` after it has ended."""
        self._pump = task
        self.deadline = inf

        def sent(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if self._pump is not task:
                return  # the response was complete before the request
            if error is not None:
                self.abort(error if isinstance(error, Exception) else UpstreamDied(repr(error), untouched=False))
            elif self._state is _AWAITING:
                self.deadline = self.loop.time() + response_timeout

        task.add_done_callback(sent)

    async def write(self, data: bytes) -> None:
        """Send a piece of the request's body and wait until there is room for the next."""
        if self._transport is None or self._transport.is_closing():
            raise UpstreamDied("the connection ended while the request was sent", untouched=not self._touched)
        self._transport.write(data)
        if self._writing_paused:
            if self._state is _AWAITING:
                self.deadline = self.loop.time() + self._write_timeout
            self._drained = self.loop.create_future()
            try:
                await self._drained
            finally:
                self._drained = None
            if self._state is _AWAITING:
                self.deadline = inf

    def abandon(self, response: asyncio.Future[Response]) -> None:
        """Give up on a request; if it has ended already the connection may serve another, and is left alone."""
        if self._response is response:
            self.abort()

    def abort(self, error: Exception | None = None) -> None:
        """Give up on the request in progress and on the connection."""
        self._fail(error or UpstreamDied("given up", untouched=False))
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End an idle connection."""
        if self._transport is not None:
            self._transport.close()

    # What the sweeper and the body do

    def expire(self) -> None:
        """The deadline has passed."""
        if self._state is _AWAITING:
            waits = "the request was not taken" if self._drained is not None else "the response did not begin"
            self.abort(UpstreamTimeout(f"{waits} in time"))
        elif self._state is _STREAMING:
            late = self.loop.time() >= self._ends
            self.abort(BodyTimeout("the response took too long" if late else "the upstream's body stalled"))
        else:
            self.close()

    def expect_body(self) -> None:
        """Somebody waits for the next piece of the body."""
        self.deadline = min(self.loop.time() + self._idle_timeout, self._ends)

    def resume_reading(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_AHEAD)

    def get_buffer(self, sizehint: int) -> memoryview:
        # A view, not the bytearray: asyncio's TLS writes into slices of it, and a slice of a bytearray is a copy.
        return _view

    def buffer_updated(self, size: int) -> None:
        if self._state is _IDLE:
            # Nobody asked: a late second response, or an upstream that splits responses.
            self._leave()
            return
        if self._state is _CLOSED:
            return
        self._touched = True
        if not self._head_complete:
            self._head_size += size
        broken: Exception | None = None
        try:
            self._parser.feed_data(_view[:size])
        except httptools.HttpParserCallbackError as error:
            broken = error.__context__ if isinstance(error.__context__, Exception) else error
        except httptools.HttpParserUpgrade as switched:
            if self._upgrade is not None and self._switched_to:
                self._hand_over(bytes(_view[switched.args[0] : size]))
                return
            broken = UpstreamInvalid("an upgrade that nobody asked for")
        except httptools.HttpParserError as error:
            broken = UpstreamInvalid(f"not a valid response: {error}")
        if not self._head_complete and self._head_size > _HEAD_LIMIT and broken is None:
            # A header that never ends reaches no callback.
            broken = UpstreamInvalid("the head of the response is too large")
        self._settle(broken, size)

    def _settle(self, broken: Exception | None, size: int) -> None:
        """What one read has come to: a response, the next piece of one, its end, or a broken connection."""
        if self._head_complete and self._final and self._state is _AWAITING:
            if self._to_head:
                self._end_with_head(size)
            if self._complete or broken is None:
                self._deliver()
        if self._complete:
            self._finish(reusable=broken is None)
        elif broken is not None:
            self.abort(BodyBroken(str(broken)) if self._state is _STREAMING else broken)
        elif self._body is not None and self._body.read_ahead > _READ_AHEAD and not self._paused:
            assert self._transport is not None
            self._paused = True
            self._transport.pause_reading()

    def _end_with_head(self, size: int) -> None:
        """The response to HEAD ends with its head, whatever length it announces.

        llhttp does not know and waits for that body: the next response needs a fresh parser. Anything behind the head
        is a body that must not be there.
        """
        nothing_behind = bytes(_view[max(0, size - 4) : size]) == b"\r\n\r\n" and not self._pieces
        self._reusable = self._reusable and nothing_behind
        self._pieces = []
        if not self._complete:
            self._complete = True
            self._parser = httptools.HttpResponseParser(self)

    def _deliver(self) -> None:
        assert self._response is not None
        status = self._status
        pairs = self._headers
        if self._connection_header:
            gone = nominated(self._connection_header)
            if gone:
                pairs = [pair for pair in pairs if pair[0].lower() not in gone]
        if self._length is not None and (self._to_head or status == 304):
            # No body follows, so the writer frames nothing: this length tells what GET would have sent.
            pairs.append((b"Content-Length", b"%d" % self._length))
        body: bytes | UpstreamBody
        if self._complete:
            body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        else:
            body = self._body = UpstreamBody(self, self._length)
            for piece in self._pieces:
                body.feed(piece)
            self._state = _STREAMING
            self.deadline = self._ends
        self._pieces = []
        if not self._response.done():
            self._response.set_result(Response(status, body, None, pairs))

    def _hand_over(self, tail: bytes) -> None:
        """The upstream has switched protocols: the socket, and what came behind the head, are the tunnel's now."""
        assert self._transport is not None
        assert self._response is not None
        assert self._upgrade is not None
        transport, self._transport = self._transport, None
        self._state = _CLOSED
        self.deadline = inf
        self._pool.forget(self)
        if self._response.done():
            transport.abort()
            return
        self._upgrade.switched(transport, self._switched_to, tail)
        self._response.set_result(Response(101, raw_headers=self._headers))

    def _finish(self, *, reusable: bool) -> None:
        """The message is complete: back to the pool, or away."""
        if self._body is not None:
            self._body.end()
            self._body = None
        pump = self._pump
        self._pump = None
        sent = pump is None or (pump.done() and not pump.cancelled() and pump.exception() is None)
        reusable = reusable and self._reusable and sent and not self._writing_paused and self._upgrade is None
        self._reset()
        self._response = None
        if pump is not None and not pump.done():
            pump.cancel()
        if reusable:
            self._state = _IDLE
            if self._paused:
                self.resume_reading()
            self._pool.take_back(self)
        else:
            self._leave()

    def _leave(self) -> None:
        self._state = _CLOSED
        self.deadline = inf
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if exc is None and self._close_delimited and self._state is _STREAMING:
            self._finish(reusable=False)
        died = UpstreamDied(str(exc or "the upstream closed the connection"), untouched=not self._touched)
        self._fail(died)
        if self._drained is not None and not self._drained.done():
            _tell(self._drained, died)
        self._pool.forget(self)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _fail(self, error: Exception) -> None:
        """Tell whoever waits; from here on the connection is of no use."""
        if self._state is _CLOSED:
            return
        self._state = _CLOSED
        self.deadline = inf
        if self._response is not None and not self._response.done():
            _tell(self._response, error)
        if self._body is not None:
            self._body.fail(error if isinstance(error, (BodyBroken, BodyTimeout)) else BodyBroken(str(error)))
            self._body = None
        pump = self._pump
        self._pump = None
        if pump is not None and not pump.done():
            pump.cancel()

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._complete:
            raise UpstreamInvalid("a second response to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_complete:
            return  # a trailer field: dropped
        if TO_CLIENT[name]:
            self._headers.append((name, value.rstrip(b" \t")))
            return
        lowered = name.lower()
        if lowered == b"content-length":
            self._length = int(value)
        elif lowered == b"transfer-encoding":
            self._transfer_encoding = b",".join((self._transfer_encoding, value)) if self._transfer_encoding else value
        elif lowered == b"connection":
            self._connection_header = b",".join((self._connection_header, value)) if self._connection_header else value
        elif lowered == b"upgrade":
            self._switched_to = b",".join((self._switched_to, value)) if self._switched_to else value

    def on_headers_complete(self) -> None:
        status = self._status = self._parser.get_status_code()
        if len(self._headers) > _HEADER_COUNT_LIMIT or (
            self._head_size > _HEAD_LIMIT and self._head_length() > _HEAD_LIMIT
        ):
            raise UpstreamInvalid("the head of the response is too large")
        if self.served == 1 and self._parser.get_http_version() not in ("1.0", "1.1"):
            raise UpstreamInvalid("not HTTP/1")
        if status == 101:
            if self._upgrade is None or self._length is not None or self._transfer_encoding:
                raise UpstreamInvalid("status 101" if self._upgrade is None else "status 101 with a body")
        elif not 100 <= status <= 599:
            raise UpstreamInvalid(f"status {status}")
        self._head_complete = True
        if status == 101:
            return  # llhttp stops here, and what follows is not its matter
        if status < 200:
            self._interim += 1
            if self._interim > _INTERIM_LIMIT:
                raise UpstreamInvalid("too many interim responses")
            return
        self._final = True
        if self._transfer_encoding and self._transfer_encoding.strip(b" \t").lower() != b"chunked":
            raise UpstreamInvalid(f"transfer coding {self._transfer_encoding!r}")
        self._close_delimited = (
            not self._transfer_encoding and self._length is None and status not in (204, 304) and not self._to_head
        )
        if self._to_head:
            closes = b"close" in self._connection_header.lower()
            self._reusable = not closes and self._parser.get_http_version() == "1.1"
        else:
            self._reusable = self._parser.should_keep_alive()

    def _head_length(self) -> int:
        """Bytes of the headers; what was fed with their end may be a body for the most part."""
        ours = len(self._connection_header) + len(self._transfer_encoding) + len(self._switched_to)
        return ours + sum([len(name) + len(value) + 4 for name, value in self._headers])

    def on_chunk_header(self) -> None:
        if self._to_head:
            self._pieces.append(b"")  # the mark of a body, be it empty

    def on_body(self, piece: bytes) -> None:
        if self._body is not None:
            self._body.feed(piece)
        else:
            self._pieces.append(piece)

    def on_message_complete(self) -> None:
        if self._final:
            self._complete = True
        elif self._status != 101:
            self._reset()


def _tell(future: asyncio.Future[Any], error: Exception) -> None:
    """Fail a future that perhaps nobody awaits any longer, without asyncio's complaint about that."""
    future.set_exception(error)
    future.exception()
