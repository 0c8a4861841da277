"""Attack rows 19 to 21 and 72: upstreams that misbehave, die, or are slow; and the pool that keeps them."""

from __future__ import annotations

import asyncio
import socket

import pytest

from aiogate.proxy.pool import PoolOptions

GET = b"GET /api/x HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HEAD /api/x HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
LINE = b"HTTP/1.1 200 OK\r\n"


async def test_19_head_keeps_the_length_and_has_no_body(gate):
    gate.upstream.answer = LINE + b"Content-Length: 1234\r\nX-A: b\r\n\r\n"
    client = await gate.client()
    for _ in range(3):
        reply = await client.ask(HEAD)
        assert (reply.status, reply["Content-Length"], reply["X-A"]) == (200, "1234", "b")
    gate.upstream.answer = LINE + b"Content-Length: 2\r\n\r\nok"
    assert (await client.ask(GET)).body == b"ok"
    assert gate.upstream.connections == 1, "the connection is reused behind HEAD"


@pytest.mark.parametrize(
    "answer",
    [
        LINE + b"Content-Length: 3\r\n\r\nabc",
        LINE + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        LINE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        LINE + b"\r\nabc",
        LINE + b"Content-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_19_head_with_a_body_drops_the_connection(gate, until, answer):
    gate.upstream.answer = answer
    client = await gate.client()
    assert (await client.ask(HEAD)).status == 200
    await until(lambda: gate.pool.open == 0)
    gate.upstream.answer = LINE + b"Content-Length: 2\r\n\r\nok"
    assert (await client.ask(GET)).body == b"ok"


async def test_19_head_answered_chunked_without_a_body(gate):
    gate.upstream.answer = LINE + b"Transfer-Encoding: chunked\r\n\r\n"
    client = await gate.client()
    reply = await client.ask(HEAD)
    assert (reply.status, "Content-Length" in reply) == (200, False)
    gate.upstream.answer = LINE + b"Content-Length: 2\r\n\r\nok"
    assert (await client.ask(GET)).body == b"ok"
    assert gate.upstream.connections == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_19_no_body_behind_204_and_304(gate, until, status):
    gate.upstream.answer = b"HTTP/1.1 %d X\r\nContent-Length: 3\r\nETag: x\r\n\r\nabc" % status
    client = await gate.client()
    reply = await client.ask(GET)
    assert reply.status == status
    assert ("Content-Length" in reply) == (status == 304)
    await until(lambda: gate.pool.open == 0)
    gate.upstream.answer = LINE + b"Content-Length: 2\r\n\r\nok"
    assert (await client.ask(GET)).body == b"ok"


@pytest.mark.parametrize("count,status", [(1, 200), (10, 200), (11, 502), (1000, 502)])
async def test_19_interim_responses(gate, count, status):
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    gate.upstream.answer = interim * count + LINE + b"Content-Length: 2\r\n\r\nok"
    reply = await gate.ask(GET)
    assert reply.status == status
    assert "Link" not in reply


async def test_19_two_finals_in_one_read(gate, until):
    gate.upstream.answer = (LINE + b"Content-Length: 1\r\n\r\na") + (LINE + b"Content-Length: 1\r\n\r\nb")
    client = await gate.client()
    assert (await client.ask(GET)).body == b"a"
    await until(lambda: gate.pool.open == 0)
    gate.upstream.answer = LINE + b"Content-Length: 1\r\n\r\nc"
    assert (await client.ask(GET)).body == b"c"


async def test_19_bytes_that_nobody_asked_for(gate, until):
    writers = []

    async def answer(request, writer):
        writer.write(LINE + b"Content-Length: 1\r\n\r\na")
        writers.append(writer)

    gate.upstream.answer = answer
    client = await gate.client()
    await client.ask(GET)
    assert gate.pool.idle == 1
    writers[0].write(LINE + b"Content-Length: 1\r\n\r\nb")
    await until(lambda: gate.pool.open == 0)
    assert (await client.ask(GET)).body == b"a"


NONSENSE = {
    "20-cl-te": LINE + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "20-te-cl": LINE + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "20-cl-twice": LINE + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "20-cl-differing": LINE + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "20-cl-list": LINE + b"Content-Length: 3, 3\r\n\r\nabc",
    "20-cl-minus": LINE + b"Content-Length: -3\r\n\r\nabc",
    "20-te-gzip-chunked": LINE + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "20-te-gzip": LINE + b"Transfer-Encoding: gzip\r\n\r\nabc",
    "20-te-twice": LINE + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "20-bad-chunk": LINE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "20-nul-header": LINE + b"X-A: b\0c\r\nContent-Length: 0\r\n\r\n",
    "20-control-header": LINE + b"X-A: b\x01c\r\nContent-Length: 0\r\n\r\n",
    "20-bare-lf": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "20-bare-cr": LINE + b"X-A: b\rX-B: c\r\nContent-Length: 0\r\n\r\n",
    "20-obs-fold": LINE + b"X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    "20-large-header": LINE + b"X-A: " + b"a" * 1_000_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "20-large-block": LINE + b"X-A: %b\r\n" % (b"a" * 4000) * 50 + b"Content-Length: 0\r\n\r\n",
    "20-endless-header": LINE + b"X-A: " + b"a" * 1_000_000,
    "20-crlf-in-reason": b"HTTP/1.1 200 O\rX-Evil: 1\r\nContent-Length: 0\r\n\r\n",
    "20-1000-cookies": LINE + b"Set-Cookie: a=b\r\n" * 1000 + b"Content-Length: 0\r\n\r\n",
    "20-not-http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "20-http-2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "20-http-0.9": b"<html></html>\r\n\r\n",
    "20-status-99": b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n",
    "20-status-999": b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n",
    "20-unasked-101": b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
    "20-bare-101": b"HTTP/1.1 101 X\r\n\r\n",
}


@pytest.mark.parametrize("row", NONSENSE)
async def test_20_nonsense_is_502(gate, until, row):
    gate.upstream.answer = NONSENSE[row]
    client = await gate.client()
    reply = await client.ask(GET)
    assert (reply.status, reply.code) == (502, "upstream_invalid")
    assert "X-Evil" not in reply
    await until(lambda: gate.pool.open == 0)
    gate.upstream.answer = LINE + b"Content-Length: 2\r\n\r\nok"
    assert (await client.ask(GET)).body == b"ok"


async def test_20_the_reason_phrase_is_ours(gate):
    gate.upstream.answer = b"HTTP/1.1 200 <script>\r\nContent-Length: 0\r\n\r\n"
    assert (await gate.ask(GET)).head.startswith(b"HTTP/1.1 200 OK\r\n")
    gate.upstream.answer = b"HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n"
    assert (await gate.ask(GET)).head.startswith(b"HTTP/1.1 299 \r\n")


class Dying:
    """An upstream that answers once on each connection and dies at the next request, `deaths` times."""

    def __init__(self, deaths: int, *, after: bytes = b"") -> None:
        self.deaths = deaths
        self.after = after
        self.served: set[int] = set()

    async def __call__(self, request, writer):
        if request.connection in self.served and self.deaths:
            self.deaths -= 1
            writer.write(self.after)
            await asyncio.sleep(0)
            writer.transport.close()
            return
        self.served.add(request.connection)
        writer.write(LINE + b"Content-Length: 2\r\n\r\n" + (b"" if request.method == "HEAD" else b"ok"))


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"DELETE"])
async def test_21_idempotent_is_tried_once_more(gate, method):
    gate.upstream.answer = Dying(1)
    client = await gate.client()
    ask = method + GET[3:]
    for _ in range(2):
        assert (await client.ask(ask)).status == 200
    assert len(gate.upstream.received) == 3
    assert gate.upstream.connections == 2


