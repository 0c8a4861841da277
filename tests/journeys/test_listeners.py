"""Listeners with TLS, as an operator sets them up and as curl sees them; certificates that change while it serves."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from aiogate.errors import DiagnosticsFound
from aiogate.testing import running_gateway

APIS = {
    "apis.d/hello.yaml": "listen: /hello/\nauth: none\nplugins: [{mock: {body: anywhere}}]\n",
    "apis.d/a.yaml": "listen: {path: /hello/, host: a.example.com}\nauth: none\nplugins: [{mock: {body: at a}}]\n",
    "apis.d/b.yaml": "listen: {path: /hello/, host: b.example.com}\nauth: none\nplugins: [{mock: {body: at b}}]\n",
}
TLS = "listen: {address: 127.0.0.1:0, tls: {certificate: tls/server.pem, key: tls/server.key}}\n"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def put(folder: Path, name: str, certificate: trustme.LeafCert) -> None:
    """A certificate and its key under tls/, as an operator's tool would write them."""
    (folder / "tls").mkdir(exist_ok=True)
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    (folder / "tls" / f"{name}.pem").write_bytes(chain)
    (folder / "tls" / f"{name}.key").write_bytes(certificate.private_key_pem.bytes())


@pytest.fixture
def site(tmp_path: Path, authority: trustme.CA) -> Path:
    put(tmp_path, "server", authority.issue_cert("localhost"))
    put(tmp_path, "example", authority.issue_cert("*.example.com", "b.example.com"))
    (tmp_path / "tls" / "ca.pem").write_bytes(authority.cert_pem.bytes())
    return tmp_path


def gateway(site: Path, settings: str, apis: dict[str, str] = APIS, **further: Any) -> Any:
    # The listeners are those of the file: nothing overrides them.
    return running_gateway({**apis, "aiogate.yaml": settings}, folder=site, listen=None, **further)


def ports(gateway: Any) -> list[int]:
    return [int(address.rpartition(":")[2]) for address in gateway.gateway.listen_addresses]


def at(port: int, *names: str) -> Iterable[str]:
    """curl's arguments to find these names at the listener."""
    for name in names:
        yield from ("--resolve", f"{name}:{port}:127.0.0.1")


