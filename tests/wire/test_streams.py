"""Bodies both ways: whole, streamed, larger than memory should hold, and cut off. Attack rows 71 and 74."""

from __future__ import annotations

import asyncio
import gzip
import socket

import pytest

from aiogate.chain.exchange import BodyTooLarge
from aiogate.errors import PROBLEMS

GET = b"GET /api/x HTTP/1.1\r\nHost: a\r\n\r\n"
LINE = b"HTTP/1.1 200 OK\r\n"
MIB = 1024 * 1024


def post(length: int | None) -> bytes:
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    return b"POST /api/x HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing


def chunks(data: bytes, size: int) -> bytes:
    return b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [data[i : i + size] for i in range(0, len(data), size)]
    )


async def test_a_small_body_goes_along_in_one_piece(gate):
    client = await gate.client()
    assert (await client.ask(post(3) + b"abc")).status == 200
    assert (await client.ask(post(None) + b"3\r\nabc\r\n0\r\n\r\n")).status == 200
    for request in gate.upstream.received:
        assert (request.body, request.values("Content-Length")) == (b"abc", ["3"])
        assert not request.values("Transfer-Encoding")


async def test_a_post_without_a_body_says_so(gate):
    client = await gate.client()
    await client.ask(post(0))
    await client.ask(b"POST /api/x HTTP/1.1\r\nHost: a\r\n\r\n")
    await client.ask(post(None) + b"0\r\n\r\n")
    await client.ask(GET)
    assert [request.values("Content-Length") for request in gate.upstream.received] == [["0"], ["0"], ["0"], []]


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_large_upload_is_streamed(gate, chunked):
    data = bytes(range(256)) * 4 * 1024 * 3
    client = await gate.client()
    await client.send(post(None if chunked else len(data)))
    sent = asyncio.ensure_future(client.send(chunks(data, 10_000) + b"0\r\n\r\n" if chunked else data))
    assert (await client.reply()).status == 200
    await sent
    (request,) = gate.upstream.received
    assert request.body == data
    assert bool(request.values("Transfer-Encoding")) == chunked
    assert await client.is_open()


async def test_74_a_body_of_one_byte_chunks(gate):
    client = await gate.client()
    sent = asyncio.ensure_future(client.send(post(None) + b"1\r\na\r\n" * 100_000 + b"0\r\n\r\n"))
    assert (await client.reply()).status == 200
    await sent
    assert gate.upstream.received[0].body == b"a" * 100_000


async def test_74_compressed_bodies_are_passed_on_and_not_unpacked(gate):
    """A bomb of a thousand to one, and ten thousand members: nobody here looks inside."""
    client = await gate.client()
    for data in (gzip.compress(bytes(20 * MIB)), gzip.compress(b"x") * 10_000):
        coded = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(data)
        gate.upstream.answer = LINE + coded + data
        reply = await client.ask(b"POST /api/x HTTP/1.1\r\nHost: a\r\n" + coded + data)
        assert (reply.status, reply["Content-Encoding"], reply.body == data) == (200, "gzip", True)
        received = gate.upstream.received[-1]
        assert (received.values("Content-Encoding"), received.body == data) == (["gzip"], True)


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_large_download_is_streamed(gate, chunked, version):
    data = bytes(range(256)) * 4 * 1024 * 3

    async def answer(request, writer):
        if chunked:
            writer.write(LINE + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(data, 10_000) + b"0\r\n\r\n")
        else:
            writer.write(LINE + b"Content-Length: %d\r\n\r\n" % len(data) + data)

    gate.upstream.answer = answer
    client = await gate.client()
    reply = await client.ask(b"GET /api/x HTTP/%b\r\nHost: a\r\n\r\n" % version)
    assert reply.body == data
    if not chunked:
        assert reply["Content-Length"] == str(len(data))
    elif version == b"1.1":
        assert reply["Transfer-Encoding"] == "chunked"
    else:
        assert "Transfer-Encoding" not in reply
        assert reply["Connection"] == "close"
    assert await client.is_open() == (version == b"1.1")
    await asyncio.sleep(0)
    assert gate.pool.idle == 1