@pytest.mark.parametrize("ask", [POST, b"POST" + GET[3:], b"PUT" + POST[4:]])
async def test_21_a_body_or_post_is_not_repeated(gate, ask):
    gate.upstream.answer = Dying(1)
    client = await gate.client()
    assert (await client.ask(ask)).status == 200
    reply = await client.ask(ask)
    assert (reply.status, reply.code) == (502, "upstream_unreachable")
    assert len(gate.upstream.received) == 2


async def test_21_not_behind_the_first_byte(gate):
    gate.upstream.answer = Dying(1, after=b"HTTP/1.1")
    client = await gate.client()
    assert (await client.ask(GET)).status == 200
    assert (await client.ask(GET)).status == 502


async def test_21_not_on_a_fresh_connection(gate):
    async def die(request, writer):
        writer.transport.abort()

    gate.upstream.answer = die
    assert (await gate.ask(GET)).status == 502
    assert len(gate.upstream.received) == 1


async def test_21_a_connection_closed_while_idle_is_not_used(gate, until):
    gate.upstream.close_after = True
    client = await gate.client()
    assert (await client.ask(POST)).status == 200
    await until(lambda: gate.pool.open == 0)
    assert (await client.ask(POST)).status == 200


async def test_72_refused(wire):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gate = await wire.gate(port=free.getsockname()[1])
        reply = await gate.ask(GET)
    assert (reply.status, reply.code) == (502, "upstream_unreachable")
    assert gate.pool.open == 0


