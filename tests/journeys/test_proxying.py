"""Requests through the gateway to real servers, by curl, aiohttp and raw sockets."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from aiogate.testing import Received, RecordingUpstream, running_gateway

Curl = Callable[..., Awaitable[Any]]


def open_api(upstream: str, **keys: str) -> dict[str, str]:
    further = "".join(f", {key}: {value}" for key, value in keys.items())
    return {"apis.d/api.yaml": f"{{listen: /api/, auth: none, upstream: '{upstream}'{further}}}"}


async def test_a_request_reaches_nginx_and_its_answer_comes_back(nginx: Any, curl: Curl) -> None:
    async with running_gateway(open_api(nginx.url)) as gateway:
        got = await curl("-H", "X-Forwarded-For: 10.9.8.7", f"{gateway.url}/api/a%20b?x=%2F&y=")
        assert (got.status, got.body) == (200, b"GET /a%20b?x=%2F&y= auth= xff=127.0.0.1\n")
        assert got.headers["x-seen-host"] in nginx.url
        assert got.headers["server"].startswith("nginx")
        posted = await curl("-X", "POST", "--data-binary", "hello", f"{gateway.url}/api/form")
        assert posted.body == b"POST /form auth= xff=127.0.0.1\n"
        head = await curl("--head", f"{gateway.url}/api/")
        assert (head.status, head.body) == (200, b"")


async def test_a_file_of_megabytes_arrives_whole(nginx: Any, curl: Curl, tmp_path: Path) -> None:
    data = os.urandom(5 * 1024 * 1024)
    (nginx.folder / "large").write_bytes(data)
    async with running_gateway(open_api(nginx.url)) as gateway:
        got = await curl(f"{gateway.url}/api/files/large")
        assert hashlib.sha256(got.body).digest() == hashlib.sha256(data).digest()
        part = await curl("-H", "Range: bytes=10-19", f"{gateway.url}/api/files/large")
        assert (part.status, part.body) == (206, data[10:20])


async def test_a_redirect_is_passed_on_and_not_followed(nginx: Any, curl: Curl) -> None:
    async with running_gateway(open_api(nginx.url)) as gateway:
        assert (await curl(f"{gateway.url}/api/moved")).status == 302


async def test_the_listen_path_may_stay_and_the_hosts_name_too(nginx: Any, curl: Curl) -> None:
    files = open_api(nginx.url, strip_listen_path="false")
    files["apis.d/api.yaml"] = files["apis.d/api.yaml"].replace(
        f"'{nginx.url}'", f"{{url: '{nginx.url}base/?fixed=1', preserve_host: true}}"
    )
    async with running_gateway(files) as gateway:
        got = await curl("-H", "Host: shop.example", f"{gateway.url}/api/x?y=2")
        assert got.body == b"GET /base/api/x?fixed=1&y=2 auth= xff=127.0.0.1\n"
        assert got.headers["x-seen-host"] == "shop.example"


async def test_a_chunked_body_streams_both_ways_by_aiohttp(upstream: RecordingUpstream) -> None:
    async def pieces() -> Any:
        for number in range(50):
            yield b"%d," % number * 1000

    async def echo(received: Received) -> web.StreamResponse:
        return web.Response(body=received.body, headers={"X-Many": "1"})

    upstream.answer = echo
    expected = b"".join([piece async for piece in pieces()])
    async with (
        running_gateway(open_api(upstream.url)) as gateway,
        aiohttp.ClientSession() as session,
        session.post(f"{gateway.url}/api/echo", data=pieces()) as response,
    ):
        assert await response.read() == expected
    assert upstream.last.body == expected


async def test_many_requests_share_few_upstream_connections(upstream: RecordingUpstream) -> None:
    async with running_gateway(open_api(upstream.url)) as gateway:
        for _ in range(20):
            assert (await gateway.get("/api/")).status == 200
    assert upstream.connections == 1


async def test_pipelined_requests_are_answered_in_order(upstream: RecordingUpstream) -> None:
    async with running_gateway(open_api(upstream.url)) as gateway:
        host, port = gateway.gateway.listen_addresses[0].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"".join(b"GET /api/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(10)))
        async with asyncio.timeout(10):
            for number in range(10):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                assert b'"target": "/%d"' % number in await reader.readexactly(length)
        writer.close()


async def test_no_api_for_the_path(upstream: RecordingUpstream) -> None:
    async with running_gateway(open_api(upstream.url)) as gateway:
        for path in ("/", "/apix", "/API/", "/other"):
            reply = await gateway.get(path)
            assert (reply.status, reply.error, reply.code) == (404, "Not Found", "not_found")
            assert reply.headers["Content-Type"] == "application/json"
            assert (await gateway.why(reply))["step"] == "router"
        assert (await gateway.get("/api")).json["target"] == "/"
        hello = await gateway.get("/hello")
        assert (hello.status, hello.json["status"]) == (200, "pass")
    assert len(upstream.received) == 1


async def test_an_upstream_that_is_not_there(free_port: int) -> None:
    async with running_gateway(open_api(f"http://127.0.0.1:{free_port}/")) as gateway:
        reply = await gateway.get("/api/")
        assert (reply.status, reply.error, reply.code) == (
            502, "There was a problem proxying the request", "upstream_unreachable",
        )  # fmt: skip
        why = await gateway.why(reply)
        assert (why["step"], why["stage"]) == ("reverse_proxy", "UPSTREAM")
        assert str(free_port) in why["reason"]


async def test_an_upstream_whose_name_does_not_resolve() -> None:
    async with running_gateway(open_api("http://nowhere.invalid/")) as gateway:
        reply = await gateway.get("/api/")
        assert (reply.status, reply.code) == (502, "upstream_unreachable")


async def _silence(head: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def test_an_upstream_that_says_nothing(raw_upstream: Any) -> None:
    raw_upstream.behave = _silence
    files = open_api(raw_upstream.url)
    files["apis.d/api.yaml"] = files["apis.d/api.yaml"].replace(
        f"'{raw_upstream.url}'", f"{{url: '{raw_upstream.url}', timeouts: {{read: 200ms}}}}"
    )
    async with running_gateway(files) as gateway:
        reply = await gateway.get("/api/")
        assert (reply.status, reply.error, reply.code) == (
            504, "Upstream service reached hard timeout.", "upstream_timeout",
        )  # fmt: skip


def saying(data: bytes) -> Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]:
    async def say(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return say


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    ],
    ids=["nothing", "garbage", "two lengths", "length and chunks", "endless header"],
)
async def test_an_upstream_that_speaks_nonsense(raw_upstream: Any, data: bytes) -> None:
    raw_upstream.behave = saying(data)
    async with running_gateway(open_api(raw_upstream.url)) as gateway:
        reply = await gateway.request("POST", "/api/", data=b"x")
        assert (reply.status, reply.error) == (502, "There was a problem proxying the request")
        assert (await gateway.why(reply))["reason"]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
    ids=["short of its length", "without the last chunk"],
)
async def test_a_truncated_answer_never_looks_whole(raw_upstream: Any, data: bytes, curl: Curl) -> None:
    raw_upstream.behave = saying(data)
    async with running_gateway(open_api(raw_upstream.url)) as gateway:
        got = await curl(f"{gateway.url}/api/")
        assert got.code in (18, 56), "curl: partial file, or a connection that broke while receiving"
        with pytest.raises(aiohttp.ClientError):
            await gateway.get("/api/")
