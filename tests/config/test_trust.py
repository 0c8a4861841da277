"""The files under `upstream.tls`: what is wrong with them, and when they have changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from aiogate.config.definition import Definition, read_definition
from aiogate.config.source import read_source
from aiogate.config.trust import unchanged
from aiogate.errors import Diagnostic, DiagnosticsFound

AUTHORITY = trustme.CA()
ONE, OTHER = AUTHORITY.issue_cert("one@example.org"), AUTHORITY.issue_cert("other@example.org")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    ONE.cert_chain_pems[0].write_to_path(tmp_path / "one.crt")
    ONE.private_key_pem.write_to_path(tmp_path / "one.key")
    ONE.private_key_and_cert_chain_pem.write_to_path(tmp_path / "one.pem")
    OTHER.private_key_pem.write_to_path(tmp_path / "other.key")
    key = load_pem_private_key(ONE.private_key_pem.bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "locked.key").write_bytes(locked)
    (tmp_path / "empty.pem").write_text("")
    (tmp_path / "text.pem").write_text("not a certificate")
    (tmp_path / "large.pem").write_bytes(b" " * (1024 * 1024 + 1))
    return tmp_path


def read(folder: Path, tls: str, rest: str = "") -> Definition:
    text = f"listen: /a/\nauth: none\nupstream: {{url: 'https://up/', tls: {tls}}}\n{rest}"
    return read_definition(read_source(str(folder / "a.yaml"), text.encode()), "file")


def mistakes(folder: Path, tls: str) -> list[Diagnostic]:
    with pytest.raises(DiagnosticsFound) as caught:
        read(folder, tls)
    return list(caught.value.diagnostics)


@pytest.mark.parametrize(
    "tls",
    [
        "{ca: ca.pem}",
        "{certificate: one.pem}",
        "{certificate: one.crt, key: one.key}",
        "{certificate: one.pem, verify: false}",
        "{server_name: other.example, min_version: 1.3}",
        "{}",
    ],
)
def test_what_can_be_used(folder: Path, tls: str) -> None:
    assert read(folder, tls).trust[""].digest


@pytest.mark.parametrize(
    "tls,path,words",
    [
        ("{ca: gone.pem}", "ca", "`gone.pem` cannot be read: No such file"),
        ("{ca: .}", "ca", "cannot be read"),
        ("{ca: large.pem}", "ca", "larger than 1 MiB"),
        ("{ca: empty.pem}", "ca", "holds no certificate that can be used"),
        ("{ca: text.pem}", "ca", "holds no certificate that can be used"),
        ("{certificate: one.key}", "certificate", "holds no certificate that can be used"),
        ("{certificate: one.crt}", "certificate", "has no key that belongs to it"),
        ("{certificate: one.crt, key: other.key}", "key", "key values mismatch"),
        ("{certificate: one.crt, key: locked.key}", "key", "asks for a password"),
        ("{certificate: one.crt, key: text.pem}", "key", "has no certificate that belongs to it"),
    ],
)
def test_what_cannot(folder: Path, tls: str, path: str, words: str) -> None:
    (found,) = mistakes(folder, tls)
    assert (found.code, found.path, found.line) == ("certificate_invalid", f"upstream.tls.{path}", 3)
    assert words in found.message
    assert "ssl.c" not in found.message


def test_all_mistakes_are_told_at_once(folder: Path) -> None:
    found = mistakes(folder, "{ca: gone.pem, certificate: gone.crt, key: gone.key}")
    assert [one.path.rpartition(".")[2] for one in found] == ["ca", "certificate", "key"]


def test_equal_files_are_equal_trust_and_share_what_is_costly(folder: Path) -> None:
    one, other = read(folder, "{ca: ca.pem}").trust[""], read(folder, f"{{ca: {folder}/ca.pem}}").trust[""]
    assert one == other
    assert one.context is other.context
    named = read(folder, "{ca: ca.pem, server_name: other.example}").trust[""]
    assert named != one
    assert named.context is one.context
    assert read(folder, "{ca: ca.pem, min_version: '1.3'}").trust[""] != one
    assert read(folder, "{ca: ca.pem, certificate: one.pem}").trust[""] != one


def test_a_file_with_other_contents_is_another_definition(folder: Path) -> None:
    first = read(folder, "{ca: ca.pem}")
    assert unchanged(first.files)
    assert read(folder, "{ca: ca.pem}").digest == first.digest
    trustme.CA().cert_pem.write_to_path(folder / "ca.pem")
    assert not unchanged(first.files)
    second = read(folder, "{ca: ca.pem}")
    assert second.digest != first.digest
    assert second.trust[""] != first.trust[""]
    (folder / "ca.pem").unlink()
    assert not unchanged(second.files)


def test_no_verification_is_a_warning(folder: Path) -> None:
    rest = "versions: {by: path, list: {v1: {upstream: {url: 'https://up/', tls: {verify: false}}}}}"
    found = read(folder, "{verify: false}", rest).warnings
    assert [(one.code, one.severity, one.line, one.path) for one in found] == [
        ("tls_unverified", "warning", 3, "upstream.tls.verify"),
        ("tls_unverified", "warning", 4, "versions.list.v1.upstream.tls.verify"),
    ]
    assert read(folder, "{ca: ca.pem}").warnings == ()


def test_each_version_has_its_own(folder: Path) -> None:
    rest = "versions: {by: path, list: {v1: {upstream: {url: 'https://up/', tls: {ca: ca.pem}}}, v2: }}"
    trust = read(folder, "{certificate: one.pem}", rest).trust
    assert trust.keys() == {"", "v1"}
    assert trust[""] != trust["v1"]
