"""Upstreams in their long form: several targets, TLS with authorities and certificates of one's own, reloads."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from aiogate.config.provenance import THROUGH_API, signed
from aiogate.testing import FakeClock, GatewayClient, recording_upstream, running_gateway


def api(upstream: str, **files: str) -> dict[str, str]:
    return {"apis.d/shop.yaml": f"id: shop\nlisten: /shop/\nauth: none\nupstream: {upstream}\n", **files}


@dataclass
class SecureUpstream:
    """Says who asked: the name that was asked for, and the certificate that was shown."""

    port: int = 0
    connections: int = 0
    names: list[str | None] = field(default_factory=list)

    def url(self, host: str = "localhost") -> str:
        return f"https://{host}:{self.port}/"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                shown = writer.get_extra_info("peercert") or {}
                names = [value for kind, value in shown.get("subjectAltName", ()) if kind == "email"]
                body = (",".join(names) or "nobody").encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.transport.abort()


@asynccontextmanager
async def secure(
    authority: trustme.CA, *names: str, clients: trustme.CA | None = None
) -> AsyncIterator[SecureUpstream]:
    upstream = SecureUpstream()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*(names or ("localhost",))).configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
    context.sni_callback = lambda _, name, __: upstream.names.append(name)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=context)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()


@pytest.fixture(scope="module")
def ours() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def theirs() -> trustme.CA:
    return trustme.CA()


def issue(authority: trustme.CA, folder: Path, name: str, *identities: str) -> None:
    """A certificate with its key, in a file of their own each, and both in one."""
    made = authority.issue_cert(*identities)
    folder.mkdir(parents=True, exist_ok=True)
    made.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
    made.private_key_pem.write_to_path(folder / f"{name}.key")
    made.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")


async def test_an_authority_of_ones_own(ours: trustme.CA, theirs: trustme.CA, tmp_path: Path) -> None:
    ours.cert_pem.write_to_path(tmp_path / "ours.pem")
    async with secure(ours) as upstream, secure(theirs) as foreign:
        trusting = f"{{url: '{upstream.url()}', tls: {{ca: {tmp_path}/ours.pem}}}}"
        async with running_gateway(api(trusting)) as gateway:
            for _ in range(3):
                assert (await gateway.get("/shop/")).body == b"nobody"
            assert (upstream.connections, upstream.names) == (1, ["localhost"])
            await gateway.reload(api(trusting.replace(upstream.url(), foreign.url())))
            reply = await gateway.get("/shop/")
            assert (reply.status, reply.code) == (502, "upstream_unreachable")
            assert "certificate verify failed" in (await gateway.why(reply))["reason"]
            await gateway.reload(api(f"'{upstream.url()}'"))
            assert (await gateway.get("/shop/")).status == 502, "the system does not know that authority"


async def test_the_name_of_the_certificate(ours: trustme.CA, tmp_path: Path) -> None:
    ours.cert_pem.write_to_path(tmp_path / "ours.pem")
    async with secure(ours, "orders.internal") as upstream:
        long = f"{{url: '{upstream.url('127.0.0.1')}', tls: {{ca: {tmp_path}/ours.pem, server_name: NAME}}}}"
        async with running_gateway(api(long.replace("NAME", "orders.internal"))) as gateway:
            assert (await gateway.get("/shop/")).status == 200
            assert upstream.names == ["orders.internal"]
            await gateway.reload(api(long.replace("NAME", "other.internal")))
            assert (await gateway.get("/shop/")).status == 502


async def test_a_certificate_for_the_upstream(ours: trustme.CA, theirs: trustme.CA, tmp_path: Path) -> None:
    async with secure(ours, clients=theirs) as upstream:
        folder = tmp_path / "apis.d" / "tls"
        issue(theirs, folder, "gate", "gate@example.org")
        issue(theirs, folder, "other", "other@example.org")
        ours.cert_pem.write_to_path(folder / "ca.pem")
        parts = f"ca: {folder}/ca.pem, certificate: {folder}/gate.crt, key: {folder}/gate.key"
        split = f"{{url: '{upstream.url()}', tls: {{{parts}}}}}"
        whole = f"{{url: '{upstream.url()}', tls: {{ca: {folder}/ca.pem, certificate: {folder}/other.pem}}}}"
        without = f"{{url: '{upstream.url()}', tls: {{ca: {folder}/ca.pem}}}}"
        async with running_gateway(api(split), folder=tmp_path) as gateway:
            assert (await gateway.get("/shop/")).body == b"gate@example.org"
            assert (await gateway.reload(api(whole))).ok
            assert (await gateway.get("/shop/")).body == b"other@example.org"
            assert (await gateway.reload(api(without))).ok
            assert (await gateway.get("/shop/")).body == b"nobody", "no connection is shared with another identity"


async def test_files_are_read_again(ours: trustme.CA, theirs: trustme.CA, tmp_path: Path) -> None:
    async with secure(ours, clients=theirs) as upstream:
        folder = tmp_path / "apis.d" / "tls"
        issue(theirs, folder, "gate", "first@example.org")
        ours.cert_pem.write_to_path(folder / "ca.pem")
        long = f"{{url: '{upstream.url()}', tls: {{ca: {folder}/ca.pem, certificate: {folder}/gate.pem}}}}"
        async with running_gateway(api(long), folder=tmp_path) as gateway:
            assert (await gateway.get("/shop/")).body == b"first@example.org"
            assert (await gateway.reload()).changed.changed == ()
            assert (await gateway.get("/shop/")).body == b"first@example.org"
            assert upstream.connections == 1, "unchanged files keep pool and sockets"
            issue(theirs, folder, "gate", "second@example.org")
            assert (await gateway.reload()).changed.changed == ("shop",)
            assert (await gateway.get("/shop/")).body == b"second@example.org"
            (folder / "gate.pem").write_text("nonsense")
            verdict = await gateway.reload()
            assert [(one.code, one.line, one.path) for one in verdict.diagnostics] == [
                ("certificate_invalid", 4, "upstream.tls.certificate")
            ]
            assert (await gateway.get("/shop/")).body == b"second@example.org"


async def test_no_verification_is_said_aloud(
    ours: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with secure(ours) as upstream:
        files = api(f"{{url: '{upstream.url()}', tls: {{verify: false}}}}")
        async with running_gateway(files, folder=tmp_path) as gateway:
            assert (await gateway.get("/shop/")).status == 200
            await gateway.reload()
    warned = [message for message in caplog.messages if "is not verified" in message]
    assert len(warned) == 1
    assert warned[0].startswith(f"{tmp_path}/apis.d/shop.yaml:4:")


async def test_versions_with_upstreams_of_their_own(ours: trustme.CA, tmp_path: Path) -> None:
    ours.cert_pem.write_to_path(tmp_path / "ours.pem")
    async with secure(ours) as safe, recording_upstream() as first, recording_upstream() as second:
        files = api(f"'{first.url}'")
        files["apis.d/shop.yaml"] += f"""\
