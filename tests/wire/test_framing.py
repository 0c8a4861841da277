"""Attack rows 1 to 22: where does a message end. Numbers are those of the attack catalogue."""

from __future__ import annotations

import asyncio

import pytest

HOST = b"Host: a\r\n"


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST /api/x HTTP/%b\r\n" % version + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def get(*lines: bytes, target: bytes = b"/api/x") -> bytes:
    return b"GET %b HTTP/1.1\r\n" % target + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


CHUNKED = b"Transfer-Encoding: chunked"
SMUGGLED = b"GET /api/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

REFUSED = {
    "01-cl-te": (400, post(b"Content-Length: 6", CHUNKED, body=b"0\r\n\r\nX")),
    "01-te-cl": (400, post(CHUNKED, b"Content-Length: 6", body=b"0\r\n\r\nX")),
    "02-te-xchunked": ((400, 501), post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n")),
    "02-te-chunked-identity": ((400, 501), post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n")),
    "02-te-gzip-chunked": (501, post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")),
    "02-te-identity": ((400, 501), post(b"Transfer-Encoding: identity", body=b"abc")),
    "02-te-vt-value": ((400, 501), post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n")),
    "02-te-space-colon": (400, post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n")),
    "02-te-tab-colon": (400, post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n")),
    "02-te-twice": (400, post(CHUNKED, CHUNKED, body=b"0\r\n\r\n")),
    "02-te-two-values": ((400, 501), post(CHUNKED, b"Transfer-Encoding: identity", body=b"0\r\n\r\n")),
    "02-te-quoted": ((400, 501), post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n")),
    "03-te-http-1.0": (400, post(CHUNKED, body=b"0\r\n\r\n", version=b"1.0")),
    "04-cl-twice": (400, post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc")),
    "04-cl-differing": (400, post(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd")),
    "04-cl-list": (400, post(b"Content-Length: 3,3", body=b"abc")),
    "04-cl-list-space": (400, post(b"Content-Length: 3, 3", body=b"abc")),
    "04-cl-plus": (400, post(b"Content-Length: +3", body=b"abc")),
    "04-cl-minus": (400, post(b"Content-Length: -1")),
    "04-cl-hex": (400, post(b"Content-Length: 0x3", body=b"abc")),
    "04-cl-underscore": (400, post(b"Content-Length: 1_0", body=b"abc")),
    "04-cl-inner-space": (400, post(b"Content-Length: 3 0", body=b"abc")),
    "04-cl-empty": (400, post(b"Content-Length: ", body=b"abc")),
    "04-cl-2^63": (400, post(b"Content-Length: 9223372036854775808", body=b"abc")),
    "04-cl-2^64": (400, post(b"Content-Length: 18446744073709551616", body=b"abc")),
    "05-chunk-2^64": (400, post(CHUNKED, body=b"10000000000000000\r\nabc\r\n0\r\n\r\n")),
    "05-chunk-plus": (400, post(CHUNKED, body=b"+3\r\nabc\r\n0\r\n\r\n")),
    "05-chunk-hex": (400, post(CHUNKED, body=b"0x3\r\nabc\r\n0\r\n\r\n")),
    "05-chunk-space": (400, post(CHUNKED, body=b"3 \r\nabc\r\n0\r\n\r\n")),
    "05-chunk-empty": (400, post(CHUNKED, body=b"\r\nabc\r\n0\r\n\r\n")),
    "05-chunk-negative": (400, post(CHUNKED, body=b"-3\r\nabc\r\n0\r\n\r\n")),
    "06-chunk-too-long": (400, post(CHUNKED, body=b"3\r\nabcdef\r\n0\r\n\r\n")),
    "06-chunk-lf": (400, post(CHUNKED, body=b"3\nabc\n0\n\n")),
    "08-obs-fold": (400, get(b"X-A: b\r\n c")),
    "09-bare-lf": (400, b"GET /api/x HTTP/1.1\nHost: a\n\n"),
    "09-bare-lf-header": (400, b"GET /api/x HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n"),
    "09-bare-cr": (400, b"GET /api/x HTTP/1.1\r\nHost: a\rX-A: b\r\n\r\n"),
    "09-cr-cr-lf": (400, b"GET /api/x HTTP/1.1\r\r\nHost: a\r\r\n\r\r\n"),
    "10-nul-name": (400, get(b"X\x00A: b")),
    "10-nul-value": (400, get(b"X-A: b\x00c")),
    "10-x01-value": (400, get(b"X-A: b\x01c")),
    "10-x1f-value": (400, get(b"X-A: b\x1fc")),
    "10-x7f-value": (400, get(b"X-A: b\x7fc")),
    "10-nul-target": (400, get(target=b"/api/\x00")),
    "10-x01-target": (400, get(target=b"/api/\x01")),
    "10-x7f-target": (400, get(target=b"/api/\x7f")),
    "11-space-before-colon": (400, get(b"X-A : b")),
    "11-empty-name": (400, get(b": b")),
    "11-leading-space": (400, b"GET /api/x HTTP/1.1\r\n Host: a\r\n\r\n"),
    "11-not-a-token": (400, get(b"X(A): b")),
    "11-no-colon": (400, get(b"X-A")),
    "12-long-target": ((400, 414, 431), get(target=b"/api/" + b"a" * 9000)),
    "12-long-field": ((400, 431), get(b"X-A: " + b"a" * 9000)),
    "12-many-headers": ((400, 431), get(*[b"X-%d: b" % n for n in range(200)])),
    "12-large-block": (431, get(*[b"X-%d: " % n + b"a" * 8000 for n in range(100)])),
    "12-large-block-of-small": (431, get(*[b"X-%02d: " % n + b"a" * 800 for n in range(95)])),
    "14-http-1.10": ((400, 505), b"GET /api/x HTTP/1.10\r\nHost: a\r\n\r\n"),
    "14-http-2.0": ((400, 505), b"GET /api/x HTTP/2.0\r\nHost: a\r\n\r\n"),
    "14-http-0.9": ((400, 505), b"GET /api/x HTTP/0.9\r\nHost: a\r\n\r\n"),
    "14-preface": ((400, 505), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "14-tls": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64))),
    "14-proxy-v1": (400, b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + get()),
    "14-garbage": (400, b"\x00\x01\x02\x03\r\n\r\n"),
    "16-expect-bogus": (417, post(b"Expect: 200-maybe", b"Content-Length: 3", body=b"abc")),
    "30-no-host": (400, b"GET /api/x HTTP/1.1\r\n\r\n"),
    "30-two-hosts": (400, b"GET /api/x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
}


@pytest.mark.parametrize("row", REFUSED)
async def test_refused_and_closed(gate, row):
    expected, data = REFUSED[row]
    client = await gate.client()
    await client.send(data + SMUGGLED)
    reply = await client.reply()
    assert reply.status == expected or reply.status in (expected if isinstance(expected, tuple) else ())
    assert reply["Connection"] == "close"
    assert reply["X-Request-Id"]
    assert reply["Content-Type"] == "application/json"
    assert reply.code
    assert await client.rest() == b"", "nothing behind a refused message is read as a request"
    assert not [request for request in gate.upstream.received if request.complete]


@pytest.mark.parametrize("row", [row for row in REFUSED if row.startswith("12-")])
async def test_13_the_same_byte_by_byte(gate, row):
    expected, data = REFUSED[row]
    client = await gate.client()
    # Every byte of the first thousand alone, then in small pieces: enough for each state of the parser.
    for at in range(1000):
        await client.send(data[at : at + 1])
    try:
        for at in range(1000, len(data), 777):
            await client.send(data[at : at + 777])
        reply = await client.reply()
    except ConnectionError:
        pytest.skip("the refusal came while the rest was sent")
    assert reply.status == expected or reply.status in (expected if isinstance(expected, tuple) else ())
    assert await client.rest() == b""
    assert not gate.upstream.received


async def test_12_a_head_that_never_ends_is_bounded(gate):
    client = await gate.client()
    await client.send(b"GET /api/x HTTP/1.1\r\nHost: a\r\n")
    for number in range(90):
        await client.send(b"X-%02d: " % number + b"a" * 7000 + b"\r\n")
        await asyncio.sleep(0)
        if client.reader._buffer:
            break
    assert (await client.reply()).status == 431
    assert number < 20


async def test_02_case_of_chunked_is_free(gate):
    client = await gate.client()
    reply = await client.ask(post(b"Transfer-Encoding: cHuNkEd", body=b"3\r\nabc\r\n0\r\n\r\n"))
    assert reply.status == 200
    assert [(request.method, request.body) for request in gate.upstream.received] == [("POST", b"abc")]


async def test_06_body_shorter_than_its_chunk(gate, until):
    client = await gate.client()
    await client.send(post(CHUNKED, body=b"a\r\nabc"))
    await gate.upstream.begun.wait()
    await client.close()
    await until(lambda: gate.pool.open == 0)
    assert not gate.upstream.received[0].complete


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_06_the_end_of_a_body_is_not_the_begin_of_a_head(gate, framing):
    """In a read of its own it was: a large one got the next request 431, a small one the idle client 408."""
    for size in (3, 250_000):
        body = b"x" * size if framing == "length" else b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size)
        client = await gate.client()
        gate.upstream.begun.clear()
        await client.send(post(CHUNKED if framing == "chunked" else b"Content-Length: %d" % size))
        await gate.upstream.begun.wait()
        assert (await client.ask(body)).status == 200
        assert len(gate.upstream.received[-1].body) == size
        await gate.elapse(gate.listener.options.client_header + 1)
        assert await client.is_open()


async def test_06_broken_chunk_behind_a_good_one_aborts_the_upstream(gate, until):
    client = await gate.client()
    await client.send(post(CHUNKED, body=b"3\r\nabc\r\n"))
    await gate.upstream.begun.wait()
    reply = await client.ask(b"zz\r\nabc\r\n0\r\n\r\n" + SMUGGLED)
    assert (reply.status, reply["Connection"]) == (400, "close")
    assert await client.rest() == b""
    await until(lambda: gate.pool.open == 0)
    assert [request.complete for request in gate.upstream.received] == [False]


@pytest.mark.parametrize("name", [b"Authorization", b"Content-Length", b"X-Forwarded-For", b"Host"])
async def test_07_trailers_never_become_headers(gate, name):
    client = await gate.client()
    reply = await client.ask(post(CHUNKED, body=b"3\r\nabc\r\n0\r\n%b: 7\r\n\r\n" % name))
    for request in gate.upstream.received:
        assert "7" not in request.values(name.decode())
    assert reply.status in (200, 400)


async def test_07_a_trailer_is_no_header_of_the_next_request(gate):
    """aiohttp's parser keeps the last trailer back and hands it on with the next head."""
    trailers = b"3\r\nabc\r\n0\r\nX-One: 1\r\nX-User: root\r\n\r\n"
    client = await gate.client()
    assert (await client.ask(post(CHUNKED, body=trailers))).status == 200
    assert (await client.ask(get())).status == 200
    gate.upstream.begun.clear()
    await client.send(post(CHUNKED, body=b"3\r\nabc\r\n"))
    await gate.upstream.begun.wait()
    for part in (b"0\r\nX-User: root\r", b"\n", b"\r"):
        await client.send(part)
        await asyncio.sleep(0.01)
    assert (await client.ask(b"\n")).status == 200
    assert (await client.ask(get())).status == 200
    for queued in (get(), get()[:20]):
        await client.send(post(CHUNKED, body=trailers) + queued)
        assert (await client.reply())["Connection"] == "close"
        assert await client.rest() == b"", "what came behind the trailers cannot be told from them"
        client = await gate.client()
    assert len(gate.upstream.received) == 6
    assert all("root" not in request.values("X-User") for request in gate.upstream.received)
    assert all("X-User" not in exchange.headers for exchange in gate.api.seen)


async def test_07_ten_thousand_trailers(gate):
    client = await gate.client()
    await client.send(post(CHUNKED, body=b"3\r\nabc\r\n0\r\n"))
    await client.send(b"".join(b"X-%d: b\r\n" % number for number in range(10_000)) + b"\r\n")
    assert (await client.reply()).status in (200, 400, 431)
    assert all(not request.values("X-9") for request in gate.upstream.received)


async def test_11_empty_lines_before_a_request_are_skipped(gate):
    assert (await gate.ask(b"\r\n\r\n" + get())).status == 200


async def test_14_http_0_9_gets_no_traceback(gate):
    client = await gate.client()
    await client.send(b"GET /api/x\r\n\r\n")
    await client.rest(within=1)
    assert not gate.upstream.received


async def test_15_a_hundred_pipelined_are_answered_in_order(gate):
    async def echo(request, writer):
        body = request.target.encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    gate.upstream.answer = echo
    client = await gate.client()
    await client.send(b"".join(get(target=b"/api/%d" % number) for number in range(100)))
    for number in range(100):
        assert (await client.reply()).body == b"/%d" % number
    assert len(gate.api.seen) == 100
    assert gate.listener.connections == 1


async def test_15_pipelining_behind_a_slow_one_is_bounded(gate, until):
    gate.upstream.silence()
    client = await gate.client()
    await client.send(get())
    await gate.upstream.begun.wait()
    (connection,) = gate.listener._clients._open
    for _ in range(40):
        client.writer.write(get() * 50)
        await until(lambda: True)
    await until(lambda: len(connection._messages) >= 32)
    assert len(connection._messages) <= 32


async def test_16_continue_comes_when_somebody_reads(gate):
    client = await gate.client()
    await client.send(post(b"Expect: 100-continue", b"Content-Length: 3"))
    assert (await client.reply()).status == 100
    await client.send(b"abc")
    assert (await client.reply()).status == 200
    assert gate.upstream.received[0].body == b"abc"
    assert not gate.upstream.received[0].values("Expect")


async def test_16_no_continue_before_authentication(gate):
    gate.api.before = lambda exchange: gate_problem()
    client = await gate.client()
    reply = await client.ask(post(b"Expect: 100-continue", b"Content-Length: 3"))
    assert (reply.status, reply["Connection"]) == (401, "close")
    await client.send(b"abc")
    assert await client.rest() == b""
    assert not gate.upstream.received


def gate_problem():
    from aiogate.errors import PROBLEMS

    return PROBLEMS["auth_missing"]


async def test_16_continue_without_a_body_does_not_hang(gate):
    assert (await gate.ask(get(b"Expect: 100-continue"))).status == 200


async def test_17_h2c_is_ignored_and_stays_on_this_hop(gate):
    client = await gate.client()
    reply = await client.ask(
        get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    )
    assert reply.status == 200
    (request,) = gate.upstream.received
    for name in ("Connection", "Upgrade", "HTTP2-Settings"):
        assert not request.values(name)
    assert reply["Connection"] == "close"
    assert await client.rest() == b""


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"tcp"])
async def test_18_an_upgrade_with_a_body_is_one_request(gate, protocol):
    client = await gate.client()
    await client.send(
        post(
            b"Connection: Upgrade",
            b"Upgrade: " + protocol,
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            b"Content-Length: %d" % len(SMUGGLED),
            body=SMUGGLED + SMUGGLED,
        )
    )
    assert (await client.reply()).status in (200, 400)
    assert await client.rest() == b""
    assert len(gate.upstream.received) <= 1
    assert all(request.target == "/x" for request in gate.upstream.received)


async def test_22_cut_in_the_middle_of_a_head(gate, until):
    client = await gate.client()
    await client.send(b"GET /api/x HTTP/1.1\r\nHost")
    await until(lambda: gate.listener.connections == 1)
    await client.close()
    await until(lambda: gate.listener.connections == 0)
    assert not gate.upstream.received
    assert not gate.decisions


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_22_cut_in_the_middle_of_a_body(gate, until, how, framing):
    client = await gate.client()
    if framing == "length":
        await client.send(post(b"Content-Length: 10", body=b"abc"))
    else:
        await client.send(post(CHUNKED, body=b"3\r\nabc\r\n"))
    await gate.upstream.begun.wait()
    client.reset() if how == "rst" else await client.close()
    await until(lambda: gate.pool.open == 0 and gate.listener.connections == 0, within=1)
    await gate.upstream.lost.wait()
    assert [request.complete for request in gate.upstream.received] == [False]
    assert gate.api.lease.active == 0


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_22_client_gone_while_the_upstream_thinks(gate, until, how):
    gate.upstream.silence()
    client = await gate.client()
    await client.send(get())
    await gate.upstream.begun.wait()
    client.reset() if how == "rst" else await client.close()
    await until(lambda: gate.pool.open == 0 and gate.listener.connections == 0, within=1)
    async with asyncio.timeout(1):
        await gate.upstream.lost.wait()
    assert gate.api.lease.active == 0
