"""`/tyk/certs`, and sessions that are made for a certificate."""

from __future__ import annotations

import ssl
import stat
from hashlib import sha256

import pytest
import trustme

GRANT = {"access_rights": {"login": {}}}


@pytest.fixture(scope="module")
def leaf():
    return trustme.CA().issue_cert("a.example.com", common_name="anna")


@pytest.fixture
def pem(leaf):
    return leaf.cert_chain_pems[0].bytes().decode()


def fingerprint(pem):
    return sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


async def test_store_show_list_remove(control, leaf, pem):
    identifier = "default" + fingerprint(pem)
    added = await control.tyk("POST", "/certs?org_id=default", pem + leaf.private_key_pem.bytes().decode())
    assert (added.status, added.json) == (200, {"id": identifier, "status": "ok", "message": "Certificate added"})
    again = await control.tyk("POST", "/certs", pem)
    assert (again.status, again.json["message"]) == (403, f"Certificate with {identifier} id already exists")
    other = await control.tyk("POST", "/certs?org_id=acme", pem)
    assert other.json["id"] == "acme" + fingerprint(pem)

    assert (await control.tyk("GET", "/certs?org_id=default")).json == {"certs": [identifier]}
    assert len((await control.tyk("GET", "/certs")).json["certs"]) == 2
    (detailed,) = (await control.tyk("GET", "/certs?org_id=default&mode=detailed")).json["certs"]
    assert (detailed["id"], detailed["subject_cn"], detailed["dns_names"]) == (identifier, "anna", ["a.example.com"])
    shown = (await control.tyk("GET", f"/certs/{identifier}")).json
    assert (shown["fingerprint"], shown["has_private"], shown["is_ca"]) == (fingerprint(pem), True, False)
    several = (await control.tyk("GET", f"/certs/{identifier},{other.json['id']},nobody")).json
    assert [one["has_private"] for one in several] == [True, False]
    assert "PRIVATE" not in "".join(answer.text for answer in control.answers)
    for file in (control.folder / "var/certificates").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    assert (await control.tyk("DELETE", f"/certs/{identifier}")).json["message"] == "removed"
    for method in ("GET", "DELETE"):
        gone = await control.tyk(method, f"/certs/{identifier}")
        assert gone.status == 404
        assert gone.json["message"] == "Certificate with given SHA256 fingerprint not found"
    assert len((await control.tyk("GET", "/certs")).json["certs"]) == 1


@pytest.mark.parametrize("text", ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_what_is_no_certificate(control, text):
    answer = await control.tyk("POST", "/certs", text)
    assert (answer.status, answer.json["message"]) == (403, "Certificate is not PEM that can be read")


async def test_a_key_that_does_not_belong_or_cannot_be_read(control, leaf, pem):
    stranger = trustme.CA().issue_cert("b").private_key_pem.bytes().decode()
    broken = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    for key, message in ((stranger, "The private key does not belong to the certificate"),
                         (broken, "The private key cannot be read, or has a password")):  # fmt: skip
        answer = await control.tyk("POST", "/certs", pem + key)
        assert (answer.status, answer.json["message"]) == (403, message)
    answer = await control.tyk("POST", "/certs?org_id=../../x", pem)
    assert answer.status == 403
    assert not (control.folder / "var/certificates").exists()


async def test_a_session_for_a_certificate(control, pem):
    mark = fingerprint(pem)
    unknown = await control.tyk("POST", "/keys", {"certificate": "default" + mark, **GRANT})
    assert (unknown.status, unknown.json["message"]) == (400, f"certificate not found: default{mark}")
    for text in ("abc", "acme" + mark, "default" + mark[:-1]):
        wrong = await control.tyk("POST", "/keys", {"certificate": text, "org_id": "default", **GRANT})
        assert (wrong.status, wrong.json["message"]) == (400, f"invalid certificate ID: {text}")
    await control.tyk("POST", "/certs", pem)
    made = await control.tyk("POST", "/keys/create", {"certificate": "default" + mark, "alias": "anna", **GRANT})
    assert (made.status, made.json["key"]) == (200, "default" + mark)
    twice = await control.tyk("POST", "/keys", {"certificate": mark.upper(), **GRANT})
    assert twice.status == 400
    assert twice.json["message"].endswith(f"Key with given certificate already found:default{mark}")
    for name in ("default" + mark, mark, made.json["key_hash"]):
        shown = await control.tyk("GET", f"/keys/{name}")
        assert (shown.status, shown.json["certificate"], shown.json["alias"]) == (200, "default" + mark, "anna")
    changed = await control.tyk("PUT", f"/keys/{mark}", {"alias": "anna b", **GRANT})
    assert changed.status == 200
    assert (await control.tyk("GET", f"/keys/{mark}")).json["certificate"] == "default" + mark
    moved = await control.tyk("PUT", f"/keys/{mark}", {"certificate": "0" * 64, **GRANT})
    assert (moved.status, "does not change the certificate" in moved.json["message"]) == (400, True)
    named = await control.tyk("POST", "/keys/some-name", {"certificate": mark, **GRANT})
    assert (named.status, "named by its certificate" in named.json["message"]) == (400, True)
    assert (await control.tyk("DELETE", f"/keys/default{mark}")).status == 200
    assert (await control.tyk("GET", f"/keys/{mark}")).status == 404


async def test_a_session_has_one_kind_of_credential(control):
    for more in ({"basic_auth_data": {"password": "secret-enough"}}, {"hmac_enabled": True}):
        answer = await control.tyk("POST", "/keys", {"certificate": "0" * 64, **more, **GRANT})
        assert answer.status == 400
        assert any(one.startswith("certificate: ") for one in answer.json["details"])
