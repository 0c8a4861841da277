"""Upgrades: a request that ends in a tunnel of bytes between a client and its upstream (RFC 9110 section 7.8).

    asked by the client -> the whole chain -> admitted -> the upstream answers 101, checked -> tunnel -> end

Anything but a valid 101 is an ordinary response. In a tunnel each side is read only as fast as the other takes it: the
`pause_writing` of one is the `pause_reading` of the other. What the parsers had read too far goes first. A WebSocket's
frames are followed, so that an end that we bring about is told by a Close frame wherever one may stand.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiogate.errors import PROBLEMS, Problem
from aiogate.proxy.connection import UpstreamInvalid
from aiogate.proxy.websocket import PING, Closing, Frames, InspectedFrames, close_frame, flaw_of, flaw_of_answer

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage

    from aiogate.chain.exchange import Exchange, Response
    from aiogate.telemetry.metrics import Counts

__all__ = ["DEFAULT_RULES", "Tunnel", "TunnelRules", "Upgrade"]

WEBSOCKET: Final = "websocket"
GOING_AWAY: Final = 1001
POLICY: Final = 1008
_WRITE_AHEAD: Final = 64 * 1024
_LINGER: Final = 2.0
INTERVAL: Final = 1.0
"""Seconds between two looks at a tunnel's deadlines."""


@dataclass(frozen=True, slots=True)
class TunnelRules:
    """What a definition says about tunnels. Times are seconds.

    `protocols` may be switched to, in lower case; what else a client asks for is ignored. `connections` is how many may
    be open at one time, `idle` how long nothing may come from either side, `lifetime` how long one may last. A client
    that was silent for `ping` gets a Ping, and as much time again. `max_frame` and `max_message` are bytes of payload;
    with one of them frames are looked into.
    """

    protocols: frozenset[str] = frozenset({WEBSOCKET})
    connections: int | None = None
    idle: float = 300.0
    ping: float | None = None
    lifetime: float | None = None
    max_frame: int | None = None
    max_message: int | None = None

    @property
    def inspects(self) -> bool:
        return self.max_frame is not None or self.max_message is not None


DEFAULT_RULES: Final = TunnelRules()
_INNOCENT: Final = Closing(GOING_AWAY, "the other side broke the rules")


class Upgrade:
    """What a client asks for, and what its upstream made of it.

    `protocol` is in lower case. `close` must be called once the request is over, whatever became of it.
    """

    __slots__ = ("_counts", "_extensions", "_flaw", "_key", "end", "protocol", "rules")

    def __init__(self, message: RawRequestMessage) -> None:
        headers = message.headers
        self.protocol = ",".join(headers.getall("Upgrade")).strip().lower()
        self.rules = DEFAULT_RULES
        self.end: UpstreamEnd | None = None
        """The upstream's socket, once it has switched."""
        self._counts: Counts | None = None
        """Where this one counts as open."""
        self._key = ""
        self._extensions = False
        self._flaw = ""
        if self.protocol == WEBSOCKET:
            self._flaw = flaw_of(headers)
            self._key = headers.get("Sec-WebSocket-Key", "")
            self._extensions = "Sec-WebSocket-Extensions" in headers

    def admit(self, exchange: Exchange, rules: TunnelRules) -> Problem | None:
        """Hold the wish against the rules. One for a protocol that they do not name is dropped from the exchange."""
        if self.protocol not in rules.protocols or exchange.method != "GET":
            exchange.upgrade = None
            return None
        if self._flaw:
            return PROBLEMS["websocket_invalid"].because(self._flaw)
        assert exchange.api is not None
        counts = exchange.api.counts
        if rules.connections is not None and counts.tunnels_open >= rules.connections:
            return PROBLEMS["overloaded"].because(f"{counts.tunnels_open} tunnels of this API are open")
        if self.protocol == WEBSOCKET and rules.inspects:
            # What an extension makes of a frame cannot be looked into.
            exchange.upstream_headers.remove("Sec-WebSocket-Extensions")
            self._extensions = False
        self.rules = rules
        self._counts = counts
        counts.tunnels_open += 1
        return None

    def request_lines(self) -> tuple[bytes, bytes]:
        """The headers that ask the upstream."""
        return b"Connection: Upgrade", b"Upgrade: " + self.protocol.encode("latin-1")

    def switched(self, transport: asyncio.Transport, protocol: bytes, tail: bytes) -> None:
        """The upstream has switched to `protocol`, and sent `tail` already."""
        self.end = UpstreamEnd(transport, protocol.decode("latin-1").strip().lower(), tail)

    def check(self, response: Response) -> None:
        """Hold the upstream's 101 against the wish. Raises `UpstreamInvalid`."""
        assert self.end is not None
        flaw = ""
        if self.end.protocol != self.protocol:
            flaw = f"a switch to {self.end.protocol!r}, where {self.protocol!r} was asked for"
        elif self.protocol == WEBSOCKET:
            flaw = flaw_of_answer(self._key, response.raw_headers, extensions=self._extensions)
        if flaw:
            self.end.abort()
            raise UpstreamInvalid(flaw)

    def close(self) -> None:
        """Give everything back."""
        if self.end is not None:
            self.end.close()
        if self._counts is not None:
            self._counts.tunnels_open -= 1
            self._counts = None