async def serial(port: int, name: str | None = None) -> int:
    """The serial number of the certificate that a new handshake gets."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name or "")
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    from cryptography.x509 import load_der_x509_certificate

    return load_der_x509_certificate(shown).serial_number


def serial_of(file: Path) -> int:
    from cryptography.x509 import load_pem_x509_certificate

    return load_pem_x509_certificate(file.read_bytes()).serial_number


async def test_several_listeners_and_certificates_by_name(site: Path, curl: Any) -> None:
    settings = """
        listen:
          - 127.0.0.1:0
          - address: 127.0.0.1:0
            tls:
              - {certificate: tls/server.pem, key: tls/server.key}
              - {certificate: tls/example.pem, key: tls/example.key}
        """
    async with gateway(site, settings) as running:
        plain, secure = ports(running)
        assert [url.partition(":")[0] for url in running.gateway.listen_urls] == ["http", "https"]
        assert (await curl(f"http://127.0.0.1:{plain}/hello/")).body == b"anywhere"
        names = ("localhost", "a.example.com", "b.example.com", "other.example.com")
        for name, body in zip(names, (b"anywhere", b"at a", b"at b", b"anywhere"), strict=True):
            got = await curl("--cacert", str(site / "tls/ca.pem"), *at(secure, name), f"https://{name}:{secure}/hello/")
            assert (got.status, got.body) == (200, body)
        for name, file in (("", "server"), ("localhost", "server"), ("A.EXAMPLE.com", "example"),
                           ("deep.a.example.com", "server"), ("unknown.test", "server")):  # fmt: skip
            assert await serial(secure, name) == serial_of(site / f"tls/{file}.pem"), name


async def test_the_host_header_routes_whatever_name_the_handshake_asked_for(site: Path, curl: Any) -> None:
    async with gateway(site, TLS) as running:
        (port,) = ports(running)
        for host, body in (("a.example.com", b"at a"), (f"b.example.com:{port}", b"at b"), ("localhost", b"anywhere")):
            got = await curl(
                "--cacert", str(site / "tls/ca.pem"), "-H", f"Host: {host}", f"https://localhost:{port}/hello/"
            )
            assert (got.status, got.body) == (200, body)


async def test_what_the_handshake_settles(site: Path, curl: Any) -> None:
    async with gateway(site, TLS) as running:
        (port,) = ports(running)
        context = ssl.create_default_context(cafile=str(site / "tls/ca.pem"))
        context.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        shown = writer.get_extra_info("ssl_object")
        assert (shown.selected_alpn_protocol(), shown.version()) == ("http/1.1", "TLSv1.3")
        writer.transport.abort()
        url = f"https://localhost:{port}/hello/"
        older = ("--cacert", str(site / "tls/ca.pem"), "--ciphers", "DEFAULT@SECLEVEL=0", url)
        assert (await curl("--tls-max", "1.2", *older)).status == 200
        assert (await curl("--tls-max", "1.1", "--tlsv1.0", *older)).code != 0
        weak = await curl("--tls-max", "1.2", "--cacert", str(site / "tls/ca.pem"), "--ciphers", "AES256-SHA", url)
        assert weak.code != 0


async def test_a_reload_takes_new_certificates_and_cuts_nobody(site: Path, authority: trustme.CA) -> None:
    async with gateway(site, TLS) as running:
        (port,) = ports(running)
        context = ssl.create_default_context(cafile=str(site / "tls/ca.pem"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")

        async def ask() -> bytes:
            writer.write(b"GET /hello/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            return head[:15] + await reader.readexactly(8)

        assert await ask() == b"HTTP/1.1 200 OKanywhere"
        before = serial_of(site / "tls/server.pem")
        verdict = await running.reload()
        assert (verdict.ok, verdict.changed.certificates) == (True, ())

        put(site, "server", authority.issue_cert("localhost"))
        assert await serial(port) == before
        verdict = await running.reload()
        assert (verdict.ok, len(verdict.changed.certificates)) == (True, 1)
        assert verdict.changed.restart_needed == ()
        after = await serial(port)
        assert after == serial_of(site / "tls/server.pem") != before

        # Half a change: the certificate is new, its key is not there yet.
        renewed = authority.issue_cert("localhost")
        (site / "tls/server.pem").write_bytes(renewed.cert_chain_pems[0].bytes())
        verdict = await running.reload(
            {"apis.d/new.yaml": "listen: /new/\nauth: none\nplugins: [{mock: {body: new}}]\n"}
        )
        told = [(Path(one.file).name, one.line, one.column, one.code) for one in verdict.diagnostics]
        assert (verdict.ok, told) == (False, [("aiogate.yaml", 1, 72, "certificate_invalid")])
        assert "server.key does not belong to server.pem" in verdict.diagnostics[0].message
        assert await serial(port) == after
        assert (await running.gateway.reload("again")).ok is False

        # Another file under the same address is a matter of a reload; another address is not.
        verdict = await running.reload({"aiogate.yaml": TLS.replace("tls/server", "tls/example")})
        assert (verdict.ok, verdict.changed.restart_needed) == (True, ())
        assert await serial(port) == serial_of(site / "tls/example.pem")
        moved = TLS.replace("0.1:0", "0.2:0").replace("tls/server", "tls/example")
        for change in (moved, "listen: 127.0.0.1:0\n"):
            verdict = await running.reload({"aiogate.yaml": change})
            assert (verdict.ok, verdict.changed.restart_needed) == (True, ("listen",))
            assert await serial(port) == serial_of(site / "tls/example.pem")
        assert await ask() == b"HTTP/1.1 200 OKanywhere"
        writer.transport.abort()


async def test_certificates_of_clients(site: Path, authority: trustme.CA, curl: Any) -> None:
    put(site, "client", authority.issue_cert("client@example.com"))
    put(site, "stranger", trustme.CA().issue_cert("client@example.com"))
    asked = TLS.replace("key: tls/server.key", "key: tls/server.key, client_ca: tls/ca.pem")
    async with gateway(site, asked) as running:
        (port,) = ports(running)
        ask = ("--cacert", str(site / "tls/ca.pem"), f"https://localhost:{port}/hello/")

        async def as_(name: str) -> Any:
            return await curl("--cert", str(site / f"tls/{name}.pem"), "--key", str(site / f"tls/{name}.key"), *ask)

        assert (await as_("client")).body == b"anywhere"
        assert (await as_("stranger")).code != 0
        assert (await curl(*ask)).code != 0
        optional = asked.replace("ca.pem}", "ca.pem, client_certificates: optional}")
        assert (await running.reload({"aiogate.yaml": optional})).ok
        assert (await as_("client")).body == b"anywhere"
        assert (await as_("stranger")).code != 0
        assert (await curl(*ask)).body == b"anywhere"


async def test_a_named_proxy_tells_who_the_client_is(site: Path, curl: Any) -> None:
    plugins = "[{ip_filter: {allow: [192.0.2.7]}}, {mock: {body: in}}]"
    apis = {"apis.d/hello.yaml": f"listen: /hello/\nauth: none\nplugins: {plugins}\n"}
    settings = """
        listen: {address: 127.0.0.1:0, proxy_protocol: true}
        trusted_proxies: [127.0.0.1]
        """
    async with gateway(site, settings, apis) as running:
        (port,) = ports(running)
        for source, status in (("192.0.2.7", b"200"), ("192.0.2.8", b"403")):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PROXY TCP4 %s 127.0.0.1 1 2\r\nGET /hello/ HTTP/1.1\r\nHost: a\r\n\r\n" % source.encode())
            assert (await reader.readline()).split()[1] == status
            writer.close()
        # curl's own address is not allowed in, and it can say so.
        assert (await curl("--haproxy-protocol", f"http://127.0.0.1:{port}/hello/")).status == 403


async def test_a_start_tells_every_mistake(site: Path) -> None:
    settings = """
        listen:
          - {address: 127.0.0.1:0, tls: {certificate: tls/server.pem, key: tls/example.key}}
          - {address: 127.0.0.1:0, tls: {certificate: tls/server.key, key: tls/server.pem}}
          - {address: 127.0.0.1:0, tls: {certificate: tls/server.pem, key: tls/nowhere.key, client_ca: tls}}
        """
    with pytest.raises(DiagnosticsFound) as caught:
        async with gateway(site, settings, {"apis.d/a.yaml": "listen: /a/\n"}):
            pass
    told = [f"{Path(one.file).name}:{one.line}:{one.column} {one.code}" for one in caught.value.diagnostics]
    assert [one for one in told if one.startswith("aiogate")] == [
        "aiogate.yaml:2:68 certificate_invalid",
        "aiogate.yaml:3:47 certificate_invalid",
        "aiogate.yaml:4:68 file_unreadable",
        "aiogate.yaml:4:96 file_unreadable",
    ]
    assert "a.yaml:1:1 auth_missing" in told


async def test_a_certificate_that_has_expired_is_a_warning(
    site: Path, authority: trustme.CA, curl: Any, caplog: pytest.LogCaptureFixture
) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    put(site, "server", authority.issue_cert("localhost", not_after=yesterday))
    async with gateway(site, TLS) as running:
        (port,) = ports(running)
        assert (await curl("--insecure", f"https://localhost:{port}/hello/")).body == b"anywhere"
    assert "server.pem has expired" in caplog.text
    command = [sys.executable, "-m", "aiogate", "check", "--json"]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=site, capture_output=True, text=True, timeout=30, check=False
    )
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"]) == (0, True)
    assert [(one["code"], one["severity"], one["line"]) for one in report["diagnostics"]] == [
        ("certificate_expired", "warning", 1)
    ]


@pytest.mark.slow
async def test_the_process_says_where_it_listens(site: Path) -> None:
    from aiogate.testing.gateway import write_files

    write_files(site, {**APIS, "aiogate.yaml": TLS + "control: {listen: 127.0.0.1:0}\n"})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aiogate", "serve", cwd=site, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        url = line.removeprefix("aiogate ready: gateway ").partition(",")[0]
        assert url.startswith("https://127.0.0.1:")
        run = json.loads((site / "var/run.json").read_text())
        assert run["listen"] == [url]
        status = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "aiogate", "status", cwd=site, stdout=asyncio.subprocess.PIPE
        )
        shown, _ = await status.communicate()
        assert url in shown.decode()
        assert run["control"] in shown.decode()
    finally:
        process.terminate()
        assert await process.wait() == 0


@pytest.mark.slow
async def test_no_handshake_fails_while_certificates_change(site: Path, authority: trustme.CA) -> None:
    async with gateway(site, TLS) as running:
        (port,) = ports(running)
        context = ssl.create_default_context(cafile=str(site / "tls/ca.pem"))
        answered, renewed = 0, 20
        seen: set[bytes] = set()
        done = asyncio.Event()

        async def client() -> None:
            nonlocal answered
            while not done.is_set():
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=context, server_hostname="localhost"
                )
                seen.add(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
                writer.write(b"GET /hello/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert (await reader.read()).endswith(b"anywhere")
                answered += 1
                writer.close()

        clients = [asyncio.ensure_future(client()) for _ in range(4)]
        for _ in range(renewed):
            put(site, "server", authority.issue_cert("localhost"))
            verdict = await running.reload()
            assert (verdict.ok, len(verdict.changed.certificates)) == (True, 1)
            before = answered
            while answered < before + 4 and not any(one.done() for one in clients):
                await asyncio.sleep(0.005)
        done.set()
        await asyncio.gather(*clients)
        assert len(seen) > renewed / 2
        assert answered >= 4 * renewed


@pytest.mark.slow
async def test_a_renewal_is_noticed_where_files_are_watched(site: Path, authority: trustme.CA) -> None:
    async with gateway(site, TLS, watch=True) as running:
        (port,) = ports(running)
        assert await serial(port) == serial_of(site / "tls/server.pem")
        put(site, "server", authority.issue_cert("localhost"))
        async with asyncio.timeout(15):
            while await serial(port) != serial_of(site / "tls/server.pem"):
                await asyncio.sleep(0.1)
