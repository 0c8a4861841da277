"""`size_limit` through the public door: announced sizes, streams, `100 Continue`."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from aiogate.errors import DiagnosticsFound
from aiogate.testing import recording_upstream, running_gateway

SITE = "{{listen: /x/, auth: none, upstream: '{upstream}', plugins: [{plugins}]}}"


def site(plugins: str, upstream: str = "http://127.0.0.1:9/") -> dict[str, str]:
    return {"apis.d/x.yaml": SITE.format(upstream=upstream, plugins=plugins)}


@asynccontextmanager
async def connected(gateway):
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_an_announced_body_is_refused_at_once_and_why_says_how_much():
    async with recording_upstream() as upstream, running_gateway(site("size_limit: 10B", upstream.url)) as gateway:
        assert (await gateway.request("POST", "/x/", data=b"1234567890")).status == 200
        reply = await gateway.request("POST", "/x/", data=b"12345678901")
        assert (reply.status, reply.code, reply.error) == (413, "request_too_large", "Request is too large")
        why = await gateway.why(reply)
        assert (why["step"], why["reason"]) == ("size_limit", "11 bytes are announced, 10 allowed")
        assert len(upstream.received) == 1


async def test_no_continue_is_sent_to_a_body_that_is_too_large():
    async with running_gateway(site("size_limit: 10B")) as gateway, connected(gateway) as (reader, writer):
        writer.write(b"POST /x/ HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "pieces, status", [([b"12345", b"67890"], 200), ([b"12345", b"678901"], 413), ([b"x" * 40], 413)]
)
async def test_a_chunked_body_is_counted(pieces, status):
    async def parts():
        for piece in pieces:
            yield piece
            await asyncio.sleep(0.01)

    async with recording_upstream() as upstream, running_gateway(site("size_limit: 10B", upstream.url)) as gateway:
        reply = await gateway.request("POST", "/x/", data=parts())
        assert reply.status == status
        assert len(upstream.received) == (status == 200)
        if status == 413:
            assert (await gateway.why(reply))["reason"] == "more than 10 bytes came"


async def test_an_endless_upload_ends_at_the_limit_and_the_upstream_never_sees_its_end():
    ended = asyncio.Event()
    seen = 0

    async def upstream(reader, writer):
        nonlocal seen
        while piece := await reader.read(65536):
            seen += len(piece)
        ended.set()
        writer.close()

    server = await asyncio.start_server(upstream, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    files = site("size_limit: 256KiB", url)
    async with server, running_gateway(files) as gateway, connected(gateway) as (reader, writer):
        writer.write(b"POST /x/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n%b\r\n" % (16384, b"x" * 16384)
        for _ in range(20):
            writer.write(chunk)
            await writer.drain()
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 413 ")
        await asyncio.wait_for(ended.wait(), 5)
    assert 0 < seen <= 256 * 1024 + 4096


async def test_a_response_that_has_begun_is_cut_with_the_upload():
    async def upstream(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        while await reader.read(65536):
            pass
        writer.close()

    server = await asyncio.start_server(upstream, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    files = site("size_limit: 10B", url)
    async with server, running_gateway(files) as gateway, connected(gateway) as (reader, writer):
        writer.write(b"POST /x/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"hello\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 200 ")
        writer.write(b"6\r\n678901\r\n")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(-1), 5)


async def test_the_smallest_holds_and_a_match_limits_it():
    plugins = "{size_limit: 100B}, {size_limit: 10B, match: {paths: [/a/*]}}"
    async with recording_upstream() as upstream, running_gateway(site(plugins, upstream.url)) as gateway:
        assert (await gateway.request("POST", "/x/a/", data=b"x" * 11)).status == 413
        assert (await gateway.request("POST", "/x/b", data=b"x" * 11)).status == 200
        assert (await gateway.request("POST", "/x/b", data=b"x" * 101)).status == 413

        async def parts():
            yield b"x" * 11

        assert (await gateway.request("POST", "/x/a/", data=parts())).status == 413
        assert (await gateway.request("POST", "/x/b", data=parts())).status == 200


async def test_shadow_tells_announced_sizes_and_never_refuses():
    async def parts():
        yield b"x" * 11

    plugins = "{size_limit: 10B, mode: shadow}"
    async with recording_upstream() as upstream, running_gateway(site(plugins, upstream.url)) as gateway:
        reply = await gateway.request("POST", "/x/", data=b"x" * 11)
        assert (reply.status, (await gateway.why(reply))["shadow"]) == (200, True)
        assert (await gateway.request("POST", "/x/", data=parts())).status == 200


@pytest.mark.parametrize("config", ["10", "1 MB", "-1B", "{}", "{limit: 1MiB, more: 1}"])
async def test_mistakes_are_told(config):
    with pytest.raises(DiagnosticsFound):
        async with running_gateway(site(f"size_limit: {config}")):
            pass