class UpstreamEnd(asyncio.Protocol):
    """The upstream's socket after the switch, to `protocol`. It is not read before a tunnel takes it.

    `tail` came behind the head of the 101.
    """

    def __init__(self, transport: asyncio.Transport, protocol: str, tail: bytes) -> None:
        self.protocol = protocol
        self.tail = tail
        self.lost = False
        self._transport = transport
        self._tunnel: Tunnel | None = None
        # Paused first: a loop that reads on might do so by the old protocol's way.
        self._paused = True
        transport.pause_reading()
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=_WRITE_AHEAD)

    def join(self, tunnel: Tunnel) -> None:
        """From here on the tunnel hears of everything."""
        self._tunnel = tunnel

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def pause(self) -> None:
        """Do not read."""
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        if not self.lost:
            self._transport.abort()

    def close(self) -> None:
        """Let what was written leave, for a moment at most, and end the connection."""
        self._tunnel = None
        if not self.lost:
            self._transport.close()
            if self._transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(_LINGER, self.abort)

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.from_upstream(data)

    def pause_writing(self) -> None:
        if self._tunnel is not None:
            self._tunnel.upstream_full()

    def resume_writing(self) -> None:
        if self._tunnel is not None:
            self._tunnel.upstream_ready()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._tunnel is not None:
            self._tunnel.upstream_gone()


