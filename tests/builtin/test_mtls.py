"""Client certificates: who is let in, what the upstream is told, and how soon a revocation holds (row 52)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trustme

from aiogate.testing import FakeClock, RecordingUpstream, recording_upstream, running_gateway

LISTEN = """
    listen:
      - address: 127.0.0.1:0
        tls: {certificate: server.pem, key: server.key, client_ca: ca.pem, client_certificates: optional}
      - 127.0.0.1:0
    """
ORG = "default"


class Wallet:
    """An authority, its certificates, and their fingerprints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        (folder / "ca.pem").write_bytes(self.authority.cert_pem.bytes())
        self.add("server", self.authority.issue_cert("localhost"))

    def add(self, name: str, certificate: trustme.LeafCert | None = None, **dates: datetime) -> str:
        made = certificate or self.authority.issue_cert(f"{name}@example.com", common_name=name, **dates)
        (self.folder / f"{name}.pem").write_bytes(made.cert_chain_pems[0].bytes())
        (self.folder / f"{name}.key").write_bytes(made.private_key_pem.bytes())
        return sha256(ssl.PEM_cert_to_DER_cert(self.pem(name))).hexdigest()

    def pem(self, name: str) -> str:
        return (self.folder / f"{name}.pem").read_text()


@pytest.fixture
def wallet(tmp_path: Path) -> Wallet:
    return Wallet(tmp_path)


@pytest.fixture
async def upstream() -> AsyncIterator[RecordingUpstream]:
    async with recording_upstream() as running:
        yield running