async def test_72_hang(gate, until):
    gate.upstream.silence()
    client = await gate.client()
    await client.send(GET)
    await gate.upstream.begun.wait()
    await gate.elapse(29)
    assert gate.pool.open == 1
    await gate.elapse(31)
    reply = await client.reply()
    assert (reply.status, reply.code) == (504, "upstream_timeout")
    assert await client.is_open()
    await gate.upstream.lost.wait()


@pytest.mark.parametrize("ask", [GET, POST, POST[:-3]], ids=["get", "post", "body-on-its-way"])
async def test_a_request_may_have_a_limit_of_its_own(gate, until, ask):
    gate.upstream.silence()
    gate.upstream.read_bodies = False
    gate.api.before = lambda exchange: setattr(exchange, "upstream_timeout", 0.05)
    client = await gate.client()
    reply = await client.ask(ask)
    assert (reply.status, reply.code) == (504, "upstream_timeout")
    await until(lambda: gate.pool.open == 0)
    assert len(gate.upstream.received) == 1


async def test_a_limit_of_its_own_ends_with_the_head(gate):
    async def answer(request, writer):
        writer.write(LINE + b"Content-Length: 6\r\n\r\nabc")
        await asyncio.sleep(0.3)
        writer.write(b"def")

    gate.upstream.answer = answer
    gate.api.before = lambda exchange: setattr(exchange, "upstream_timeout", 0.2)
    assert (await gate.ask(GET)).body == b"abcdef"


async def test_72_one_byte_a_second_in_the_head(gate):
    async def drip(request, writer):
        for byte in LINE:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    gate.upstream.answer = drip
    client = await gate.client()
    await client.send(GET)
    await gate.upstream.begun.wait()
    await gate.elapse(31)
    assert (await client.reply()).status == 504


def broken_off(head: bytes, how: str):
    async def answer(request, writer):
        writer.write(head)
        await writer.drain()
        await asyncio.sleep(0.02)
        if how == "rst":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    return answer


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_72_a_truncated_body_resets_the_client(gate, how, head, version):
    gate.upstream.answer = broken_off(LINE + head, how)
    client = await gate.client()
    await client.send(b"GET /api/x HTTP/%b\r\nHost: a\r\n\r\n" % version)
    got = await client.reader.readuntil(b"abc")
    with pytest.raises(ConnectionResetError):
        await client.rest()
    assert b"\r\n0\r\n" not in got
    assert gate.api.lease.active == 0


