"""Certificates as they are read, and the store's memory."""

from __future__ import annotations

import asyncio
import time

import trustme
from hypothesis import given
from hypothesis import strategies as st

from aiogate.credentials.certificates import (
    CertificateStore,
    ClientCertificate,
    FolderCertificates,
    Handshake,
    fingerprint_of,
    printable,
)


@given(st.text())
def test_a_name_is_one_line_of_ascii(text):
    shown = printable(text)
    assert shown.isascii()
    assert shown == "" or shown.isprintable()


@given(st.binary(max_size=200))
def test_what_cannot_be_read_has_never_been_valid(der):
    found = ClientCertificate.read(der)
    assert not found.not_before <= time.time() <= found.not_after
    assert len(found.fingerprint) == 64


def test_a_handshake_is_looked_into_once():
    class Made:
        asked = 0

        def getpeercert(self, *, binary_form):
            self.asked += 1
            return b""

    made = Made()
    handshake = Handshake(made)  # type: ignore[arg-type]
    assert made.asked == 0
    assert handshake.certificate is handshake.certificate is None
    assert made.asked == 1


def test_spellings_of_a_fingerprint():
    assert fingerprint_of(" AB:" + "ab" * 31 + " ") == "ab" * 32
    assert fingerprint_of("ab" * 31) == fingerprint_of("x" * 64) == ""


async def test_what_lies_in_the_folder_is_known_and_what_is_not_a_certificate_is_not(tmp_path):
    for name in (f"default.{'a' * 64}.pem", f"a.b.{'b' * 64}.pem", ".default.pem.123", "notes.txt"):
        (tmp_path / name).write_text("x")
    store = CertificateStore(FolderCertificates(tmp_path))
    assert store.ids() == [f"a.b{'b' * 64}", f"default{'a' * 64}"]
    assert store.ids("a.b") == [f"a.b{'b' * 64}"]
    assert store.ids("a") == []
    assert store.holds(f"default{'a' * 64}")
    assert await store.show(f"default{'a' * 64}") is None
    assert CertificateStore(FolderCertificates(tmp_path / "nowhere")).ids() == []


async def test_what_another_worker_does_holds_at_once(tmp_path):
    pem = trustme.CA().issue_cert("a").cert_chain_pems[0].bytes()
    mine, other = (
        CertificateStore(FolderCertificates(tmp_path / "certs")),
        CertificateStore(FolderCertificates(tmp_path / "certs")),
    )
    assert mine.ids() == other.ids() == []
    identifier = await other.add("default", pem)
    assert mine.holds(identifier)
    await asyncio.sleep(0.06)
    assert mine.holds(identifier)
    assert await other.remove(identifier)
    assert not mine.holds(identifier)
    assert not await mine.remove(identifier)
