"""TLS from clients, and PROXY headers: what is served, and what is turned away before there is a request."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import ipaddress
import socket
import ssl
import struct
from types import SimpleNamespace

import pytest
import trustme

from aiogate.proxy.doors import Admission, Door
from aiogate.proxy.listener import ListenerOptions

GET = b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
TRUSTING = ListenerOptions(trusted_proxies=LOOPBACK)
V1 = b"PROXY TCP4 192.0.2.7 127.0.0.1 5000 8443\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MIB = 1024 * 1024


def v2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + bytes((0x20 | command, family)) + struct.pack("!H", len(body)) + body


V2_4 = v2(1, 0x11, ipaddress.ip_address("192.0.2.7").packed + bytes((127, 0, 0, 1)) + struct.pack("!HH", 5000, 8443))
V2_6 = v2(1, 0x21, ipaddress.ip_address("2001:db8::7").packed * 2 + struct.pack("!HH", 1, 2) + b"\x04\x00\x01x")


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def trusting(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def secure(wire, server):
    async def gate(options: ListenerOptions | None = None, **more):
        return await wire.gate(options=options, tls=lambda: server, **more)

    return gate


async def ended(client, within: float = 1.0) -> bytes:
    """What still comes, an end by reset included."""
    with contextlib.suppress(ConnectionError):
        return await client.rest(within)
    return b""


# TLS


async def test_requests_over_tls(secure, trusting):
    gate = await secure()
    client = await gate.client(tls=trusting)
    for _ in range(3):
        assert (await client.ask(GET)).body == b"ok"
    (first, *_) = gate.upstream.received
    assert first.values("X-Forwarded-Proto") == ["https"]
    assert (gate.api.seen[0].scheme, gate.api.seen[0].peer) == ("https", "127.0.0.1")
    assert gate.listener.connections == 1
    await client.send(GET * 20)
    for _ in range(20):
        assert (await client.reply()).body == b"ok"


async def test_large_bodies_both_ways_in_bounded_memory(secure, trusting):
    gate = await secure()
    size, most = 24 * MIB, 0

    async def echo_size(request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body))
        for _ in range(len(request.body) // MIB):
            writer.write(b"d" * MIB)
            await writer.drain()

    gate.upstream.answer = echo_size
    client = await gate.client(tls=trusting)

    async def upload():
        client.writer.write(b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // MIB):
            client.writer.write(b"u" * MIB)
            await client.writer.drain()

    uploading = asyncio.ensure_future(upload())
    client.reader._transport.pause_reading()
    while not uploading.done():
        most = max(most, gate.buffered())
        await asyncio.sleep(0)
    await uploading
    for _ in range(50):
        most = max(most, gate.buffered())
        await asyncio.sleep(0.005)
    client.reader._transport.resume_reading()
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert b"Content-Length: %d" % size in head
    received = 0
    while received < size:
        received += len(await client.reader.read(MIB))
        most = max(most, gate.buffered())
    assert most < 2 * MIB


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
async def test_a_truncated_body_never_ends_like_a_whole_one(secure, trusting, framing):
    gate = await secure()

    async def answer(request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing)
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.transport.abort()

    gate.upstream.answer = answer
    client = await gate.client(tls=trusting)
    await client.send(GET)
    came = await ended(client)
    assert b"0\r\n\r\n" not in came
    assert came == b"" or came.count(b"abc") == 1


async def test_a_refused_upload_gets_its_answer(secure, trusting):
    gate = await secure()
    client = await gate.client(tls=trusting)
    await client.send(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (8 * MIB))
    sending = asyncio.ensure_future(client.send(b"u" * 8 * MIB))
    assert (await client.reply()).status == 404
    sending.cancel()
    await gate.elapse(2.1)
    await ended(client)


async def test_no_certificate_that_is_not_trusted_and_no_old_version(secure, trusting, server, authority):
    gate = await secure()
    old = ssl.create_default_context()
    authority.configure_trust(old)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert (await (await gate.client(tls=old)).ask(GET)).status == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        await gate.client(tls=ssl.create_default_context())


@pytest.mark.parametrize("sent", [GET, b"\0" * 100, b"PROXY UNKNOWN\r\n"])
async def test_what_is_no_handshake_is_closed_at_once(secure, sent):
    gate = await secure()
    client = await gate.client()
    await client.send(sent)
    assert b"HTTP" not in await ended(client)
    assert gate.decisions == []


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x02"])
async def test_a_handshake_has_as_long_as_a_head(secure, until, first):
    gate = await secure(ListenerOptions(client_header=0.3))
    client = await gate.client()
    await client.send(first)
    assert await ended(client) == b""
    assert gate.listener.connections == 0


async def test_the_context_is_chosen_at_each_handshake(wire, server, trusting):
    chosen = [server]
    gate = await wire.gate(tls=lambda: chosen[-1])
    client = await gate.client(tls=trusting)
    assert (await client.ask(GET)).status == 200
    renewed = trustme.CA()
    chosen.append(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    renewed.issue_cert("localhost").configure_cert(chosen[-1])
    with pytest.raises(ssl.SSLCertVerificationError):
        await gate.client(tls=trusting)
    fresh = ssl.create_default_context()
    renewed.configure_trust(fresh)
    assert (await (await gate.client(tls=fresh)).ask(GET)).status == 200
    assert (await client.ask(GET)).status == 200


async def test_the_end_waits_for_requests_over_tls(secure, trusting):
    gate = await secure()
    release = asyncio.Event()

    async def slowly(request, writer):
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    gate.upstream.answer = slowly
    client = await gate.client(tls=trusting)
    await client.send(GET)
    await gate.upstream.begun.wait()
    draining = asyncio.ensure_future(gate.listener.drain(5))
    await asyncio.sleep(0.01)
    release.set()
    reply = await client.reply()
    assert (reply.body, reply["Connection"]) == (b"late", "close")
    assert await draining == 0
    with pytest.raises(ConnectionRefusedError):
        await gate.client()


async def test_a_handshake_that_never_ends_does_not_hold_up_the_end(secure):
    gate = await secure()
    client = await gate.client()
    await asyncio.sleep(0.02)
    async with asyncio.timeout(1):
        assert await gate.listener.drain(0.05) == 0
    assert await ended(client) == b""


async def test_connections_that_are_being_admitted_are_bounded(secure, trusting):
    gate = await secure(ListenerOptions(connections=2))
    waiting = [await gate.client() for _ in range(2)]
    await asyncio.sleep(0.02)
    assert await ended(await gate.client()) == b""
    for client in waiting:
        await client.close()
    await asyncio.sleep(0.05)
    assert (await (await gate.client(tls=trusting)).ask(GET)).status == 200


async def test_without_descriptors_it_rests(caplog):
    class Scarce(socket.socket):
        attempts = 0

        def accept(self):
            Scarce.attempts += 1
            raise OSError(errno.EMFILE, "Too many open files")

    with Scarce() as sock, socket.socket() as client:
        sock.bind(("127.0.0.1", 0))
        admission = Admission(Door(sock), SimpleNamespace(), ListenerOptions(), asyncio.get_running_loop())
        client.connect(sock.getsockname())
        await asyncio.sleep(0.1)
        assert Scarce.attempts == 1
        admission.stop_accepting()
    assert [record.getMessage() for record in caplog.records] == ["connections wait: Too many open files"]
    caplog.clear()


async def test_a_tunnel_through_tls(wire, server, trusting):
    async def echo(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(line[19:] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key: "))
        digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
        writer.write(b"Sec-WebSocket-Accept: %b\r\n\r\n" % base64.b64encode(digest))
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                frame = await reader.readexactly(8 + 65535)
                writer.write(b"\x82\x7e\xff\xff" + frame[8:])
                await writer.drain()
        writer.close()

    listening = await asyncio.start_server(echo, "127.0.0.1", 0)
    wire.stack.callback(listening.close)
    gate = await wire.gate(port=listening.sockets[0].getsockname()[1], tls=lambda: server)
    client = await gate.client(tls=trusting)
    await client.send(
        b"GET /api/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    frame = b"\x82\xfe\xff\xff\0\0\0\0" + b"m" * 65535
    for _ in range(20):
        await client.send(frame)
        async with asyncio.timeout(5):
            assert (await client.reader.readexactly(4 + 65535))[4:] == b"m" * 65535


# At a plain door


@pytest.mark.parametrize(
    "sent", [V1, b"PROXY UNKNOWN\r\n", V2_4, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\1" * 60]
)
async def test_neither_is_taken_where_nobody_asked_for_it(gate, sent):
    client = await gate.client()
    await client.send(sent + GET)
    answer = await ended(client)
    assert answer.startswith(b"HTTP/1.1 400 ") or answer == b""
    assert gate.api.seen == []


# PROXY headers


@pytest.mark.parametrize(
    "header, address",
    [
        (V1, "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n", "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", "192.0.2.7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", "127.0.0.1"),
        (V2_4, "192.0.2.7"),
        (V2_6, "2001:db8::7"),
        (v2(0, 0, b""), "127.0.0.1"),
        (v2(1, 0x31, b"\0" * 216), "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("with_tls", [False, True])
async def test_the_header_names_the_client(wire, server, trusting, header, address, with_tls):
    gate = await wire.gate(options=TRUSTING, tls=(lambda: server) if with_tls else None, proxy_protocol=True)
    client = await gate.client(first=header, tls=trusting if with_tls else None)
    for _ in range(2):
        assert (await client.ask(GET)).status == 200
    (seen, _) = gate.api.seen
    assert (seen.peer, seen.client_ip) == (address, address)
    assert seen.scheme == ("https" if with_tls else "http")
    assert gate.upstream.received[0].values("X-Forwarded-For") == [address]


async def test_header_and_request_in_one_packet_or_byte_by_byte(wire):
    gate = await wire.gate(options=TRUSTING, proxy_protocol=True)
    assert (await gate.ask(V1 + GET)).status == 200
    for header in (V1, V2_4):
        client = await gate.client()
        for byte in header:
            await client.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await client.ask(GET)).status == 200
    assert {one.peer for one in gate.api.seen} == {"192.0.2.7"}


async def test_the_named_client_is_not_a_trusted_proxy(wire):
    gate = await wire.gate(options=TRUSTING, proxy_protocol=True)
    spoofing = b"GET /api/x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\r\n"
    client = await gate.client(first=V1)
    assert (await client.ask(spoofing)).status == 200
    (seen,) = gate.api.seen
    assert (seen.client_ip, seen.trusted_peer, seen.scheme) == ("192.0.2.7", False, "http")
    assert gate.upstream.received[0].values("X-Forwarded-For") == ["192.0.2.7"]


@pytest.mark.parametrize(
    "sent",
    [
        GET,
        b"hello\r\n",
        b"PROXY TCP4 192.0.2.7 127.0.0.1 5000\r\n" + GET,
        b"PROXY TCP4 192.0.2.777 127.0.0.1 5000 1\r\n" + GET,
        b"PROXY TCP4 ::1 ::1 1 2\r\n" + GET,
        b"PROXY TCP4 192.0.2.7 127.0.0.1 5000 70000\r\n" + GET,
        b"PROXY TCP4  192.0.2.7 127.0.0.1 5000 1\r\n" + GET,
        b"PROXY TCP4 192.0.2.7 127.0.0.1 5000 1\n" + GET,
        b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n" + GET,
        v2(2, 0x11, b"\0" * 12) + GET,
        v2(1, 0x11, b"\0" * 11) + GET,
        SIGNATURE + b"\x11\x11\0\0" + GET,
        SIGNATURE + b"\x21\x11\xff\xff" + GET,
    ],
)
async def test_what_is_no_header_is_closed_at_once(wire, sent):
    gate = await wire.gate(options=TRUSTING, proxy_protocol=True)
    client = await gate.client()
    with contextlib.suppress(ConnectionError):
        await client.send(sent)
    assert await ended(client) == b""
    assert gate.api.seen == []


async def test_nobody_else_is_believed(wire):
    options = ListenerOptions(trusted_proxies=(ipaddress.ip_network("10.0.0.0/8"),))
    gate = await wire.gate(options=options, proxy_protocol=True)
    client = await gate.client()
    with contextlib.suppress(ConnectionError):
        await client.send(V1 + GET)
    assert await ended(client) == b""
    assert gate.api.seen == []


@pytest.mark.parametrize("part", [b"", b"PROXY TCP4 192.0", V2_4[:14], V2_4[:20]])
async def test_a_header_has_as_long_as_a_head(wire, part):
    gate = await wire.gate(options=ListenerOptions(trusted_proxies=LOOPBACK, client_header=0.2), proxy_protocol=True)
    client = await gate.client(first=part)
    assert await ended(client) == b""


async def test_a_header_that_is_cut_off(wire, until):
    gate = await wire.gate(options=TRUSTING, proxy_protocol=True)
    client = await gate.client(first=b"PROXY TCP4 ")
    await asyncio.sleep(0.02)
    await client.close()
    (admission,) = gate.listener._admissions
    await until(lambda: not admission._tasks)
