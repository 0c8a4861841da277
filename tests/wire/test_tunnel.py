"""Upgrades through the gateway, byte by byte: the handshake, the tunnel, its ends. Attack rows 17, 18 and 75."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import socket
import ssl

import pytest
import trustme

from aiogate.errors import PROBLEMS
from aiogate.proxy import pool as pool_module
from aiogate.proxy.listener import ListenerOptions
from aiogate.proxy.pool import Origin
from aiogate.proxy.tunnel import TunnelRules

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MIB = 1024 * 1024


def handshake(*headers: str, key: str = KEY, path: str = "/api/x") -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: a",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def accept(key: str) -> str:
    digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest).decode()


def frame(payload: bytes, *, opcode: int = 2, final: bool = True, masked: bool = False) -> bytes:
    size = len(payload)
    head = bytes([opcode | (128 if final else 0)])
    bit = 128 if masked else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += bytes([bit | 126]) + size.to_bytes(2)
    else:
        head += bytes([bit | 127]) + size.to_bytes(8)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    stream = (mask * (size // 4 + 1))[:size]
    return head + mask + (int.from_bytes(payload) ^ int.from_bytes(stream)).to_bytes(size)


class Far:
    """The far end of a tunnel: an upstream that switches, and then does what the test says."""

    def __init__(self) -> None:
        self.port = 0
        self.heads: list[bytes] = []
        self.answer: bytes | None = None
        """Instead of a right 101."""
        self.tail = b""
        """Sent in one piece with the 101."""
        self.joined: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        self.heads.append(head)
        answer = self.answer
        if answer is None:
            lines = head.decode().split("\r\n")
            key = next(line.partition(": ")[2] for line in lines if line.lower().startswith("sec-websocket-key"))
            answer = self.switching(f"Sec-WebSocket-Accept: {accept(key)}")
        writer.write(answer + self.tail)
        self.joined.put_nowait((reader, writer))

    @staticmethod
    def switching(*headers: str, protocol: str = "websocket") -> bytes:
        lines = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", f"Upgrade: {protocol}", *headers, "", ""]
        return "\r\n".join(lines).encode()

    async def end(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(5):
            return await self.joined.get()


@pytest.fixture
async def far(wire):
    far = Far()
    server = await asyncio.start_server(far.serve, "127.0.0.1", 0)
    far.port = server.sockets[0].getsockname()[1]

    async def stop():
        server.close()
        for writer in far.writers:
            if not writer.is_closing():
                writer.transport.abort()
        await asyncio.sleep(0)

    wire.stack.push_async_callback(stop)
    return far


@pytest.fixture
async def gate(wire, far):
    return await wire.gate(port=far.port)


async def opened(gate, far, *headers: str):
    """A client in a tunnel, and the other end of it."""
    client = await gate.client()
    await client.send(handshake(*headers))
    async with asyncio.timeout(5):
        head = await client.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n"), head
    client.head = head.decode()
    reader, writer = await far.end()
    return client, reader, writer


async def exactly(reader: asyncio.StreamReader, size: int) -> bytes:
    async with asyncio.timeout(5):
        return await reader.readexactly(size)


async def closed_with(reader: asyncio.StreamReader, code: int, *, masked: bool = False) -> str:
    """Read a Close frame and the end behind it; the reason."""
    head = await exactly(reader, 2)
    assert head[0] == 0x88
    assert bool(head[1] & 128) == masked
    mask = await exactly(reader, 4) if masked else b"\0\0\0\0"
    payload = await exactly(reader, head[1] & 127)
    payload = bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))
    assert int.from_bytes(payload[:2]) == code, payload
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    return payload[2:].decode()


# The handshake


async def test_a_websocket_goes_through(gate, far, until):
    client, reader, writer = await opened(
        gate, far, "Origin: https://a.example", "Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Extensions: x"
    )
    sent = far.heads[0].decode().split("\r\n")
    assert sent[0] == "GET /x HTTP/1.1"
    for line in (
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: chat",
        "Sec-WebSocket-Extensions: x",
        "Origin: https://a.example",
        "X-Forwarded-For: 127.0.0.1",
    ):
        assert sent.count(line) == 1, line
    head = client.head.split("\r\n")
    for line in ("Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Accept: {accept(KEY)}"):
        assert head.count(line) == 1, line
    assert sum(line.startswith("X-Request-Id: ") for line in head) == 1
    assert not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in head)

    await client.send(frame(b"up", masked=True))
    assert (await exactly(reader, 8))[:2] == b"\x82\x82"
    writer.write(frame(b"down"))
    assert await exactly(client.reader, 6) == b"\x82\x04down"
    counts = gate.api.counts
    assert (counts.tunnels_open, counts.tunnels) == (1, 1)
    assert (counts.tunnel_received, counts.tunnel_sent) == (8, 6)
    assert gate.api.lease.active == 1
    assert gate.pool.open == 0, "a tunnel does not take a place that requests could use"
    await client.close()
    assert await reader.read() == b""
    await until(lambda: counts.tunnels_open == 0 and gate.api.lease.active == 0)
    assert counts.tunnel_ends == {"client": 1}


async def test_what_came_too_early_goes_first_in_both_directions(gate, far):
    far.tail = frame(b"hello")
    client = await gate.client()
    release = asyncio.Event()

    async def wait(exchange):
        await release.wait()

    gate.api.before = wait
    early = [frame(b"%d" % number, masked=True) for number in range(4)]
    await client.send(handshake() + early[0])
    for piece in early[1:3]:
        await asyncio.sleep(0.01)
        await client.send(piece)
    release.set()
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert await exactly(client.reader, 7) == b"\x82\x05hello"
    reader, _writer = await far.end()
    await client.send(early[3])
    assert await exactly(reader, 4 * 7) == b"".join(early)


async def test_a_megabyte_too_early_is_held_in_the_socket(gate, far, until):
    data = frame(os.urandom(MIB), masked=True)
    client = await gate.client()
    release = asyncio.Event()

    async def wait(exchange):
        await release.wait()

    gate.api.before = wait
    sending = asyncio.ensure_future(client.send(handshake() + data))
    await until(lambda: gate.listener.connections == 1)
    (connection,) = gate.listener._clients._open
    await until(lambda: connection._buffer_paused)
    assert len(connection._message_tail) < 512 * 1024
    release.set()
    reader, _ = await far.end()
    assert await exactly(reader, len(data)) == data
    await sending


@pytest.mark.parametrize(
    "headers",
    [
        ["Sec-WebSocket-Version: 12", f"Sec-WebSocket-Key: {KEY}"],
        ["Sec-WebSocket-Version: 13, 8", f"Sec-WebSocket-Key: {KEY}"],
        [f"Sec-WebSocket-Key: {KEY}"],
        ["Sec-WebSocket-Version: 13"],
        ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: c2hvcnQ="],
        ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + "!" * 24],
        ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: \xe9" + KEY[1:]],
    ],
)
async def test_a_handshake_with_a_flaw_is_refused_and_the_connection_serves_on(gate, far, headers):
    client = await gate.client()
    head = "\r\n".join(
        ["GET /api/x HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: websocket", *headers, "", ""]
    )
    reply = await client.ask(head.encode())
    assert (reply.status, reply.code) == (400, "websocket_invalid")
    assert not far.heads
    assert await client.is_open()
    assert gate.api.counts.tunnels_open == 0


@pytest.mark.parametrize(
    "answer,why",
    [
        (Far.switching(), "Accept"),
        (Far.switching(f"Sec-WebSocket-Accept: {accept(KEY[::-1])}"), "Accept"),
        (Far.switching(*[f"Sec-WebSocket-Accept: {accept(KEY)}"] * 2), "Accept"),
        (Far.switching(f"Sec-WebSocket-Accept: {accept(KEY)}", "Content-Length: 5"), "body"),
        (Far.switching(f"Sec-WebSocket-Accept: {accept(KEY)}", "Transfer-Encoding: chunked"), "body"),
        (Far.switching(f"Sec-WebSocket-Accept: {accept(KEY)}", "Sec-WebSocket-Extensions: x"), "nobody offered"),
        (Far.switching(f"Sec-WebSocket-Accept: {accept(KEY)}", protocol="h2c"), "h2c"),
        (f"HTTP/1.1 101 X\r\nSec-WebSocket-Accept: {accept(KEY)}\r\n\r\n".encode(), "valid response"),
        (f"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept(KEY)}\r\n\r\n".encode(), "valid"),
    ],
)
async def test_a_101_with_a_flaw_is_no_tunnel(gate, far, until, answer, why):
    far.answer = answer
    client = await gate.client()
    reply = await client.ask(handshake())
    assert (reply.status, reply.code) == (502, "upstream_invalid")
    assert why in gate.api.seen[0].problem.detail
    assert await client.is_open()
    reader, _ = await far.end()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    assert (gate.pool.open, gate.api.counts.tunnels_open) == (0, 0)


async def test_a_101_to_a_plain_request_is_refused(gate, far):
    far.answer = Far.switching(f"Sec-WebSocket-Accept: {accept(KEY)}")
    reply = await gate.ask(b"GET /api/x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert reply.status == 502


@pytest.mark.parametrize(
    "answer,body",
    [
        (b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", b"no"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
        (b"HTTP/1.1 426 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 X\r\n\r\n", b""),
    ],
)
async def test_anything_but_101_is_an_ordinary_response(gate, far, answer, body):
    far.answer = answer
    client = await gate.client()
    for _ in range(2):
        reply = await client.ask(handshake())
        assert (reply.status, reply.body) == (int(answer.rpartition(b"HTTP/1.1 ")[2][:3]), body)
        assert "Connection" not in reply
        assert "Upgrade" not in reply
        assert await client.is_open(), "the connection serves the next request"
    assert gate.pool.idle == 0, "an upstream that was asked to switch is not asked again on that connection"
    assert gate.api.counts.tunnels_open == 0
    assert gate.api.lease.active == 0


async def test_what_was_sent_into_a_tunnel_that_never_was_is_no_request(gate, far):
    far.answer = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
    client = await gate.client()
    reply = await client.ask(handshake() + b"GET /api/smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (reply.status, reply["Connection"]) == (403, "close")
    assert await client.rest() == b""
    assert len(far.heads) == 1


async def test_a_request_before_the_upgrade_is_answered_first(gate, far):
    far.answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    client = await gate.client()
    await client.send(b"GET /api/1 HTTP/1.1\r\nHost: a\r\n\r\n" + handshake(path="/api/2"))
    assert (await client.reply()).status == 200
    assert (await client.reply()).status == 200
    assert [head.split()[1] for head in far.heads] == [b"/1", b"/2"]


async def test_the_chain_goes_first(gate, far):
    gate.api.before = lambda exchange: PROBLEMS["auth_missing"]
    client = await gate.client()
    assert (await client.ask(handshake())).status == 401
    assert not far.heads
    gate.api.before = None
    await client.send(handshake())
    assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


async def test_an_upgrade_outside_of_every_api(gate):
    client = await gate.client()
    assert (await client.ask(handshake(path="/nowhere"))).status == 404
    assert await client.is_open()


@pytest.mark.parametrize("method", ["POST", "HEAD", "OPTIONS"])
async def test_only_get_upgrades(wire, method):
    gate = await wire.gate()
    client = await gate.client()
    reply = await client.ask(handshake().replace(b"GET", method.encode()))
    assert reply.status == 200
    assert not gate.upstream.received[0].values("Upgrade")
    assert await client.is_open()


async def test_http_1_0_knows_no_upgrade(wire):
    gate = await wire.gate()
    reply = await gate.ask(handshake("Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert (reply.status, reply["Connection"]) == (200, "keep-alive")
    assert not gate.upstream.received[0].values("Upgrade")


async def test_the_words_of_browsers(gate, far):
    client = await gate.client()
    spoken = handshake().replace(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade")
    await client.send(spoken.replace(b"Upgrade: websocket", b"Upgrade: WebSocket"))
    assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("body", [b"Content-Length: 40", b"Transfer-Encoding: chunked"])
async def test_18_a_body_makes_it_an_ordinary_request(wire, body):
    """A tunnel that began behind a body would begin at another byte for each reader of it."""
    gate = await wire.gate()
    client = await gate.client()
    smuggled = b"GET /api/smuggled HTTP/1.1\r\nHost: abcd\r\n\r\n"[:40]
    data = smuggled if body.startswith(b"Content") else b"28\r\n%b\r\n0\r\n\r\n" % smuggled
    await client.send(handshake(body.decode()) + data + frame(b"x", masked=True))
    reply = await client.reply()
    assert (reply.status, reply["Connection"]) == (200, "close")
    (request,) = gate.upstream.received
    assert request.body == smuggled
    assert not request.values("Upgrade")
    assert await client.rest() == b""


@pytest.mark.parametrize("protocol", ["h2c", "websocket, h2c", "foo", "TLS/1.0"])
async def test_17_other_protocols_are_ignored(wire, protocol):
    gate = await wire.gate()
    client = await gate.client()
    reply = await client.ask(handshake().replace(b"Upgrade: websocket", b"Upgrade: " + protocol.encode()))
    assert (reply.status, reply["Connection"]) == (200, "close")
    for name in ("Connection", "Upgrade"):
        assert not gate.upstream.received[0].values(name)
    assert await client.rest() == b""


# The tunnel


async def test_a_large_message_each_way_at_once(gate, far):
    client, reader, writer = await opened(gate, far)
    up, down = frame(os.urandom(8 * MIB), masked=True), frame(os.urandom(8 * MIB))
    writer.write(down)
    sent = asyncio.ensure_future(client.send(up))
    async with asyncio.timeout(20):
        got = await asyncio.gather(reader.readexactly(len(up)), client.reader.readexactly(len(down)))
    await sent
    assert got == [up, down]


async def test_71_a_client_that_does_not_read_costs_little_and_is_cut(gate, far, until):
    sock = socket.socket()
    gate.stack.callback(sock.close)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", gate.port))
    sock.sendall(handshake())
    _reader, writer = await far.end()
    writer.write(frame(bytes(64 * MIB)))
    await until(lambda: gate.listener.connections == 1)
    (connection,) = gate.listener._clients._open
    await until(lambda: connection._tunnel is not None and connection.writing_paused)
    await asyncio.sleep(0.1)
    assert writer.transport.get_write_buffer_size() > 32 * MIB, "the upstream is held back"
    assert connection.transport.get_write_buffer_size() < MIB
    await gate.elapse(2)
    await gate.elapse(20)
    assert gate.listener.connections == 1
    await gate.elapse(40)
    await until(lambda: gate.listener.connections == 0)
    assert gate.api.counts.tunnel_ends == {"stalled": 1}


async def test_71_an_upstream_that_does_not_read_holds_the_client_back(gate, far, until):
    client, reader, writer = await opened(gate, far)
    writer.transport.pause_reading()
    (connection,) = gate.listener._clients._open
    client.writer.write(frame(bytes(64 * MIB), masked=True))
    tunnel = connection._tunnel
    await until(lambda: tunnel._upstream_full)
    await asyncio.sleep(0.1)
    assert client.writer.transport.get_write_buffer_size() > 32 * MIB
    assert tunnel._upstream._transport.get_write_buffer_size() < MIB
    writer.transport.resume_reading()
    assert len(await exactly(reader, 64 * MIB)) == 64 * MIB
    assert not tunnel.ended


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_the_client_goes(gate, far, until, how):
    client, reader, _writer = await opened(gate, far)
    await client.send(frame(b"last", masked=True))
    if how == "rst":
        await exactly(reader, 10)
        client.reset()
        assert await asyncio.wait_for(reader.read(), 5) == b""
    else:
        await client.close()
        assert len(await asyncio.wait_for(reader.read(), 5)) == 10, "what it had sent arrives"
    await until(lambda: gate.listener.connections == 0)
    assert gate.api.counts.tunnel_ends == {"client": 1}


async def test_the_upstream_goes(gate, far, until):
    client, _reader, writer = await opened(gate, far)
    writer.write(frame(bytes(4 * MIB)) + frame(b"\3\xe8", opcode=8))
    writer.close()
    async with asyncio.timeout(5):
        data = await client.reader.read()
    assert data == frame(bytes(4 * MIB)) + frame(b"\3\xe8", opcode=8), "what it had sent arrives"
    await until(lambda: gate.listener.connections == 0)
    assert gate.api.counts.tunnel_ends == {"upstream": 1}


async def test_an_upstream_that_goes_right_behind_its_101(gate, far, until):
    far.tail = frame(b"bye")
    client, _reader, writer = await opened(gate, far)
    writer.close()
    async with asyncio.timeout(5):
        assert await client.reader.read() == b"\x82\x03bye"
    await until(lambda: gate.listener.connections == 0)


async def test_the_client_goes_while_the_upstream_thinks(gate, far, until):
    far.answer = b""
    client = await gate.client()
    await client.send(handshake())
    reader, _ = await far.end()
    await client.close()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    await until(lambda: gate.listener.connections == 0 and gate.pool.open == 0)
    assert gate.api.counts.tunnels_open == 0


async def test_75_an_idle_tunnel_is_closed_with_1001_on_both_sides(gate, far, until):
    client, reader, writer = await opened(gate, far)
    await gate.elapse(2)
    await gate.elapse(299)
    writer.write(frame(b"x"))
    await exactly(client.reader, 3)
    await gate.elapse(310)
    await gate.elapse(600)
    assert gate.listener.connections == 1
    await gate.elapse(612)
    assert await closed_with(reader, 1001, masked=True) == "nothing came for 300 s"
    assert await closed_with(client.reader, 1001) == "nothing came for 300 s"
    await client.close()
    await until(lambda: gate.listener.connections == 0)
    assert gate.api.counts.tunnel_ends == {"idle": 1}


async def test_two_hundred_idle_sockets_leave_together(gate, far, until):
    base = len(asyncio.all_tasks())
    clients = [(await opened(gate, far))[0] for _ in range(200)]
    assert (gate.listener.connections, gate.api.counts.tunnels_open, gate.pool.open) == (200, 200, 0)
    await gate.elapse(2)
    await gate.elapse(400)
    for client in clients:
        await closed_with(client.reader, 1001)
        await client.close()
    await until(lambda: gate.listener.connections == 0)
    for writer in far.writers:
        writer.close()
    await until(lambda: len(asyncio.all_tasks()) <= base)


async def test_tunnels_count_as_connections(wire, far):
    gate = await wire.gate(port=far.port, options=ListenerOptions(connections=2))
    await opened(gate, far)
    await opened(gate, far)
    reply = await (await gate.client()).reply()
    assert (reply.status, reply.code) == (503, "overloaded")


async def test_a_stop_waits_for_tunnels_and_then_closes_them_with_1001(gate, far):
    client, reader, writer = await opened(gate, far)
    middle, far_reader, far_writer = await opened(gate, far)
    far_writer.write(frame(bytes(100))[:50])
    await exactly(middle.reader, 50)
    draining = asyncio.ensure_future(gate.listener.drain(0.2))
    await asyncio.sleep(0.1)
    writer.write(frame(b"still"))
    assert await exactly(client.reader, 7) == b"\x82\x05still"
    assert await closed_with(reader, 1001, masked=True) == "the gateway stops"
    assert await closed_with(client.reader, 1001) == "the gateway stops"
    with pytest.raises(ConnectionResetError):
        await middle.rest()
    assert await closed_with(far_reader, 1001, masked=True) == "the gateway stops"
    await client.close()
    async with asyncio.timeout(5):
        assert await draining == 0, "a tunnel that was closed in an orderly way is no request that was cut"


async def test_no_close_frame_behind_a_close_frame(gate, far):
    client, reader, writer = await opened(gate, far)
    writer.write(frame(b"\3\xe8", opcode=8))
    await exactly(client.reader, 4)
    await gate.elapse(2)
    await gate.elapse(400)
    assert await client.rest() == b""
    await closed_with(reader, 1001, masked=True)


# Limits, where a definition has some


@pytest.fixture
async def strict(wire, far):
    return await wire.gate(port=far.port, tunnels=TunnelRules(max_frame=1000, max_message=1500))


async def test_valid_frames_pass_the_inspection_as_they_are(strict, far):
    client, reader, writer = await opened(strict, far, "Sec-WebSocket-Extensions: permessage-deflate")
    assert b"Extensions" not in far.heads[0], "compressed frames could not be looked into"
    up = (
        frame("grüße".encode(), opcode=1, masked=True)
        + frame(bytes(1000), masked=True)
        + frame(b"", opcode=9, masked=True)
    )
    down = frame(b"a", opcode=1, final=False) + frame(b"", opcode=10) + frame(b"b", opcode=0) + frame(bytes(1000))
    for at in range(0, len(up), 7):
        await client.send(up[at : at + 7])
    writer.write(down)
    assert await exactly(reader, len(up)) == up
    assert await exactly(client.reader, len(down)) == down


@pytest.mark.parametrize(
    "bad,code",
    [
        (frame(bytes(1001), masked=True), 1009),
        (b"\x82\xff" + (2**30).to_bytes(8) + b"mask" + bytes(100), 1009),
        ((frame(bytes(900), final=False, masked=True) + frame(bytes(900), opcode=0, masked=True)), 1009),
        (frame(b"x"), 1002),
        (frame(b"x", opcode=5, masked=True), 1002),
        (frame(b"\xff\xfe", opcode=1, masked=True), 1007),
    ],
    ids=["long", "longer", "long-in-pieces", "unmasked", "unknown-opcode", "not-utf-8"],
)
async def test_75_a_client_that_breaks_the_rules_is_told_why(strict, far, until, bad, code):
    client, reader, _ = await opened(strict, far)
    await client.send(frame(b"ok", masked=True) + bad)
    assert (await exactly(reader, 8))[:2] == b"\x82\x82"
    await closed_with(client.reader, code)
    if bad[:2] == b"\x02\xfe":
        assert len(await exactly(reader, 908)) == 908, "the first part of the message"
    assert await closed_with(reader, 1001, masked=True) == "the other side broke the rules"
    await client.close()
    await until(lambda: strict.listener.connections == 0)
    assert strict.api.counts.tunnel_ends == {"violation": 1}


async def test_75_an_upstream_that_breaks_the_rules(strict, far):
    client, reader, writer = await opened(strict, far)
    writer.write(frame(b"ok") + frame(bytes(1001)))
    assert await exactly(client.reader, 4) == b"\x82\x02ok"
    await closed_with(client.reader, 1001)
    await closed_with(reader, 1009, masked=True)


async def test_75_a_letter_that_breaks_off_in_the_middle_of_a_frame(strict, far):
    client, reader, _ = await opened(strict, far)
    whole = frame(bytes([65] * 500) + b"\xff" + bytes(99), opcode=1, masked=True)
    await client.send(whole[:300])
    assert len(await exactly(reader, 300)) == 300
    await client.send(whole[300:])
    assert await closed_with(client.reader, 1007) == "text is not UTF-8"
    async with asyncio.timeout(5):
        assert await reader.read() == b"", "no frame of ours in the middle of another"


async def test_75_a_flood_of_empty_fragments_is_bounded(strict, far):
    client, reader, _writer = await opened(strict, far)
    flood = frame(b"x", final=False, masked=True) + frame(b"", opcode=0, final=False, masked=True) * 50_000
    sending = asyncio.ensure_future(client.send(flood))
    assert len(await exactly(reader, len(flood))) == len(flood)
    await sending


async def test_75_a_client_that_does_not_answer_a_ping_is_given_up(wire, far, until):
    gate = await wire.gate(port=far.port, tunnels=TunnelRules(ping=30.0))
    client, reader, _ = await opened(gate, far)
    await gate.elapse(2)
    await gate.elapse(34)
    assert await exactly(client.reader, 2) == b"\x89\x00"
    await client.send(frame(b"", opcode=10, masked=True))
    assert len(await exactly(reader, 6)) == 6
    await gate.elapse(66)
    await gate.elapse(98)
    assert await exactly(client.reader, 2) == b"\x89\x00"
    await gate.elapse(130)
    await closed_with(reader, 1001, masked=True)
    with pytest.raises(ConnectionResetError):
        await client.rest()
    assert gate.api.counts.tunnel_ends == {"unanswered": 1}


async def test_a_lifetime(wire, far):
    gate = await wire.gate(port=far.port, tunnels=TunnelRules(lifetime=60.0))
    client, _reader, _ = await opened(gate, far)
    await gate.elapse(59)
    assert gate.api.counts.tunnels_open == 1
    await gate.elapse(63)
    await closed_with(client.reader, 1001)


async def test_a_limit_of_tunnels(wire, far, until):
    gate = await wire.gate(port=far.port, tunnels=TunnelRules(connections=2))
    first, _, _ = await opened(gate, far)
    await opened(gate, far)
    late = await gate.client()
    reply = await late.ask(handshake())
    assert (reply.status, reply.code, reply["Retry-After"]) == (503, "overloaded", "1")
    assert len(far.heads) == 2
    await first.close()
    await until(lambda: gate.api.counts.tunnels_open == 1)
    await late.send(handshake())
    assert (await late.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


# Other protocols, where a definition names them


FOO = b"GET /api/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: Foo\r\n\r\n"


@pytest.fixture
async def foo(wire, far):
    far.answer = Far.switching(protocol="Foo")
    return await wire.gate(port=far.port, tunnels=TunnelRules(protocols=frozenset({"websocket", "foo"})))


@pytest.mark.parametrize("cut", [None, len(FOO) - 1, len(FOO) - 2, len(FOO) - 3, 20])
async def test_another_protocol_goes_through(foo, far, cut):
    far.tail = b"hi"
    client = await foo.client()
    await client.send(FOO[:cut])
    if cut is not None:
        await asyncio.sleep(0.02)
        await client.send(FOO[cut:])
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nUpgrade: foo\r\n" in head
    assert await exactly(client.reader, 2) == b"hi"
    reader, writer = await far.end()
    await client.send(b"GET / HTTP/1.1\r\n\r\n")
    assert await exactly(reader, 18) == b"GET / HTTP/1.1\r\n\r\n", "these are bytes, not a request"
    writer.write(b"bye")
    assert await exactly(client.reader, 3) == b"bye"
    await foo.elapse(2)
    await foo.elapse(400)
    with pytest.raises(ConnectionResetError):
        await client.rest()
    assert await asyncio.wait_for(reader.read(), 5) == b"", "no frame of ours in a protocol that has none"


@pytest.mark.parametrize("early", [b"x", b"\r\n", b"\r\n\r\n", b"GET /api/y HTTP/1.1\r\nHost: a\r\n\r\n"])
async def test_who_speaks_another_protocol_too_early_gets_none(foo, far, early):
    """aiohttp's parser drops what stands behind such a head in one read: a tunnel would begin with a hole."""
    far.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    client = await foo.client()
    reply = await client.ask(FOO + early)
    assert (reply.status, reply["Connection"]) == (200, "close")
    assert b"Upgrade" not in far.heads[0]
    assert await client.rest() == b""
    assert len(far.heads) == 1


