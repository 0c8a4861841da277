"""Upstreams over TLS: names are checked, bodies stream, a broken handshake is 502."""

from __future__ import annotations

import shutil
import ssl
import subprocess

import pytest

from aiogate.proxy import pool as pool_module
from aiogate.proxy.pool import Origin, PoolOptions

GET = b"GET /api/x HTTP/1.1\r\nHost: a\r\n\r\n"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]  # noqa: RUF005
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        + ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
async def secure(wire, certificate, monkeypatch):
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    monkeypatch.setattr(pool_module, "_default_tls", lambda: trusting)
    upstream = await wire.upstream(tls=serving)

    async def gate(host: str = "localhost"):
        return await wire.gate(origin=Origin("https", host, upstream.port), pool=PoolOptions()), upstream

    return gate


async def test_a_request_over_tls(secure):
    gate, upstream = await secure()
    client = await gate.client()
    for _ in range(3):
        assert (await client.ask(GET)).body == b"ok"
    assert upstream.connections == 1


async def test_bodies_stream_over_tls(secure):
    gate, upstream = await secure()
    data = bytes(range(256)) * 4 * 1024 * 2

    async def echo(request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body) + request.body)

    upstream.answer = echo
    client = await gate.client()
    client.writer.write(b"POST /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    assert (await client.reply()).body == data


async def test_a_truncated_body_over_tls_resets_the_client(secure):
    gate, upstream = await secure()

    async def answer(request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await writer.drain()
        writer.transport.abort()

    upstream.answer = answer
    client = await gate.client()
    await client.send(GET)
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_a_foreign_name_is_refused(secure):
    gate, upstream = await secure("127.0.0.1")
    reply = await gate.ask(GET)
    assert (reply.status, reply.code) == (502, "upstream_unreachable")
    assert not upstream.received


async def test_an_upstream_without_tls_is_refused(secure, wire):
    plain = await wire.upstream()
    gate = await wire.gate(origin=Origin("https", "localhost", plain.port), pool=PoolOptions(connect=0.2))
    reply = await gate.ask(GET)
    assert reply.status == 504
