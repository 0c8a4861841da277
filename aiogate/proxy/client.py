"""The journey of a request, on the connection that it came by.

`ClientConnection.start` is the loop of one connection: take the next message, serve it, go on or leave. `_serve` is the
journey of one request, top to bottom: examine, route, run the chain, write.

What a plain request does not get, and why it is safe without:

* a `Request` and a `StreamResponse`: nothing of ours reads them, and a head is written once, whole, its line breaks
  counted;
* a task: the connection's is cancelled when the client is gone; and a timer: the sweeper looks at all deadlines;
* a second look at header values: the C parser refuses control characters, and `examine` what else has two readings;
* a copy of a body: pieces go on as they come, and nobody reads on while the other side has no room;
* a lock: all happens between two waits on one loop, and what a reload changes is one attribute, read once.

This stands on aiohttp's `RequestHandler`: its C parser, its queue of pipelined messages and its flow control are kept,
its `start` and its `data_received` are replaced. That carries over, with a test in `tests/wire` for each point:

* the parser is told about each message taken from the queue, and refills the queue when it has drained;
* a parse error is a message in the queue, answered in its turn, after the responses before it (but what came in the
  very same read the parser gives up, unserved);
* behind a request for an upgrade the parser stands still; after a refusal it goes on, if the client waited for the
  answer and no byte can have been lost, or the connection ends;
* the parser hands the last trailer of a chunked body on as a header of the next request: it is replaced by a new one
  when the body has ended and nothing came behind it, and otherwise the connection ends;
* a body that nobody read is never taken for the next request: the connection ends, lingering, so that the client gets
  to read the response;
* when the client is gone the task is cancelled, and with it the upstream's part of the request.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import socket
import struct
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

import aiohttp.web_protocol
from aiohttp import hdrs
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion11
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from aiogate.chain.exchange import BodyBroken, Exchange, Response, problem_response
from aiogate.credentials.certificates import Handshake
from aiogate.errors import PROBLEMS, Problem
from aiogate.proxy.body import NO_BODY, ClientBody
from aiogate.proxy.relay import Framing, Truncated, framing_of, relay, response_head
from aiogate.proxy.requests import (
    ASTERISK,
    HeadTimeout,
    HeadTooLarge,
    Target,
    behind_proxies,
    examine,
    is_trusted,
    normal_address,
    parse_problem,
)
from aiogate.proxy.tunnel import GOING_AWAY, INTERVAL, Tunnel, Upgrade
from aiogate.telemetry.decisions import Decision

if TYPE_CHECKING:
    from aiogate.proxy.listener import Clients, Listener
    from aiogate.proxy.router import RouteTable

__all__ = ["ClientConnection"]

_log = logging.getLogger("aiogate.listener")

_WRITE_AHEAD: Final = 64 * 1024
_LINGER: Final = 2.0
_RESET: Final = struct.pack("ii", 1, 0)
_CLOSE: Final = b"Connection: close\r\n"
_KEEP_ALIVE: Final = b"Connection: keep-alive\r\n"
_UPGRADE: Final = b"Connection: Upgrade\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class _Phase(enum.Enum):
    """What a client's deadline is about."""

    HEAD = enum.auto()
    """A head has begun, or the connection is new."""
    WORK = enum.auto()
    """The chain runs; the deadlines of upstream and body hold."""
    SEND = enum.auto()
    """The response waits for room."""
    IDLE = enum.auto()
    """Between two requests."""
    TUNNEL = enum.auto()
    """Bytes of another protocol go to and fro."""
    LEAVING = enum.auto()
    """The last response is on its way out."""


# Names of our own: asking an enumeration for a member is a function call in Python 3.11.
_HEAD: Final = _Phase.HEAD
_WORK: Final = _Phase.WORK
_SEND: Final = _Phase.SEND
_IDLE: Final = _Phase.IDLE
_TUNNEL: Final = _Phase.TUNNEL
_LEAVING: Final = _Phase.LEAVING