@pytest.mark.parametrize("early", [b"x", b"\r\n", b"GET /api/y HTTP/1.1\r\nHost: a\r\n\r\n", b"\0\0\0\r\n\r\n"])
async def test_who_speaks_before_the_switch_is_cut(foo, far, until, early):
    release = asyncio.Event()

    async def wait(exchange):
        await release.wait()

    foo.api.before = wait
    client = await foo.client()
    await client.send(FOO)
    await until(lambda: foo.api.seen)
    await client.send(early)
    await asyncio.sleep(0.02)
    release.set()
    reader, _ = await far.end()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    with pytest.raises(ConnectionResetError):
        await client.rest()
    await until(lambda: foo.api.counts.tunnels_open == 0)


# What is relied upon of aiohttp's private parts


def test_the_parser_and_upgrades():
    """Which behaviour of aiohttp `proxy/client.py` counts on; a change of it must not go unnoticed."""
    from unittest.mock import Mock

    from aiohttp._http_parser import HttpRequestParser

    def fed(*pieces: bytes):
        parser = HttpRequestParser(Mock(), Mock(), 65536, max_msg_queue_size=32)
        return parser, [parser.feed_data(piece) for piece in pieces]

    parser, [(messages, upgraded, tail)] = fed(handshake() + b"tail")
    assert (messages[0][0].upgrade, upgraded, tail) == (True, True, b"tail")
    parser.set_upgraded(False)
    messages, upgraded, tail = parser.feed_data(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (messages[0][0].path, upgraded) == ("/next", False)

    _, [(messages, upgraded, tail)] = fed(FOO + b"lost")
    assert (messages[0][0].upgrade, upgraded, tail) == (True, False, b"")

    body = handshake("Content-Length: 4")
    _, [(first, before, _), (second, after, tail)] = fed(body + b"12", b"34tail")
    assert (first[0][0].upgrade, before, second, after, tail) == (True, False, (), True, b"tail")


# Over TLS


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
async def secure(wire, authority, monkeypatch):
    """A gate in front of a far end over TLS."""
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    monkeypatch.setattr(pool_module, "_default_tls", lambda: trusting)
    far = Far()
    server = await asyncio.start_server(far.serve, "127.0.0.1", 0, ssl=serving)
    far.port = server.sockets[0].getsockname()[1]
    wire.stack.callback(server.close)
    return await wire.gate(origin=Origin("https", "localhost", far.port)), far


async def test_a_tunnel_to_an_upstream_over_tls(secure, until):
    gate, far = secure
    far.tail = frame(b"hello")
    client, reader, writer = await opened(gate, far)
    assert await exactly(client.reader, 7) == b"\x82\x05hello"
    up, down = frame(os.urandom(4 * MIB), masked=True), frame(os.urandom(4 * MIB))
    writer.write(down)
    sent = asyncio.ensure_future(client.send(up))
    async with asyncio.timeout(20):
        got = await asyncio.gather(reader.readexactly(len(up)), client.reader.readexactly(len(down)))
    await sent
    assert got == [up, down]
    await gate.elapse(2)
    await gate.elapse(400)
    await closed_with(client.reader, 1001)
    await closed_with(reader, 1001, masked=True)
    writer.close()
    await client.close()
    await until(lambda: gate.listener.connections == 0)


async def test_an_upstream_over_tls_that_does_not_read_and_one_that_goes(secure, until):
    gate, far = secure
    client, reader, writer = await opened(gate, far)
    (connection,) = gate.listener._clients._open
    tunnel = connection._tunnel
    writer.transport.pause_reading()
    client.writer.write(frame(bytes(64 * MIB), masked=True))
    await until(lambda: tunnel._upstream_full)
    await asyncio.sleep(0.1)
    assert client.writer.transport.get_write_buffer_size() > 0, "the client is held back"
    assert tunnel._upstream._transport.get_write_buffer_size() < MIB
    writer.transport.resume_reading()
    assert len(await exactly(reader, 64 * MIB)) == 64 * MIB
    writer.write(frame(b"bye"))
    writer.close()
    async with asyncio.timeout(5):
        assert await client.reader.read() == b"\x82\x03bye"
    await until(lambda: gate.listener.connections == 0)
    assert gate.api.counts.tunnel_ends == {"upstream": 1}