class Client:
    """One open connection, with a certificate or without."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def get(self, *headers: str, path: str = "/api/x") -> tuple[int, dict[str, Any]]:
        self.writer.write("\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode())
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
            body = await self.reader.readexactly(length)
        return int(head.split()[1]), json.loads(body)


@contextlib.asynccontextmanager
async def connected(gateway: Any, wallet: Wallet, name: str = "", *, plain: bool = False) -> AsyncIterator[Client]:
    context = None
    if not plain:
        context = ssl.create_default_context(cafile=str(wallet.folder / "ca.pem"))
        if name:
            context.load_cert_chain(wallet.folder / f"{name}.pem", wallet.folder / f"{name}.key")
    port = int(gateway.gateway.listen_addresses[1 if plain else 0].rpartition(":")[2])
    server_name = None if plain else "localhost"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=server_name)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def ask(gateway: Any, wallet: Wallet, name: str = "", *headers: str, plain: bool = False) -> Any:
    async with connected(gateway, wallet, name, plain=plain) as client:
        return await client.get(*headers)


def serving(wallet: Wallet, upstream: RecordingUpstream, auth: str, more: str = "", **further: Any) -> Any:
    api = f"listen: /api/\nupstream: {upstream.url}\nauth: {auth}\n{more}"
    files = {"apis.d/api.yaml": api, "aiogate.yaml": LISTEN, **further.pop("files", {})}
    return running_gateway(files, folder=wallet.folder, listen=None, **further)


async def why(gateway: Any, body: dict[str, Any]) -> str:
    return str((await gateway.tyk("GET", f"/tyk/decisions/{body['request_id']}")).json["reason"])


async def test_every_certificate_that_the_authority_signed(wallet: Wallet, upstream: RecordingUpstream) -> None:
    wallet.add("anna")
    async with serving(wallet, upstream, "[mtls]") as gateway:
        status, body = await ask(gateway, wallet, "anna")
        assert (status, body["target"]) == (200, "/x")
        status, body = await ask(gateway, wallet)
        assert (status, body["code"], body["error"]) == (
            403, "certificate_missing", "Client TLS certificate is required")  # fmt: skip
        assert "showed no certificate" in await why(gateway, body)
        status, body = await ask(gateway, wallet, plain=True)
        assert (status, body["code"], body["error"]) == (403, "tls_missing", "TLS not enabled")
        assert "plain HTTP" in await why(gateway, body)


async def test_only_those_on_the_list(wallet: Wallet, upstream: RecordingUpstream) -> None:
    allowed, other = wallet.add("anna"), wallet.add("ben")
    spelled = ":".join(allowed.upper()[at : at + 2] for at in range(0, 64, 2))
    async with serving(wallet, upstream, f"[mtls: {{allow: ['{spelled}']}}]") as gateway:
        assert (await ask(gateway, wallet, "anna"))[0] == 200
        status, body = await ask(gateway, wallet, "ben")
        assert (status, body["code"]) == (403, "certificate_denied")
        assert body["error"] == f"Certificate with SHA256 {other} not allowed"
        reason = await why(gateway, body)
        assert reason.startswith(f"certificate {other} of CN=ben")
        assert "not in `allow`" in reason
        assert "valid from 2" in reason


async def test_by_its_id_as_long_as_it_is_stored(wallet: Wallet, upstream: RecordingUpstream) -> None:
    identifier = ORG + wallet.add("anna")
    async with serving(wallet, upstream, f"[mtls: {{allow: [{identifier}]}}]") as gateway:
        async with connected(gateway, wallet, "anna") as client:
            status, body = await client.get()
            assert (status, body["code"]) == (403, "certificate_denied")
            assert "no longer stored" in await why(gateway, body)
            added = (await gateway.tyk("POST", f"/tyk/certs?org_id={ORG}", data=wallet.pem("anna"))).json
            assert (added["id"], added["message"]) == (identifier, "Certificate added")
            assert (await client.get())[0] == 200
            assert (await gateway.tyk("DELETE", f"/tyk/certs/{identifier}")).status == 200
            assert (await client.get())[0] == 403
        assert oct((wallet.folder / "var/certificates").stat().st_mode)[-3:] == "700"


async def test_a_session_of_its_own(wallet: Wallet, upstream: RecordingUpstream) -> None:
    fingerprint = wallet.add("anna")
    wallet.add("ben")
    session = {"certificate": fingerprint, "access_rights": {"api": {}}, "quota_max": 3, "quota_renewal_rate": 3600}
    auth = "[mtls: {session: true}]"
    async with serving(wallet, upstream, auth) as gateway, connected(gateway, wallet, "anna") as client:
        status, body = await client.get()
        assert (status, body["code"], body["error"]) == (
            401, "certificate_unknown", "Access to this API has been disallowed")  # fmt: skip
        assert f"certificate {fingerprint} of CN=anna" in await why(gateway, body)
        made = (await gateway.tyk("POST", "/tyk/keys", session)).json
        assert (made["key"], made["action"]) == (ORG + fingerprint, "added")
        assert (await client.get())[0] == 200
        assert (await ask(gateway, wallet, "ben"))[0] == 401
        status, body = await ask(gateway, wallet)
        assert (status, body["error"]) == (401, "Client certificate required")
        assert [(await client.get())[0] for _ in range(3)] == [200, 200, 403]
        assert (await gateway.tyk("DELETE", f"/tyk/keys/{made['key']}")).status == 200
        assert (await client.get())[0] == 401


async def test_a_session_ends_with_the_stored_certificate_that_it_was_made_for(
    wallet: Wallet, upstream: RecordingUpstream
) -> None:
    identifier = ORG + wallet.add("anna")
    async with serving(wallet, upstream, "[mtls: {session: true}]") as gateway:
        session = {"certificate": identifier, "access_rights": {"api": {}}}
        refused = await gateway.tyk("POST", "/tyk/keys", session)
        assert (refused.status, refused.json["message"]) == (400, f"certificate not found: {identifier}")
        await gateway.tyk("POST", "/tyk/certs", data=wallet.pem("anna"))
        assert (await gateway.tyk("POST", "/tyk/keys", session)).status == 200
        async with connected(gateway, wallet, "anna") as client:
            assert (await client.get())[0] == 200
            await gateway.tyk("DELETE", f"/tyk/certs/{identifier}")
            status, body = await client.get()
            assert (status, body["code"]) == (401, "certificate_unknown")
            assert "no longer stored" in await why(gateway, body)


async def test_a_key_does_not_pass_for_a_certificate_nor_the_reverse(
    wallet: Wallet, upstream: RecordingUpstream
) -> None:
    fingerprint = wallet.add("anna")
    async with serving(wallet, upstream, "[mtls: {session: true}, key]") as gateway:
        session = {"certificate": fingerprint, "access_rights": {"api": {}}}
        assert (await gateway.tyk("POST", "/tyk/keys", session)).status == 200
        for token in (fingerprint, ORG + fingerprint):
            status, body = await ask(gateway, wallet, "", f"Authorization: {token}")
            assert (status, body["code"]) == (403, "key_unknown")
        assert (await gateway.tyk("POST", "/tyk/keys/some-key", {"access_rights": {"api": {}}})).status == 200
        assert (await ask(gateway, wallet, "", "Authorization: some-key"))[0] == 200
        assert (await ask(gateway, wallet, "anna", "Authorization: some-key"))[0] == 200
        wallet.add("ben")
        # A certificate is present, so it decides: there is no falling through to the key.
        assert (await ask(gateway, wallet, "ben", "Authorization: some-key"))[0] == 401


async def test_both_a_certificate_and_a_key(wallet: Wallet, upstream: RecordingUpstream) -> None:
    fingerprint = wallet.add("anna")
    auth = f"{{all: [mtls: {{allow: [{fingerprint}]}}, key], session_from: key}}"
    async with serving(wallet, upstream, auth) as gateway:
        await gateway.tyk("POST", "/tyk/keys/some-key", {"access_rights": {"api": {}}})
        assert (await ask(gateway, wallet, "anna", "Authorization: some-key"))[0] == 200
        assert (await ask(gateway, wallet, "anna"))[1]["code"] == "auth_missing"
        assert (await ask(gateway, wallet, "", "Authorization: some-key"))[1]["code"] == "certificate_missing"


async def test_rights_and_limits_of_policies(wallet: Wallet, upstream: RecordingUpstream) -> None:
    wallet.add("anna")
    wallet.add("ben")
    files = {"policies.d/two.yaml": "id: two\naccess: {api: {}}\nquota: 2/1h\n"}
    async with serving(wallet, upstream, "[mtls: {policies: [two]}]", files=files) as gateway:
        for name in ("anna", "ben"):
            async with connected(gateway, wallet, name) as client:
                assert [(await client.get())[0] for _ in range(3)] == [200, 200, 403]


async def test_its_last_second_ends_on_an_open_connection(wallet: Wallet, upstream: RecordingUpstream) -> None:
    now = datetime.now(UTC)
    wallet.add("anna", not_after=now + timedelta(hours=1))
    clock = FakeClock(now.timestamp())
    async with (
        serving(wallet, upstream, "[mtls]", clock=clock) as gateway,
        connected(gateway, wallet, "anna") as client,
    ):
        assert (await client.get())[0] == 200
        clock.advance(3601)
        status, body = await client.get()
        assert (status, body["code"], body["error"]) == (403, "certificate_expired", "Certificate has expired")
        assert "of CN=anna" in await why(gateway, body)


@pytest.mark.parametrize("name", ["expired", "stranger"])
async def test_what_no_authority_vouches_for_ends_in_the_handshake(
    wallet: Wallet, upstream: RecordingUpstream, name: str
) -> None:
    wallet.add("expired", not_after=datetime.now(UTC) - timedelta(hours=1))
    wallet.add("stranger", trustme.CA().issue_cert("stranger@example.com"))
    async with serving(wallet, upstream, "[mtls]") as gateway:
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await ask(gateway, wallet, name)
    assert upstream.received == []


async def test_a_tunnel_stays_as_long_as_the_certificate_is_valid(wallet: Wallet, upstream: RecordingUpstream) -> None:
    import aiohttp
    from aiohttp import web

    async def echo(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/{tail:.*}", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    now = datetime.now(UTC)
    wallet.add("anna", not_after=now + timedelta(hours=1))
    clock = FakeClock(now.timestamp())
    api = f"listen: /api/\nupstream: http://{host}:{port}/\nauth: [mtls]\n"
    context = ssl.create_default_context(cafile=str(wallet.folder / "ca.pem"))
    context.load_cert_chain(wallet.folder / "anna.pem", wallet.folder / "anna.key")
    async with (
        serving(wallet, upstream, "none", files={"apis.d/api.yaml": api}, clock=clock) as gateway,
        aiohttp.ClientSession() as session,
    ):
        url = f"https://localhost:{gateway.gateway.listen_addresses[0].rpartition(':')[2]}/api/"
        async with session.ws_connect(url, ssl=context) as socket:
            for number in range(2):
                assert (await gateway.reload({"policies.d/p.yaml": f"id: p{number}\naccess: {{api: {{}}}}\n"})).ok
                await asyncio.sleep(0.6)
                await socket.send_str("still here")
                assert await socket.receive_str(timeout=5) == "still here"
            clock.advance(3601)
            ended = await socket.receive(timeout=5)
            assert (ended.type, ended.data) == (aiohttp.WSMsgType.CLOSE, 1008)
    await runner.cleanup()


async def test_a_certificate_that_is_trusted_by_itself(wallet: Wallet, upstream: RecordingUpstream) -> None:
    strangers = trustme.CA()
    wallet.add("anna", strangers.issue_cert("anna@example.com"))
    wallet.add("ben", strangers.issue_cert("ben@example.com"))
    (wallet.folder / "clients.pem").write_text(wallet.pem("anna"))
    listen = {"aiogate.yaml": LISTEN.replace("client_ca: ca.pem", "client_ca: clients.pem")}
    async with serving(wallet, upstream, "[mtls]", files=listen) as gateway:
        assert (await ask(gateway, wallet, "anna"))[0] == 200
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await ask(gateway, wallet, "ben")


async def test_the_upstream_is_told_by_us_alone(wallet: Wallet, upstream: RecordingUpstream) -> None:
    fingerprint = wallet.add("anna")
    headers = """
        plugins:
          - certificate_headers:
              subject: X-Client-Cert-Subject
              fingerprint: X-Client-Cert
              pem: X-Client-Cert-Pem
              der: Client-Cert
              issuer: X-Issuer
              serial: X-Serial
              not_after: X-Until
        """
    import textwrap

    forged = ("X-Client-Cert: forged", "x_client_cert: forged", "X-CLIENT-CERT-SUBJECT: CN=root", "Client-Cert: :eA==:")
    async with serving(wallet, upstream, "none", textwrap.dedent(headers)) as gateway:
        await ask(gateway, wallet, "anna", *forged)
        told = {name: value for name, value in upstream.received[-1].headers.items() if "cert" in name.lower()}
        assert told["X-Client-Cert"] == fingerprint
        assert told["X-Client-Cert-Subject"].startswith("CN=anna")
        assert told["X-Client-Cert-Pem"].startswith("-----BEGIN%20CERTIFICATE-----%0A")
        assert told["Client-Cert"].startswith(":MII")
        assert "forged" not in str(upstream.received[-1].headers)
        for plain in (False, True):
            await ask(gateway, wallet, "", *forged, plain=plain)
            sent = [name.lower() for name in upstream.received[-1].headers]
            assert not any("cert" in name for name in sent)


@pytest.mark.parametrize("auth", ["[mtls]", "[mtls: {allow: [FINGERPRINT]}]", "[mtls: {session: true}]"])
async def test_52_headers_are_no_certificate(wallet: Wallet, upstream: RecordingUpstream, auth: str) -> None:
    """What proxies and other gateways call a certificate in a header is neither believed nor passed on."""
    from urllib.parse import quote

    fingerprint, pem = wallet.add("anna"), wallet.pem("anna")
    names = ("subject: X-Ssl-Subject", "fingerprint: X-Client-Cert", "pem: X-Forwarded-Client-Cert", "der: Client-Cert")
    plugins = f"plugins: [certificate_headers: {{{', '.join(names)}}}]\n"
    forged = (
        f"X-Client-Cert: {fingerprint}", f"X-Forwarded-Client-Cert: {quote(pem)}", "X-Ssl-Subject: CN=anna",
        f"Client-Cert: :{''.join(pem.splitlines()[1:-1])}:", "X-SSL-Client-Verify: SUCCESS", "X-Forwarded-Proto: https",
    )  # fmt: skip
    async with serving(wallet, upstream, auth.replace("FINGERPRINT", fingerprint), plugins) as gateway:
        for plain in (False, True):
            status, body = await ask(gateway, wallet, "", *forged, plain=plain)
            assert (status, body["code"] in ("certificate_missing", "tls_missing")) == (
                401 if "session" in auth else 403, True)  # fmt: skip
    assert upstream.received == []


async def test_a_list_that_cannot_be_read_or_lets_in_nobody(wallet: Wallet, upstream: RecordingUpstream) -> None:
    from aiogate.errors import DiagnosticsFound

    for config in ("{allow: [abc]}", "{allow: []}", "{session: true, policies: [gold]}", "{forward: {}}"):
        with pytest.raises(DiagnosticsFound):
            async with serving(wallet, upstream, f"[mtls: {config}]"):
                pass