class Tunnel:
    """Bytes from a client to its upstream and back, until one of them goes or we end it.

    `done` is set at the end, `ended` says why, in a word; `orderly` whether the client may read to the end of what was
    written, or has to see that something is missing. `sent` and `received` are bytes, as the client sees them.
    """

    __slots__ = (
        "_active",
        "_began",
        "_client",
        "_client_full",
        "_counts",
        "_down",
        "_heard",
        "_heard_at",
        "_last",
        "_pinged",
        "_rules",
        "_stall",
        "_stalled_at",
        "_up",
        "_upstream",
        "_upstream_full",
        "done",
        "ended",
        "orderly",
        "received",
        "sent",
    )

    def __init__(self, client: asyncio.Transport, upgrade: Upgrade, counts: Counts, *, stall: float) -> None:
        assert upgrade.end is not None
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = loop.create_future()
        self.ended = ""
        self.orderly = True
        self.sent = 0
        self.received = 0
        self._client = client
        self._upstream = upgrade.end
        self._rules = upgrade.rules
        self._counts = counts
        self._stall = stall
        self._client_full = False
        self._upstream_full = False
        self._active = False
        self._heard = False
        self._pinged = False
        self._began = self._last = self._heard_at = loop.time()
        self._stalled_at = 0.0
        self._up, self._down = followed(upgrade.protocol, upgrade.rules)

    def begin(self, early: bytes) -> None:
        """Take both sides. `early` is what the client had sent behind its request."""
        self._counts.tunnels += 1
        upstream = self._upstream
        upstream.join(self)
        if upstream.tail:
            self.from_upstream(upstream.tail)
        if early:
            self.from_client(early)
        if upstream.lost:
            self.upstream_gone()
        elif not self._client_full and not self.ended:
            upstream.resume()

    def from_client(self, data: bytes) -> None:
        if self.ended:
            return
        self._active = self._heard = True
        self.received += len(data)
        self._counts.tunnel_received += len(data)
        wrong = None
        if self._up is not None:
            data, wrong = self._up.feed(data)
        if data:
            self._upstream.write(data)
        if wrong is not None:
            self._broken(wrong, _INNOCENT)

    def from_upstream(self, data: bytes) -> None:
        if self.ended:
            return
        self._active = True
        self.sent += len(data)
        self._counts.tunnel_sent += len(data)
        wrong = None
        if self._down is not None:
            data, wrong = self._down.feed(data)
        if data:
            self._client.write(data)
        if wrong is not None:
            self._broken(_INNOCENT, wrong)

    def client_full(self) -> None:
        self._client_full = True
        self._upstream.pause()

    def client_ready(self) -> None:
        self._client_full = False
        self._stalled_at = 0.0
        self._upstream.resume()

    def upstream_full(self) -> None:
        if not self._upstream_full and not self._client.is_closing():
            self._upstream_full = True
            self._client.pause_reading()

    def upstream_ready(self) -> None:
        if self._upstream_full and not self._client.is_closing():
            self._upstream_full = False
            self._stalled_at = 0.0
            self._client.resume_reading()

    def upstream_gone(self) -> None:
        self._over("upstream")

    def client_gone(self) -> None:
        """To be called when the client's side is over; it has ended the tunnel, unless something else did before."""
        if not self.ended:
            self.ended = "client"
            self._counts.tunnel_ended("client")

    def sweep(self, now: float) -> None:
        """Look at the deadlines, with the event loop's time."""
        rules = self._rules
        if self._active:
            self._active = False
            self._last = now
        elif now - self._last > rules.idle:
            self.end("idle", GOING_AWAY, f"nothing came for {rules.idle:g} s")
            return
        if rules.lifetime is not None and now - self._began > rules.lifetime:
            self.end("lifetime", GOING_AWAY, f"it is {rules.lifetime:g} s old")
            return
        if rules.ping is not None and self._down is not None:
            self._ping(now, rules.ping, self._down)
        if self._client_full or self._upstream_full:
            self._stalled_at = self._stalled_at or now
            if now - self._stalled_at > self._stall:
                self.orderly = False
                self._over("stalled")

    def end(self, ended: str, code: int, reason: str) -> None:
        """End it, and tell both sides where the protocol lets us: WebSocket does, between two frames."""
        if not self.ended:
            told = Closing(code, reason)
            self._tell(told, told)
            self._over(ended)

    def _broken(self, client: Closing, upstream: Closing) -> None:
        """One side broke the rules."""
        self._tell(client, upstream)
        self._over("violation")

    def _tell(self, client: Closing, upstream: Closing) -> None:
        up, down = self._up, self._down
        if up is not None and up.between and not up.closed:
            self._upstream.write(close_frame(*upstream, masked=True))
        if down is not None and down.between and not down.closed:
            self._client.write(close_frame(*client))
        self.orderly = down is not None and down.between

    def _ping(self, now: float, interval: float, down: Frames) -> None:
        if self._heard:
            self._heard = self._pinged = False
            self._heard_at = now
        elif now - self._heard_at > interval:
            if self._pinged:
                self.end("unanswered", GOING_AWAY, "the client does not answer")
                self.orderly = False
            elif down.between and not down.closed:
                self._client.write(PING)
                self._pinged = True
                self._heard_at = now

    def _over(self, ended: str) -> None:
        if not self.ended:
            self.ended = ended
            self._counts.tunnel_ended(ended)
            if not self.done.done():  # it is, when the client's task is being cancelled
                self.done.set_result(None)


def followed(protocol: str, rules: TunnelRules) -> tuple[Frames | None, Frames | None]:
    """What follows the frames from the client and those from the upstream; None: a protocol without frames."""
    if protocol != WEBSOCKET:
        return None, None
    if not rules.inspects:
        return Frames(), Frames()
    frame, message = rules.max_frame, rules.max_message
    return (
        InspectedFrames(masked=True, max_frame=frame, max_message=message),
        InspectedFrames(masked=False, max_frame=frame, max_message=message),
    )