async def test_72_a_chunk_that_breaks_resets_the_client(gate):
    async def answer(request, writer):
        writer.write(LINE + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(b"zz\r\n")
        await asyncio.Event().wait()

    gate.upstream.answer = answer
    client = await gate.client()
    await client.send(GET)
    await client.reader.readuntil(b"abc")
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_72_a_body_that_stalls_resets_the_client(gate):
    async def answer(request, writer):
        writer.write(LINE + b"Content-Length: 10\r\n\r\nabc")
        await asyncio.Event().wait()

    gate.upstream.answer = answer
    client = await gate.client()
    await client.send(GET)
    await client.reader.readuntil(b"abc")
    await gate.elapse(59)
    assert gate.pool.open == 1
    await gate.elapse(61)
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_72_close_delimited_ends_cleanly(gate):
    async def answer(request, writer):
        writer.write(LINE + b"\r\nabc")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(b"def")
        writer.close()

    gate.upstream.answer = answer
    client = await gate.client()
    reply = await client.ask(GET)
    assert (reply.body, reply["Transfer-Encoding"]) == (b"abcdef", "chunked")
    assert await client.is_open()


async def test_an_old_upstream_is_understood(gate):
    gate.upstream.answer = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"
    gate.upstream.close_after = True
    client = await gate.client()
    for _ in range(2):
        assert (await client.ask(GET)).body == b"ok"


async def test_trailers_of_the_upstream_are_dropped(gate):
    gate.upstream.answer = LINE + b"Transfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n0\r\nX-Evil: 1\r\n\r\n"
    reply = await gate.ask(GET)
    assert (reply.body, reply["Content-Length"]) == (b"abc", "3")
    assert "X-Evil" not in reply


# The pool


async def test_the_last_used_connection_is_used_next(gate):
    first, second = await gate.client(), await gate.client()
    gate.upstream.answer = LINE + b"Content-Length: 1\r\n\r\na"
    await asyncio.gather(first.ask(GET), second.ask(GET))
    assert gate.pool.idle == 2
    for _ in range(5):
        await first.ask(GET)
    assert len({request.connection for request in gate.upstream.received[2:]}) == 1


async def test_an_idle_connection_is_closed_in_time(gate, until):
    await gate.ask(GET)
    await gate.elapse(59)
    assert gate.pool.idle == 1
    await gate.elapse(61)
    await until(lambda: gate.pool.open == 0)


async def test_at_the_limit_requests_queue_in_order(wire, until):
    gate = await wire.gate(pool=PoolOptions(connections=2, queue=3))
    release = asyncio.Event()

    async def answer(request, writer):
        await release.wait()
        writer.write(LINE + b"Content-Length: %d\r\n\r\n%b" % (len(request.target), request.target.encode()))

    gate.upstream.answer = answer
    clients = [await gate.client() for _ in range(6)]
    for number, client in enumerate(clients):
        await client.send(GET.replace(b"x", b"%d" % number, 1))
        await until(lambda number=number: len(gate.api.seen) == number + 1)
    surplus = await clients[5].reply()
    assert (surplus.status, surplus.code, surplus["Retry-After"]) == (503, "overloaded", "1")
    release.set()
    assert [(await client.reply()).body for client in clients[:5]] == [b"/%d" % number for number in range(5)]
    assert gate.upstream.connections == 2


async def test_who_waits_too_long_is_refused(wire):
    gate = await wire.gate(pool=PoolOptions(connections=1, wait=0.05))
    gate.upstream.silence()
    first, second = await gate.client(), await gate.client()
    await first.send(GET)
    await gate.upstream.begun.wait()
    assert (await second.ask(GET)).status == 503


async def test_who_gives_up_waiting_leaves_the_queue(wire, until):
    gate = await wire.gate(pool=PoolOptions(connections=1))
    gate.upstream.silence()
    first, second, third = [await gate.client() for _ in range(3)]
    await first.send(GET)
    await gate.upstream.begun.wait()
    await second.send(GET)
    await until(lambda: len(gate.pool._waiters) == 1)
    await second.close()
    await until(lambda: len(gate.pool._waiters) == 0)
    await third.send(GET)
    await until(lambda: len(gate.pool._waiters) == 1)
    gate.upstream.answer = LINE + b"Content-Length: 2\r\n\r\nok"
    await first.close()
    assert (await third.reply()).body == b"ok"


async def test_a_failed_connect_makes_room(wire, until):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gate = await wire.gate(port=free.getsockname()[1], pool=PoolOptions(connections=1))
        clients = [await gate.client() for _ in range(5)]
        replies = await asyncio.gather(*[client.ask(GET) for client in clients])
    assert [reply.status for reply in replies] == [502] * 5
    assert (gate.pool.open, gate.pool._connecting) == (0, 0)


async def test_equal_upstreams_share_a_pool_until_the_last_lease(gate, until):
    pool = gate.pool
    assert gate.pools.lease(pool.origin, PoolOptions()) is pool
    await gate.ask(GET)
    gate.pools.release(pool)
    assert pool.idle == 1
    gate.pools.release(pool)
    await until(lambda: pool.open == 0)
    assert gate.pools.lease(pool.origin, PoolOptions()) is not pool


async def test_the_next_address_is_tried(wire, monkeypatch):
    gate = await wire.gate()

    async def addresses(self, host, port, ends):
        return ("127.0.0.2", "127.0.0.1")

    monkeypatch.setattr("aiogate.proxy.pool.is_address", lambda host: False)
    monkeypatch.setattr(type(gate.pool._names), "addresses", addresses)
    assert (await gate.ask(GET)).status == 200


async def test_a_client_that_leaves_as_its_response_arrives_harms_nobody(gate, until):
    """The connection may serve the next request already when the cancellation comes."""
    for _ in range(30):
        first, second = await gate.client(), await gate.client()
        await first.send(GET)
        await gate.upstream.begun.wait()
        first.reset()
        assert (await second.ask(POST)).status == 200
    await until(lambda: gate.listener.connections == 30)
