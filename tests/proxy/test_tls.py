"""What the files of a listener make: contexts, mistakes with their places, warnings."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from aiogate.config.listening import Listen
from aiogate.errors import Position
from aiogate.proxy.tls import TlsSet, prepare


@pytest.fixture(scope="module")
def leaf() -> trustme.LeafCert:
    return trustme.CA().issue_cert("localhost")


@pytest.fixture
def folder(tmp_path: Path, leaf: trustme.LeafCert) -> Path:
    (tmp_path / "a.pem").write_bytes(leaf.cert_chain_pems[0].bytes())
    (tmp_path / "a.key").write_bytes(leaf.private_key_pem.bytes())
    return tmp_path


def listen(folder: Path, **tls: object) -> list[Listen]:
    given = {"certificate": "a.pem", "key": "a.key", **tls}
    return [Listen.model_validate({"address": "127.0.0.1:1", "tls": given}).below(folder)]


def place(*path: str | int) -> Position:
    return Position(".".join(map(str, path)))


def test_unchanged_files_keep_their_context(folder: Path, leaf: trustme.LeafCert) -> None:
    first, mistakes = prepare(listen(folder), place, TlsSet())
    assert not mistakes
    (name,) = first.servers
    again, _ = prepare(listen(folder), place, first)
    assert again.servers[name] is first.servers[name]
    (folder / "a.pem").write_bytes(leaf.cert_chain_pems[0].bytes() + b"\n")
    changed, _ = prepare(listen(folder), place, first)
    assert changed.servers[name] is not first.servers[name]
    optional, _ = prepare(listen(folder, client_ca="a.pem", client_certificates="optional"), place, first)
    assert optional.servers[name].context.verify_mode is ssl.CERT_OPTIONAL
    required, _ = prepare(listen(folder, client_ca="a.pem"), place, optional)
    assert required.servers[name].context.verify_mode is ssl.CERT_REQUIRED


def test_a_key_with_a_password_asks_nobody(folder: Path, leaf: trustme.LeafCert) -> None:
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    for form in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL):
        secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"canary"))
        (folder / "a.key").write_bytes(secret)
        _, (mistake,) = prepare(listen(folder), place, TlsSet())
        assert (mistake.file, mistake.code) == ("listen.0.tls.key", "certificate_invalid")
        assert "is encrypted" in mistake.message


@pytest.mark.parametrize("spoiled", ["a.pem", "a.key", "ca.pem"])
def test_each_file_is_blamed_for_itself(folder: Path, spoiled: str) -> None:
    (folder / "ca.pem").write_bytes((folder / "a.pem").read_bytes())
    (folder / spoiled).write_text("-----BEGIN CERTIFICATE-----\nxyz\n-----END CERTIFICATE-----\n")
    _, (mistake,) = prepare(listen(folder, client_ca="ca.pem"), place, TlsSet())
    keys = {"a.pem": "certificate", "a.key": "key", "ca.pem": "client_ca"}
    assert mistake.file == f"listen.0.tls.{keys[spoiled]}"
    assert mistake.message.startswith(f"{spoiled} ")


def test_a_file_of_any_size_is_not_read(folder: Path) -> None:
    (folder / "a.pem").write_bytes(b"x" * (1024 * 1024 + 1))
    _, (mistake,) = prepare(listen(folder), place, TlsSet())
    assert mistake.code == "file_too_large"


@pytest.mark.parametrize("days", [-1, 1])
def test_a_certificate_that_is_not_valid_now_is_a_warning(folder: Path, days: int) -> None:
    now, later = datetime.now(UTC), timedelta(days=2)
    begin, end = (now - later, now - later / 2) if days < 0 else (now + later / 2, now + later)
    cert = trustme.CA().issue_cert("localhost", not_before=begin, not_after=end)
    (folder / "a.pem").write_bytes(cert.cert_chain_pems[0].bytes())
    (folder / "a.key").write_bytes(cert.private_key_pem.bytes())
    made, mistakes = prepare(listen(folder), place, TlsSet())
    assert (len(made.servers), mistakes) == (1, ())
    (warning,) = made.warnings
    assert (warning.code, warning.severity) == ("certificate_expired", "warning")
    assert ("has expired" if days < 0 else "is not valid yet") in warning.message