class ClientConnection(RequestHandler):
    """One connection from a client, and the one task that serves it."""

    __slots__ = (
        "_began",
        "_body",
        "_clients",
        "_code",
        "_deadline",
        "_ended_alone",
        "_exchanged",
        "_handshake",
        "_head_size",
        "_last",
        "_latest",
        "_listener",
        "_peer",
        "_phase",
        "_request_id",
        "_secure",
        "_sent",
        "_small",
        "_status",
        "_task",
        "_trusted",
        "_tunnel",
        "_waits",
    )

    def __init__(
        self, clients: Clients, listener: Listener, told: str, *, loop: asyncio.AbstractEventLoop, **kwargs: Any
    ) -> None:
        super().__init__(clients, loop=loop, **kwargs)
        self._clients = clients
        self._listener = listener
        self._body: ClientBody | None = None
        self._latest: StreamReader = EMPTY_PAYLOAD
        self._ended_alone = False
        """Whether the latest request was chunked, and ended with the last byte that came."""
        self._last = b""
        """The last four bytes that came of a request with a body, or fewer."""
        self._head_size = 0
        self._small = True
        """Whether every head so far came whole, in one read that was smaller than the limit of a head."""
        self._phase = _HEAD
        self._deadline = inf
        self._peer = told
        self._trusted = False
        self._secure = False
        self._handshake: Handshake | None = None
        self._began = 0.0
        self._request_id = ""
        self._exchanged: Exchange | None = None
        self._tunnel: Tunnel | None = None
        self._waits = False
        """Whether nothing came behind a request for another protocol than WebSocket: the parser would have lost it."""
        self._status = 0
        self._sent = 0
        self._code = ""

    # The loop of the connection

    async def start(self) -> None:
        listener = self._listener
        try:
            staying = True
            while staying:
                if not self._messages:
                    if self._head_size:
                        self._enter(_HEAD, listener.options.client_header)
                    elif self._request_count:
                        self._enter(_IDLE, listener.options.keepalive)
                    self._waiter = self._loop.create_future()
                    try:
                        await self._waiter
                    finally:
                        self._waiter = None
                message, payload = self._messages.popleft()
                if self._parser is not None:
                    self._parser.message_consumed()
                if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                    self._resume_reading_if_drained()
                self._phase = _WORK
                self._deadline = inf
                if isinstance(message, _ErrInfo):
                    self._refuse_unparsed(message.exc)
                    break
                self._began = listener.clock.monotonic()
                self._status = 0
                self._code = ""
                try:
                    staying = await self._serve(message, payload)
                except Truncated:
                    self._code = "truncated"
                    raise
                finally:
                    self._account(message, payload.total_bytes)
        except asyncio.CancelledError:
            self.cut()
            raise
        except (ConnectionError, Truncated) as error:
            _log.debug("%s: response not completed: %s", self._peer, error)
            self._reset()

    # The journey of a request

    async def _serve(self, message: RawRequestMessage, payload: StreamReader) -> bool:
        """Answer one request. Whether the connection goes on."""
        listener = self._listener
        table = listener.current.table
        self._request_id = request_id = listener.next_request_id()
        target = examine(message, listener.options.header_bytes, small=self._small)
        if isinstance(target, Problem):
            response = self._refuse(target, message, request_id, "listener", table)
            return await self._respond(response, message, payload, request_id, keep=False)
        api = table.match(target.host, target.path)
        if api is None:
            response = self._answer_unrouted(target, message, request_id, table)
            return await self._respond(response, message, payload, request_id)
        exchange = self._exchange(message, payload, target, request_id, table)
        if isinstance(exchange, Problem):
            response = self._refuse(exchange, message, request_id, "listener", table)
            return await self._respond(response, message, payload, request_id)
        lease = api.lease
        lease.active += 1
        try:
            exchange.api = api
            self._exchanged = exchange
            if message.upgrade and payload is EMPTY_PAYLOAD and (self._upgraded or self._waits):
                if exchange.version_1_1:
                    exchange.upgrade = Upgrade(message)
            response = await listener.answer(api.select(exchange), exchange)
            if exchange.upgrade is not None and exchange.upgrade.end is not None and response.status == 101:
                return await self._switch(exchange, exchange.upgrade, response, message)
            return await self._respond(response, message, payload, request_id)
        finally:
            self._body = None
            if exchange.upgrade is not None:
                exchange.upgrade.close()
            lease.active -= 1
            if not lease.active:
                lease.done()

    def _exchange(
        self, message: RawRequestMessage, payload: StreamReader, target: Target, request_id: str, table: RouteTable
    ) -> Exchange | Problem:
        listener = self._listener
        headers = message.headers
        client_ip = self._peer
        scheme = "https" if self._secure else "http"
        if hdrs.X_FORWARDED_FOR in headers:
            found = behind_proxies(headers, self._peer, listener.options.trusted_proxies)
            if isinstance(found, Problem):
                return found
            client_ip = found
        if self._trusted and (told := headers.get("X-Forwarded-Proto", "").lower()) in ("http", "https"):
            scheme = told
        body: ClientBody | Any = NO_BODY
        if payload is not EMPTY_PAYLOAD:
            promise = self._promise_body if hdrs.EXPECT in headers and message.version is HttpVersion11 else None
            body = self._body = ClientBody(payload, target.length, listener.options.client_body, promise)
        # By place, not by name: names would cost a dictionary.
        return Exchange(
            message.method,
            target.path,
            target.query,
            headers,
            message.raw_headers,
            body,
            target.host,
            scheme,
            self._peer,
            client_ip,
            self._trusted,
            message.version is HttpVersion11,
            request_id,
            self._began,
            table.policies,
            table.generation,
            self._handshake,
        )

    def _answer_unrouted(
        self, target: Target, message: RawRequestMessage, request_id: str, table: RouteTable
    ) -> Response:
        if target.path == ASTERISK:
            return Response(204, headers={"Allow": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"})
        if target.path == "/hello" and message.method in ("GET", "HEAD"):
            status, body = self._listener.hello()
            return Response(status, body, headers={"Content-Type": "application/json"})
        problem = PROBLEMS["not_found"].because("no API listens on this path")
        return self._refuse(problem, message, request_id, "router", table)

    def _refuse(
        self, problem: Problem, message: RawRequestMessage, request_id: str, step: str, table: RouteTable
    ) -> Response:
        """Record and render a refusal that no chain saw."""
        path = message.path.partition("?")[0][:2048].encode("utf-8", "backslashreplace").decode()
        self._code = problem.code
        self._listener.decide(
            Decision(
                request_id=request_id,
                at=self._listener.clock.now(),
                method=message.method,
                path=path,
                step=step,
                code=problem.code,
                status=problem.status,
                message=problem.message,
                reason=problem.detail.encode("utf-8", "backslashreplace").decode(),
                client_ip=self._peer,
                generation=table.generation,
            )
        )
        return problem_response(problem, request_id, message.headers.get("Content-Type", ""))

    async def _respond(
        self,
        response: Response,
        message: RawRequestMessage,
        payload: StreamReader,
        request_id: str,
        *,
        keep: bool = True,
    ) -> bool:
        """Write a response. Whether the connection can go on: the next message begins where this one ended."""
        body = response.body
        try:
            version_1_1 = message.version is HttpVersion11
            try:
                pairs = response.wire_headers()
                framing = framing_of(response.status, pairs, body, message.method, version_1_1=version_1_1)
                keep = keep and not (
                    message.should_close
                    or framing.closes
                    or self._listener.stopping
                    or not payload.is_eof()
                    or (message.upgrade and not self._stay())
                    or (message.chunked and not self._forget_trailers(payload))
                )
                connection = b"" if keep and version_1_1 else _KEEP_ALIVE if keep else _CLOSE
                head = response_head(response.status, pairs, framing, request_id, self._listener.date_line, connection)
            except ValueError as error:
                _log.error("request %s: the response cannot be sent: %s", request_id, error)
                problem = PROBLEMS["internal_error"].because(f"the response cannot be sent: {error}")
                refused = self._refuse(problem, message, request_id, "listener", self._listener.current.table)
                return await self._respond(refused, message, payload, request_id, keep=False)
            self._status = response.status
            self._sent = -len(head)
            if isinstance(body, bytes):
                self.write(head if framing.bodiless else head + body)
                if self._paused:
                    await self.drain()
            else:
                self.write(head)
                if not framing.bodiless:
                    await relay(body, self, framing)
        finally:
            if not isinstance(body, bytes):
                body.close()
        if not keep:
            # A client that asked for the end sends no more; any other may, and would miss the response in a reset.
            sending = message.upgrade or not payload.is_eof()
            self._leave(lingering=sending or not message.should_close, sending=sending)
        return keep

    async def _switch(
        self, exchange: Exchange, upgrade: Upgrade, response: Response, message: RawRequestMessage
    ) -> bool:
        """Answer with 101 and be a tunnel until its end, which is the end of the connection too."""
        listener = self._listener
        assert exchange.api is not None
        if not self._upgraded and (self._messages or self._head_size):
            raise ConnectionResetError("the client spoke the other protocol before the switch, and the parser took it")
        protocol = Framing(b"Upgrade: %b\r\n" % upgrade.protocol.encode("latin-1"), bodiless=True)
        try:
            pairs = response.wire_headers()
            head = response_head(101, pairs, protocol, exchange.request_id, listener.date_line, _UPGRADE)
        except ValueError as error:
            problem = PROBLEMS["internal_error"].because(f"the response cannot be sent: {error}")
            refused = self._refuse(problem, message, exchange.request_id, "listener", listener.current.table)
            return await self._respond(refused, message, EMPTY_PAYLOAD, exchange.request_id, keep=False)
        self._status = 101
        self._sent = -len(head)
        self.write(head)
        assert self.transport is not None
        tunnel = Tunnel(self.transport, upgrade, exchange.api.counts, stall=listener.options.send_stall)
        early, self._message_tail = self._message_tail, b""
        self._close = True  # nothing more for the parser
        self._tunnel = tunnel
        self._enter(_TUNNEL, INTERVAL)
        if self._paused:
            tunnel.client_full()
        if self._buffer_paused:
            self._resume_reading_for_buffer()
        try:
            tunnel.begin(early)
            listener.tunnels.add(tunnel, exchange)
            await tunnel.done
        finally:
            self._tunnel = None
            listener.tunnels.remove(tunnel)
            self._sent += tunnel.sent
            tunnel.client_gone()
        if tunnel.orderly:
            self._leave(lingering=tunnel.ended != "upstream")
        else:
            self._reset()
        return False

    def _stay(self) -> bool:
        """After an upgrade that was not to be: whether the parser can go on.

        It can when the client has waited for this answer. What came behind a WebSocket's request is kept aside and was
        not meant as HTTP; what came behind another protocol's, in the same read, the parser has dropped.
        """
        if not self._upgraded or self._message_tail or self._parser is None:
            return False
        self._parser.set_upgraded(False)
        self._upgraded = False
        return True

    def _forget_trailers(self, payload: StreamReader) -> bool:
        """After a chunked body: whether the next request can be read without a trailer of this one among its headers.

        aiohttp's C parser keeps the last trailer back, and takes it for the first header of the next request.
        """
        if not self._ended_alone or payload is not self._latest or self._upgraded or self._parser is None:
            return False
        self._ended_alone = False
        self._parser = self._clients.parser(self)
        return True

    def _refuse_unparsed(self, error: BaseException) -> None:
        """Answer what is not a request, and leave."""
        self.write(self._refusal(parse_problem(error)))
        self._leave(lingering=True, sending=True)

    def _refusal(self, problem: Problem) -> bytes:
        """A whole last response, for what is not a request."""
        self._began = self._listener.clock.monotonic()
        self._request_id = request_id = self._listener.next_request_id()
        table = self._listener.current.table
        response = self._refuse(problem, _NOT_PARSED, request_id, "listener", table)
        assert isinstance(response.body, bytes)
        pairs = response.wire_headers()
        framing = framing_of(response.status, pairs, response.body, "GET", version_1_1=True)
        head = response_head(response.status, pairs, framing, request_id, self._listener.date_line, _CLOSE)
        self._status = response.status
        self._sent = len(response.body)
        self._account(_NOT_PARSED, 0)
        return head + response.body

    def _account(self, message: RawRequestMessage, received: int) -> None:
        """Report the request that has ended."""
        exchange, self._exchanged = self._exchanged, None
        self._listener.account.ended(
            message, exchange, self._request_id, self._began, self._status, received, self._sent if self._status else 0,
            self._code, self._peer,
        )  # fmt: skip

    def _promise_body(self) -> None:
        if self.transport is not None:
            self.transport.write(_CONTINUE)

    # Writing

    def write(self, data: bytes) -> None:
        if self.transport is None:
            raise ConnectionResetError("the client is gone")
        self._sent += len(data)
        self.transport.write(data)

    async def drain(self) -> None:
        if self._paused:
            self._enter(_SEND, self._listener.options.send_stall)
            await self._drain_helper()
            self._phase = _WORK
            self._deadline = inf
        if self.transport is None:
            raise ConnectionResetError("the client is gone")

    # The end of the connection

    def _leave(self, *, lingering: bool, sending: bool = False) -> None:
        """No further request. Lingering: the client may still send, and a reset would destroy what it has not read.

        TLS ends in both directions at once: there we linger only for one that is surely `sending`.
        """
        self._close = True
        transport = self.transport
        if transport is None:
            return
        if lingering and (sending or transport.can_write_eof()):
            self._enter(_LEAVING, _LINGER)
            if transport.can_write_eof():
                transport.write_eof()
            self._resume_transport_reading()
        else:
            self._enter(_LEAVING, self._listener.options.send_stall)
            transport.close()

    def _reset(self) -> None:
        """End the connection so that the client cannot take it for the regular end of a body."""
        transport = self.transport
        if transport is not None:
            sock = transport.get_extra_info("socket")
            if sock is not None and not self._secure:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()

    def cut(self) -> None:
        """End the connection now, and the request with it."""
        self._close = True
        if self._tunnel is not None:
            self._tunnel.end("stopped", GOING_AWAY, "the gateway stops")
        elif self.transport is not None:
            if self._phase is _IDLE:
                self.transport.close()
            else:
                self.transport.abort()

    def abort(self) -> None:
        """End the connection without a word."""
        if self.transport is not None:
            self.transport.abort()

    @property
    def busy(self) -> bool:
        """Whether a request is in progress."""
        return self._phase in (_WORK, _SEND)

    # Deadlines

    def _enter(self, phase: _Phase, seconds: float) -> None:
        self._phase = phase
        self._deadline = self._loop.time() + seconds

    def sweep(self, now: float) -> None:
        if self._body is not None:
            self._body.sweep(now)
        if now < self._deadline:
            return
        self._deadline = inf
        if self._tunnel is not None:
            self._deadline = now + INTERVAL
            self._tunnel.sweep(now)
        elif self._phase is _HEAD and self._head_size:
            self._interject(HeadTimeout("the head did not arrive in time"))
        elif self._phase is _SEND:
            self._reset()
        elif self._phase is _LEAVING and self._secure and self.transport and not self.transport.is_closing():
            # It has had its time to read; the end of TLS is said, and may be waited for once more.
            self._enter(_LEAVING, _LINGER)
            self.transport.close()
        else:
            self.cut()

    def _interject(self, error: Exception) -> None:
        """Queue a refusal of what is arriving, and listen no more."""
        self._messages.append((_ErrInfo(status=400, exc=error, message=str(error)), EMPTY_PAYLOAD))
        self._close = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        options = self._listener.options
        if self._clients.count >= options.connections:
            self._manager = None
            self._close = True
            self._peer = self._peer or _address(transport)
            transport.write(self._refusal(PROBLEMS["overloaded"].because(f"{options.connections} clients")))
            transport.close()
            return
        transport.set_write_buffer_limits(high=_WRITE_AHEAD)
        self._peer = self._peer or _address(transport)
        self._trusted = is_trusted(self._peer, options.trusted_proxies)
        made = transport.get_extra_info("ssl_object")
        if made is not None:
            self._secure = True
            self._handshake = Handshake(made)
        self._enter(_HEAD, options.client_header)
        self._clients.arrived(self)
        super().connection_made(transport)
        task = self._task_handler
        assert task is not None
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            _log.error("connection from %s: a bug ended it", self._peer, exc_info=task.exception())
            self._reset()
        if self.transport is None:
            self._clients.left(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._tunnel is not None:
            self._tunnel.client_full()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._tunnel is not None:
            self._tunnel.client_ready()

    def data_received(self, data: bytes) -> None:
        if self._close or self._force_close:
            if self._tunnel is not None:
                self._tunnel.from_client(data)
            return
        if self._upgraded or self._parser is None:
            super().data_received(data)  # kept aside: it is another protocol's
            return
        if self._small and 2 * len(data) > self._listener.options.header_bytes:
            # Half of it, because a head may begin at the end of one read and end in the next.
            self._small = False
        latest = self._latest
        between = latest is EMPTY_PAYLOAD or latest.is_eof()
        messages: Sequence[tuple[RawRequestMessage | _ErrInfo, StreamReader]]
        try:
            messages, self._upgraded, tail = self._parser.feed_data(data)
        except HttpProcessingError as error:
            messages, tail = [(_ErrInfo(status=400, exc=error, message=error.message), EMPTY_PAYLOAD)], b""
        if messages:
            self._queue(messages)
            self._head_size = 0
            self._ended_alone = False
            message, payload = messages[-1]
            if payload is not EMPTY_PAYLOAD or isinstance(message, _ErrInfo) or message.upgrade:
                self._look_behind(message, payload, data, tail)
            self._latest = payload
        elif not between:
            # Nothing is behind a chunked body that ends a read: an unfinished head cannot end in an empty line.
            self._last = data[-4:] if len(data) > 3 else (self._last + data)[-4:]
            alone = len(self._messages) <= 1 and self._last == b"\r\n\r\n"
            self._ended_alone = alone and self._latest.is_eof()
        elif data:
            self._ended_alone = False
            # A head in pieces (the end of a body is none): bounded in size, and in time from its first byte on.
            if not self._head_size and self._waiter is not None:
                self._enter(_HEAD, self._listener.options.client_header)
            self._head_size += len(data)
            self._small = False
            if self._head_size > self._listener.options.header_bytes + _REQUEST_LINE:
                self._interject(HeadTooLarge("the head is too large"))

    def _queue(self, messages: Sequence[tuple[RawRequestMessage | _ErrInfo, StreamReader]]) -> None:
        """Give what was parsed to the loop of the connection; read no more where it is enough for a while."""
        self._request_count += len(messages)
        self._messages.extend(messages)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if not self._buffer_paused and len(self._messages) >= self._max_msg_queue_size:
            self._pause_reading_for_buffer()

    def _look_behind(
        self, message: RawRequestMessage | _ErrInfo, payload: StreamReader, data: bytes, tail: bytes
    ) -> None:
        """After a message that is not simply a head: what came behind it, and whether that could be told."""
        if isinstance(message, _ErrInfo):
            if not self._latest.is_eof():
                # The parser does not tell a body's reader that the framing broke.
                self._latest.set_exception(BodyBroken(str(message.exc)))
            return
        self._last = data[-4:]
        alone = message.chunked and len(self._messages) == 1
        self._ended_alone = alone and payload.is_eof() and self._last == b"\r\n\r\n"
        if message.upgrade:
            self._waits = _ends_with_head(data)
        if self._upgraded and tail:
            self._message_tail = tail

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._manager is None:
            return
        gone = BodyBroken("the client is gone")
        for _, payload in [*self._messages, (None, self._latest)]:
            if not payload.is_eof():
                payload.set_exception(gone)
        task = self._task_handler
        super().connection_lost(exc)
        if task is None or task.done():
            self._clients.left(self)


def _ends_with_head(data: bytes) -> bool:
    """Whether a read holds the end of one head, and nothing behind it."""
    return data in (b"\n", b"\r\n", b"\n\r\n") or (len(data) > 3 and data.find(b"\r\n\r\n") == len(data) - 4)


def _address(transport: asyncio.Transport) -> str:
    peername = transport.get_extra_info("peername")
    return normal_address(str(peername[0])) if isinstance(peername, tuple) else ""


_REQUEST_LINE: Final = 8190
_NOT_PARSED: Final = aiohttp.web_protocol.ERROR