async def test_http_1_0_keep_alive(gate):
    client = await gate.client()
    for _ in range(3):
        reply = await client.ask(b"GET /api/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (reply.body, reply["Connection"]) == (b"ok", "keep-alive")
    reply = await client.ask(b"GET /api/x HTTP/1.0\r\n\r\n")
    assert reply["Connection"] == "close"
    assert await client.rest() == b""


async def test_server_sent_events_are_not_held_back(gate):
    turn = asyncio.Queue()

    async def answer(request, writer):
        writer.write(LINE + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            await turn.get()
            writer.write(chunks(b"data: %d\n\n" % number, 100))
        await turn.get()
        writer.write(b"0\r\n\r\n")

    gate.upstream.answer = answer
    client = await gate.client()
    await client.send(GET)
    async with asyncio.timeout(5):
        assert b"text/event-stream" in await client.reader.readuntil(b"\r\n\r\n")
        for number in range(3):
            turn.put_nowait(None)
            assert await client.reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: %d\n\n\r\n" % number
        turn.put_nowait(None)
        assert await client.reader.readuntil(b"0\r\n\r\n")


async def test_an_echo_streams_both_ways_at_once(gate):
    gate.upstream.read_bodies = False
    streams = []

    async def answer(request, writer):
        writer.write(LINE + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        streams.append(writer)
        await asyncio.Event().wait()

    gate.upstream.answer = answer
    client = await gate.client()
    await client.send(post(None) + b"3\r\nabc\r\n")
    async with asyncio.timeout(5):
        await client.reader.readuntil(b"one\r\n")
        await client.send(b"3\r\ndef\r\n0\r\n\r\n")
        streams[0].write(b"3\r\ntwo\r\n0\r\n\r\n")
        await client.reader.readuntil(b"two\r\n0\r\n\r\n")


async def test_an_answer_before_the_body_was_read(gate, until):
    gate.upstream.read_bodies = False
    gate.upstream.answer = b"HTTP/1.1 413 X\r\nContent-Length: 3\r\n\r\nbig"
    client = await gate.client()
    await client.send(post(100 * MIB) + b"a" * MIB)
    reply = await client.reply()
    assert (reply.status, reply.body, reply["Connection"]) == (413, b"big", "close")
    await until(lambda: gate.pool.open == 0)


async def test_a_refusal_is_read_by_a_client_that_still_sends(gate):
    gate.api.before = lambda exchange: PROBLEMS["auth_missing"]
    client = await gate.client()
    await client.send(post(8 * MIB))
    reply = await client.reply()
    assert (reply.status, reply["Connection"]) == (401, "close")
    await client.send(b"a" * (8 * MIB))
    assert await client.rest() == b""
    assert not gate.upstream.received


async def test_a_client_that_lingers_for_ever_is_cut(gate, until):
    gate.api.before = lambda exchange: PROBLEMS["auth_missing"]
    client = await gate.client()
    await client.ask(post(8 * MIB))
    await until(lambda: gate.listener.connections == 1)
    await gate.elapse(3)
    await until(lambda: gate.listener.connections == 0)


async def test_read_all_keeps_the_body_for_the_upstream(gate):
    bodies = []

    async def read(exchange):
        bodies.append(await exchange.body.read_all(100_000))
        bodies.append(await exchange.body.read_all(100_000))

    gate.api.before = read
    client = await gate.client()
    data = b"a" * 90_000
    assert (await client.ask(post(len(data)) + data)).status == 200
    assert (await client.ask(post(None) + chunks(data, 500) + b"0\r\n\r\n")).status == 200
    assert bodies == [data] * 4
    assert [request.body for request in gate.upstream.received] == [data] * 2


@pytest.mark.parametrize("chunked", [True, False])
async def test_read_all_stops_at_its_limit(gate, chunked):
    async def read(exchange):
        try:
            await exchange.body.read_all(1000)
        except BodyTooLarge:
            return PROBLEMS["request_too_large"]

    gate.api.before = read
    client = await gate.client()
    data = b"a" * 5000
    reply = await client.ask(post(None) + chunks(data, 500) + b"0\r\n\r\n" if chunked else post(5000) + data)
    assert reply.status == 413
    assert not gate.upstream.received


class Sink:
    """A client with a tiny window that does not read."""

    def __init__(self, gate, request: bytes) -> None:
        self.sock = socket.socket()
        gate.stack.callback(self.sock.close)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.connect(("127.0.0.1", gate.port))
        self.sock.sendall(request)


async def test_71_a_hundred_clients_that_do_not_read_cost_little(gate, until):
    size = 64 * MIB

    async def answer(request, writer):
        writer.write(LINE + b"Content-Length: %d\r\n\r\n" % size)
        piece = b"a" * 65536
        for _ in range(size // len(piece)):
            writer.write(piece)
            await writer.drain()

    gate.upstream.answer = answer
    for _ in range(100):
        Sink(gate, GET)
    await until(lambda: gate.listener.connections == 100)
    await until(lambda: all(client.writing_paused for client in gate.listener._clients._open), within=20)
    await until(lambda: all(connection._paused for connection in gate.pool._connections), within=20)
    assert 0 < gate.buffered() < 100 * 256 * 1024
    assert gate.listener.connections == 100
    await gate.elapse(31)
    await until(lambda: gate.listener.connections == 0 and gate.pool.open == 0)
    assert gate.api.lease.active == 0


async def test_71_fifty_uploads_to_an_upstream_that_does_not_read(gate, until):
    gate.upstream.read_bodies = False
    gate.upstream.silence()

    loop = asyncio.get_running_loop()
    clients = [Sink(gate, post(64 * MIB)) for _ in range(50)]
    for client in clients:
        client.sock.setblocking(False)
    data = bytes(64 * MIB)
    uploads = [asyncio.ensure_future(loop.sock_sendall(client.sock, data)) for client in clients]
    await until(lambda: gate.pool.open == 50, within=20)
    await until(lambda: all(connection._writing_paused for connection in gate.pool._connections), within=20)
    await until(lambda: all(client._reading_paused for client in gate.listener._clients._open), within=20)
    assert 0 < gate.buffered() < 50 * 640 * 1024
    await gate.elapse(61)
    await until(lambda: gate.pool.open == 0)
    for task in uploads:
        task.cancel()
    await asyncio.gather(*uploads, return_exceptions=True)


# Deadlines


async def test_71_a_head_that_drips(gate, until):
    client = await gate.client()
    await client.send(b"GET /api/x HTTP/1.1\r\n")
    await until(lambda: gate.listener.connections == 1)
    await gate.elapse(9)
    await client.send(b"Host: a\r\n")
    await gate.elapse(11)
    reply = await client.reply()
    assert (reply.status, reply.code) == (408, "request_timeout")
    assert await client.rest() == b""


async def test_71_a_second_head_that_drips(gate):
    client = await gate.client()
    await client.ask(GET)
    await client.send(b"GET /api/x HTTP/1.1\r\n")
    await asyncio.sleep(0.02)
    await gate.elapse(11)
    assert (await client.reply()).status == 408


async def test_71_a_connection_that_says_nothing(gate):
    client = await gate.client()
    await gate.elapse(11)
    assert await client.rest() == b""
    assert not gate.decisions


async def test_71_an_idle_connection(gate):
    client = await gate.client()
    await client.ask(GET)
    await gate.elapse(74)
    await client.ask(GET)
    await gate.elapse(76)
    assert await client.rest() == b""


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_71_a_body_that_stalls(gate, until, framing):
    client = await gate.client()
    await client.send(post(10) + b"abc" if framing == "length" else post(None) + b"3\r\nabc\r\n")
    await gate.upstream.begun.wait()
    await gate.elapse(0)
    await gate.elapse(9)
    assert gate.pool.open == 1
    await gate.elapse(31)
    reply = await client.reply()
    assert (reply.status, reply.code, reply["Connection"]) == (408, "request_timeout", "close")
    await until(lambda: gate.pool.open == 0)
    assert not gate.upstream.received[0].complete


async def test_71_a_body_that_drips(gate):
    client = await gate.client()
    await client.send(post(10_000))
    await gate.upstream.begun.wait()
    for second in range(0, 11, 2):
        await client.send(b"a" * 100)
        await asyncio.sleep(0.01)
        await gate.elapse(second)
    assert (await client.reply()).status == 408


async def test_a_body_that_is_slow_but_fast_enough(gate):
    client = await gate.client()
    await client.send(post(10_000))
    await gate.upstream.begun.wait()
    for second in range(0, 40, 2):
        await client.send(b"a" * 500)
        await asyncio.sleep(0.005)
        await gate.elapse(second)
    assert (await client.reply()).status == 200


async def test_waiting_for_the_upstream_is_not_the_clients_fault(gate):
    gate.upstream.silence()
    client = await gate.client()
    await client.send(post(3) + b"abc")
    await gate.upstream.begun.wait()
    await gate.elapse(29)
    assert gate.listener.connections == 1
    assert gate.pool.open == 1