versions:
  by: path
  strip: true
  list:
    v1:
    v2: {{upstream: {{targets: ['{first.url}two/', '{second.url}two/']}}}}
    v3: {{upstream: {{url: '{safe.url()}', tls: {{ca: {tmp_path}/ours.pem}}}}}}
"""
        async with running_gateway(files) as gateway:
            assert (await gateway.get("/shop/v1/a")).json["target"] == "/a"
            for _ in range(2):
                assert (await gateway.get("/shop/v2/a")).json["target"] == "/two/a"
            assert (await gateway.get("/shop/v3/a")).body == b"nobody"
    assert [one.target for one in second.received] == ["/two/a"]


@dataclass
class Pair:
    """A gateway with one target that lives and one that refuses."""

    gateway: Any
    alive: Any
    dead: str
    clock: FakeClock

    async def metrics(self) -> str:
        async with GatewayClient(self.gateway.control_url, self.gateway.control_url, "", "") as control:
            return str((await control.get("/metrics")).text)

    async def ejected(self) -> list[str]:
        return [one["target"] for one in (await self.gateway.dashboard("GET", "/api/system/status")).json["ejected"]]


@pytest.fixture
async def pair(free_port: int) -> AsyncIterator[Pair]:
    clock = FakeClock()
    dead = f"http://127.0.0.1:{free_port}"
    async with recording_upstream() as alive:
        files = api(f"{{targets: ['{dead}', '{alive.url}'], ejection: {{failures: 1, for: 1m}}}}")
        async with running_gateway(files, clock=clock) as gateway:
            yield Pair(gateway, alive, dead, clock)


async def test_an_ejected_target_is_visible(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    up = f'aiogate_upstream_target_up{{api="shop",version="",target="{pair.dead}"}}'
    assert f"{up} 1" in await pair.metrics()
    assert {(await pair.gateway.request("POST", "/shop/", data=b"x")).status for _ in range(4)} == {200}
    assert await pair.ejected() == [pair.dead]
    shown = await pair.metrics()
    assert f"{up} 0" in shown
    assert f'aiogate_upstream_ejections_total{{api="shop",version="",target="{pair.dead}"}} 1' in shown
    assert len([message for message in caplog.messages if "is left alone for 60 s" in message]) == 1


async def test_what_is_known_of_targets_outlives_a_reload(pair: Pair) -> None:
    for _ in range(2):
        await pair.gateway.get("/shop/")
    text = (pair.gateway.folder / "apis.d/shop.yaml").read_text()
    for changed in ("", "name: Shop\n", "plugins: [rate_limit: 1000/1s]\n"):
        assert (await pair.gateway.reload({"apis.d/shop.yaml": text + changed})).ok
        assert await pair.ejected() == [pair.dead]
        assert (await pair.gateway.get("/shop/")).status == 200
    assert pair.alive.connections == 1
    await pair.gateway.reload({"apis.d/shop.yaml": text.replace("for: 1m", "for: 2m")})
    assert await pair.ejected() == [], "another upstream begins anew"


async def test_versions_without_one_of_their_own_share_the_upstream(pair: Pair) -> None:
    text = (pair.gateway.folder / "apis.d/shop.yaml").read_text()
    await pair.gateway.reload({"apis.d/shop.yaml": text + "versions: {by: path, list: {v1: , v2: }}\n"})
    for path in ("v1", "v2", "v1", "v2"):
        assert (await pair.gateway.get(f"/shop/{path}/")).status == 200
    assert await pair.ejected() == [pair.dead]
    assert pair.alive.connections == 1


async def test_weights_and_requests_arrive(pair: Pair) -> None:
    async with recording_upstream() as other:
        targets = f"{{targets: [{{url: '{pair.alive.url}', weight: 3}}, '{other.url}other/']}}"
        await pair.gateway.reload(api(targets))
        found = Counter([(await pair.gateway.get("/shop/x?a=1")).json["target"] for _ in range(8)])
    assert found == {"/x?a=1": 6, "/other/x?a=1": 2}


async def test_a_definition_written_over_http_does_not_lead_to_the_control_port(free_port: int) -> None:
    def written(upstream: str) -> dict[str, str]:
        return {"apis.d/shop.yaml": signed(api(upstream)["apis.d/shop.yaml"], THROUGH_API, "a test")}

    async with recording_upstream() as upstream, running_gateway(written(f"'{upstream.url}'")) as gateway:
        assert (await gateway.get("/shop/")).status == 200
        port = gateway.control_url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "127.1"):
            assert (await gateway.reload(written(f"'http://{host}:{port}/'"))).ok
            reply = await gateway.get("/shop/hello")
            assert (reply.status, reply.code) == (502, "upstream_unreachable")
            assert "control API listens" in (await gateway.why(reply))["reason"], host
        for address in ("169.254.169.254", "[fe80::1]", "100.100.100.200", "[fd00:ec2::254]", "0.0.0.0"):
            assert (await gateway.reload(written(f"'http://{address}:{free_port}/'"))).ok
            reply = await gateway.get("/shop/")
            assert (reply.status, reply.code) == (502, "upstream_unreachable")
            assert "may not be reached" in (await gateway.why(reply))["reason"], address
        await gateway.reload(api(f"'http://127.0.0.1:{port}/'"))
        assert (await gateway.get("/shop/hello")).status == 200, "a file is the operator's word"
