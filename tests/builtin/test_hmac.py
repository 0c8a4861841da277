"""The method `hmac`: signatures of requests, as Tyk's clients and draft-cavage-http-signatures make them (row 50)."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac as stdlib_hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aiogate import Problem
from aiogate.builtin import hmac
from aiogate.testing import FakeClock, GatewayFixture, Reply, make_exchange, run_authenticator, running_gateway
from tests.credentials.issuer import key_for, pem

NOW = 1_700_000_000
SECRET = "the secret of client-1"
TEXT = "Authorization field missing, malformed or invalid"

# draft-cavage-http-signatures-12, appendix C.
DRAFT_KEY = (
    "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDCFENGw33yGihy92pDjZQhl0C36rPJj+CvfSC8+q28hxA161QFNUd13wuCTUcq0Qd2qsBe/2hFyc2D"
    "CJJg0h1L78+6Z4UMR7EOcpfdUE9Hf3m/hs+FUR45uBJeDK1HSFHD8bHKD6kv8FPGfJTotc+2xjJwoYi+1hqp1fIekaxsyQIDAQAB"
)
DRAFT_HEADERS = {
    "Host": "example.com",
    "Date": "Sun, 05 Jan 2014 21:31:40 GMT",
    "Content-Type": "application/json",
    "Digest": "SHA-256=X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=",
    "Content-Length": "18",
}
DRAFT_BODY = b'{"hello": "world"}'
DRAFT = {
    "C.1": (
        "",
        (
            "SjWJWbWN7i0wzBvtPl8rbASWz5xQW6mcJmn+ibttBqtifLN7Sazz6m79cNfwwb8DMJ5cou1s7uEGKKCs+FLEEaDV5lp7q25WqS+lavg7T8hc0Gpp"
            "auB6hbgEKTwblDHYGEtbGmtdHgVCk9SuS13F0hZ8FD0k/5OxEPXe5WozsbM="
        ),
    ),
    "C.2": (
        'headers="(request-target) host date",',
        (
            "qdx+H7PHHDZgy4y/Ahn9Tny9V3GP6YgBPyUXMmoxWtLbHpUnXS2mg2+SbrQDMCJypxBLSPQR2aAjn7ndmw2iicw3HMbe8VfEdKFYRqzic+efkb3n"
            "ndiv/x1xSHDJWeSWkx3ButlYSuBskLu6kd9Fswtemr3lgdDEmn04swr2Os0="
        ),
    ),
    "C.3": (
        'headers="(request-target) host date content-type digest content-length",',
        (
            "vSdrb+dS3EceC9bcwHSo4MlyKS59iFIrhgYkz8+oVLEEzmYZZvRs8rgOp+63LEM3v+MFHB32NfpB2bEKBIvB1q52LaEUHFv120V01IL+TAD48XaE"
            "RZFukWgHoBTLMhYS2Gb51gWxpeIq8knRmPnYePbF5MOkR0Zkly4zKH7s1dE="
        ),
    ),
}


@pytest.mark.parametrize("name", DRAFT)
def test_the_drafts_examples_verify(name: str) -> None:
    headers, signature = DRAFT[name]
    read = hmac.read(f'keyId="Test",algorithm="rsa-sha256",{headers}signature="{signature}"')
    assert isinstance(read, hmac.Presented)
    exchange = make_exchange(
        "POST", "/foo", query="param=value&pet=dog", headers=DRAFT_HEADERS, body=DRAFT_BODY, host="example.com"
    )
    message = hmac.signing_string(exchange, read.headers, with_query=True)
    assert isinstance(message, bytes)
    key: Any = load_der_public_key(base64.b64decode(DRAFT_KEY))
    assert hmac.rsa_verifies(key, read.signature, message)
    assert not hmac.rsa_verifies(key, read.signature, message + b"x")
    assert hmac.digest_mistake(DRAFT_HEADERS["Digest"], DRAFT_BODY) == ""
    assert hmac.moment_of(DRAFT_HEADERS["Date"]) == 1388957500


def signed(
    headers: dict[str, str],
    covered: str = "(request-target) date",
    *,
    method: str = "get",
    target: str = "/api/",
    algorithm: str = "hmac-sha256",
    key: str = "client-1",
    secret: str = SECRET,
    escape: Any = quote,
) -> dict[str, str]:
    """These headers and the signature of a client over them."""
    lower = {name.lower(): value for name, value in headers.items()}
    date = "x-aux-date" if "x-aux-date" in lower else "date"
    lines = [
        f"(request-target): {method} {target}" if name == "(request-target)" else
        f"{date if name == 'date' else name}: {lower[date if name == 'date' else name]}"
        for name in covered.split()
    ]  # fmt: skip
    message = "\n".join(lines).encode()
    if algorithm == "rsa-sha256":
        made = key_for("RS256").private_key.sign(message, PKCS1v15(), hashes.SHA256())
    else:
        made = stdlib_hmac.digest(secret.encode(), message, algorithm.removeprefix("hmac-"))
    text = escape(base64.b64encode(made).decode())
    parameters = f'keyId="{key}",algorithm="{algorithm}",headers="{covered}",signature="{text}"'
    return {**headers, "Authorization": f"Signature {parameters}"}


def date(offset: float = 0) -> dict[str, str]:
    return {"Date": formatdate(NOW + offset, usegmt=True)}


@asynccontextmanager
async def api(options: str = "refuse_replays: false", auth: str = "", **record: Any) -> AsyncIterator[GatewayFixture]:
    auth = auth or f"{{hmac: {{{options}}}}}"
    files = {"apis.d/api.yaml": f"listen: /api/\nauth: {auth}\nplugins: [mock: welcome]\n"}
    async with running_gateway(files, clock=FakeClock(NOW)) as gateway:
        await gateway.create_key("api", name="client-1", hmac_enabled=True, **({"hmac_string": SECRET} | record))
        yield gateway


async def refused(gateway: GatewayFixture, reply: Reply, reason: str) -> None:
    assert (reply.status, reply.code, reply.error) == (400, "signature_invalid", TEXT), reply.text
    assert reason in (await gateway.why(reply))["reason"]


@pytest.mark.parametrize("algorithm", ["hmac-sha1", "hmac-sha256", "hmac-sha384", "hmac-sha512"])
async def test_a_signed_request_passes(algorithm: str) -> None:
    async with api("algorithms: [hmac-sha1, hmac-sha256, hmac-sha384, hmac-sha512], refuse_replays: false") as gateway:
        for escape in (quote, lambda text: text, lambda text: lower_escapes(quote(text, safe=""))):
            headers = signed(date(), algorithm=algorithm, escape=escape)
            assert (await gateway.get("/api/", headers=headers)).body == b"welcome"
        covered = "(request-target) host date x-more"
        more = {**date(), "Host": "a.example", "X-More": "1"}
        headers = signed(more, covered, algorithm=algorithm, target="/api/a/b?c=d&e=%20")
        assert (await gateway.get("/api/a/b?c=d&e=%20", headers=headers)).status == 200


def lower_escapes(text: str) -> str:
    return text.replace("%2B", "%2b").replace("%2F", "%2f").replace("%3D", "%3d")


async def test_what_is_refused_and_why() -> None:
    async with api() as gateway:
        await gateway.create_key("api", name="plain-key")
        await gateway.create_key("api", name="no-secret", hmac_enabled=True, rsa_certificate_id="cert-1")
        missing = await gateway.get("/api/")
        assert (missing.status, missing.code, missing.error) == (400, "auth_missing", TEXT)
        assert missing.headers["WWW-Authenticate"] == 'Signature realm="api", headers="(request-target) date"'
        assert (await gateway.get("/api/", key="client-1")).code == "auth_missing"
        for headers, reason in (
            (signed(date(), secret="wrong"), "not that of the key's hmac_string over: (request-target) date"),
            (signed(date(), target="/api/x"), "hmac_string over"),
            (signed(date(), method="post"), "hmac_string over"),
            (signed(date(), key="nobody"), "no record of that name"),
            (signed(date(), key="plain-key"), "of kind key"),
            (signed(date(), key="no-secret"), "has no hmac_string"),
            (signed(date(), "date"), "does not cover (request-target), which this API requires"),
            (signed({**date(), "X": "1"}, "(request-target) x"), "does not cover date"),
            (signed(date(), algorithm="hmac-sha1"), "the algorithm is 'hmac-sha1', allowed here: hmac-sha256"),
            (signed(date(), algorithm="rsa-sha256"), "rsa_certificate_id is none"),
            (signed(date(-301)), "the header date is 301 s behind the gateway's clock, the skew is 300 s"),
            (signed(date(301)), "301 s ahead of"),
            (signed({"Date": "soon"}), "the header date is no date: 'soon'"),
            ({**signed({**date(), "X": "1"}, "(request-target) date x"), "X": "2"}, "hmac_string over"),
            ({"Authorization": signed(date())["Authorization"]}, "the header date is missing"),
            ({"Authorization": "Signature"}, ""),
            ({"Authorization": "Signature x"}, "not a list"),
            ({"Authorization": signed(date())["Authorization"] + ',algorithm="hmac-sha512"', **date()}, "twice"),
            ({"Authorization": signed(date())["Authorization"] + ',signature="eA=="', **date()}, "twice"),
            ({"Authorization": signed(date())["Authorization"] + ',created="1"', **date()}, "unknown parameter"),
            ({"Authorization": 'Signature keyId="client-1",signature="eA=="', **date()}, "no parameter 'algorithm'"),
            (signed(date(), escape=lambda text: "%%%"), "not base64"),
            (signed(date(), "(request-target) date date"), "twice"),
        ):
            reply = await gateway.get("/api/", headers=headers)
            if reason:
                await refused(gateway, reply, reason)
            else:
                assert reply.status == 400


async def test_two_signatures_are_none() -> None:
    async with api("header: X-Signature, refuse_replays: false") as gateway:
        one = signed(date())["Authorization"]
        other = signed(date(), key="client-2")["Authorization"]
        assert (await gateway.get("/api/", headers={**date(), "X-Signature": one})).status == 200
        assert (await gateway.get("/api/", headers={**date(), "Authorization": one})).code == "auth_missing"

    kind, pairs = hmac.aiogate_middleware(), [("X-Signature", one), ("X-Signature", other), *date().items()]
    problem = await run_authenticator(kind, {"header": "X-Signature"}, make_exchange(headers=pairs))
    assert isinstance(problem, Problem)
    assert problem.code == "auth_ambiguous"


async def test_clocks_may_differ_by_the_skew_and_another_header_may_tell_the_date() -> None:
    async with api("skew: 60s, refuse_replays: false") as gateway:
        for offset, status in ((-60, 200), (60, 200), (-61, 400), (61, 400)):
            assert (await gateway.get("/api/", headers=signed(date(offset)))).status == status
            aux = {"X-Aux-Date": date(offset)["Date"], "Date": date(-9999)["Date"]}
            assert (await gateway.get("/api/", headers=signed(aux))).status == status
            covered = "(request-target) x-aux-date"
            assert (await gateway.get("/api/", headers=signed(aux, covered))).status == status
        numeric = {"Date": "Tue, 14 Nov 2023 23:13:20 +0100"}
        assert (await gateway.get("/api/", headers=signed(numeric))).status == 200
        covered_by_date = {**signed(date()), "X-Aux-Date": date()["Date"]}
        assert (await gateway.get("/api/", headers=covered_by_date)).status == 400


async def test_a_signature_is_used_once() -> None:
    async with api("skew: 60s") as gateway:
        clock = gateway.gateway.clock
        assert isinstance(clock, FakeClock)
        headers = signed(date())
        assert (await gateway.get("/api/", headers=signed(date(), secret="wrong"))).status == 400
        assert (await gateway.get("/api/", headers=headers)).status == 200
        for _ in range(3):
            await refused(gateway, await gateway.get("/api/", headers=headers), "used before, within the skew")
        escaped = signed(date(), escape=lambda text: lower_escapes(quote(text, safe="")))
        await refused(gateway, await gateway.get("/api/", headers=escaped), "used before")
        nonce = signed({**date(), "X-Nonce": "1"}, "(request-target) date x-nonce")
        assert (await gateway.get("/api/", headers=nonce)).status == 200
        clock.advance(59)
        await refused(gateway, await gateway.get("/api/", headers=headers), "used before")
        clock.advance(2)
        await refused(gateway, await gateway.get("/api/", headers=headers), "behind the gateway's clock")


async def test_a_signature_is_used_once_among_all_gateways(redis_server: Any) -> None:
    files = {"apis.d/api.yaml": "listen: /api/\nauth: hmac\nplugins: [mock: welcome]\n"}
    shared = {"store": redis_server.url, "redis__prefix": f"{uuid4().hex}:"}
    async with (
        running_gateway(files, clock=FakeClock(NOW), **shared) as one,
        running_gateway(files, clock=FakeClock(NOW), **shared) as other,
    ):
        await one.create_key("api", name="client-1", hmac_enabled=True, hmac_string=SECRET)
        headers = signed(date())
        assert (await one.get("/api/", headers=headers)).status == 200
        await refused(other, await other.get("/api/", headers=headers), "used before")


def digest_of(body: bytes, algorithm: str = "SHA-256") -> dict[str, str]:
    made = hashlib.new(algorithm.lower().replace("-", ""), body).digest()
    return {"Digest": f"{algorithm}={base64.b64encode(made).decode()}"}


async def test_a_digest_covers_the_body() -> None:
    covered = "(request-target) date digest"
    body = b'{"amount": 1}'
    for mode in ("optional", "required"):
        async with api(f"body_digest: {mode}, body_limit: 1KiB, refuse_replays: false") as gateway:

            async def post(
                headers: dict[str, str], names: str, data: bytes = body, gateway: GatewayFixture = gateway
            ) -> Reply:
                return await gateway.request("POST", "/api/", headers=signed(headers, names, method="post"), data=data)

            for algorithm in ("SHA-256", "SHA-512", "sha-256"):
                assert (await post({**date(), **digest_of(body, algorithm)}, covered)).status == 200
            await refused(
                gateway, await post({**date(), **digest_of(b"")}, covered), "another SHA-256 than the body of 13"
            )
            await refused(gateway, await post({**date(), "Digest": "MD5=eA=="}, covered), "neither SHA-256 nor SHA-512")
            await refused(gateway, await post({**date(), "Digest": "x"}, covered), "not a list of ALGORITHM")
            both = {"Digest": f"{digest_of(body)['Digest']}, {digest_of(b'', 'SHA-512')['Digest']}"}
            await refused(gateway, await post({**date(), **both}, covered), "another SHA-512")
            large = b"x" * 1025
            assert (await post({**date(), **digest_of(large)}, covered, large)).status == 413
            without = await post(date(), "(request-target) date")
            assert (without.status == 200) == (mode == "optional")
            if mode == "required":
                await refused(gateway, without, "does not cover digest, which this API requires")
            assert (await gateway.get("/api/", headers=signed(date()))).status == 200
    async with api("body_digest: off, refuse_replays: false") as gateway:
        headers = signed({**date(), **digest_of(b"")}, covered, method="post")
        assert (await gateway.request("POST", "/api/", headers=headers, data=body)).status == 200


async def test_rsa_signatures() -> None:
    certificate = json.dumps(pem("RS256"))
    options = f"algorithms: rsa-sha256, refuse_replays: false, certificates: {{cert-1: {certificate}}}"
    async with api(options) as gateway:
        for name, more in (("rsa-1", {"rsa_certificate_id": "cert-1"}), ("rsa-2", {"rsa_certificate_id": "other"})):
            await gateway.create_key("api", name=name, enable_http_signature_validation=True, **more)
        headers = signed(date(), algorithm="rsa-sha256", key="rsa-1")
        assert (await gateway.get("/api/", headers=headers)).status == 200
        for key, reason in (("rsa-2", "is other; no RSA certificate of that id"), ("client-1", "is none")):
            reply = await gateway.get("/api/", headers=signed(date(), algorithm="rsa-sha256", key=key))
            await refused(gateway, reply, reason)
        forged = signed(date(), key="rsa-1", secret=pem("RS256"))
        await refused(gateway, await gateway.get("/api/", headers=forged), "the algorithm is 'hmac-sha256'")
        wrong = signed(date(), algorithm="rsa-sha256", key="rsa-1", target="/other/")
        await refused(gateway, await gateway.get("/api/", headers=wrong), "RSA signature is not that of")


def certificate() -> str:
    """A certificate of the key that signs in these tests."""
    key = key_for("RS256").private_key
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "client")])
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


async def test_rsa_signatures_by_a_stored_certificate() -> None:
    async with api("algorithms: rsa-sha256, refuse_replays: false") as gateway:
        stored = await gateway.tyk("POST", "/tyk/certs?org_id=default", data=certificate())
        identifier = stored.json["id"]
        more = {"enable_http_signature_validation": True, "rsa_certificate_id": identifier}
        await gateway.create_key("api", name="rsa-1", **more)
        headers = signed(date(), algorithm="rsa-sha256", key="rsa-1")
        for _ in range(2):
            assert (await gateway.get("/api/", headers=headers)).status == 200
        assert (await gateway.tyk("DELETE", f"/tyk/certs/{identifier}")).status == 200
        await refused(gateway, await gateway.get("/api/", headers=headers), f"is {identifier}; no RSA certificate")


async def test_as_tyk_signs() -> None:
    """Tyk signs the decoded path alone, looks at no date unless told to, and lets the client choose what it covers."""
    async with api("skew: null, refuse_replays: false, require: [], target: path, algorithms: hmac-sha1") as gateway:
        headers = signed(date(-99999), "date", algorithm="hmac-sha1")
        assert (await gateway.get("/api/any?thing", headers=headers)).status == 200
        covered = "(request-target) date"
        headers = signed(date(), covered, algorithm="hmac-sha1", target="/api/a b")
        assert (await gateway.get("/api/a%20b?c=d", headers=headers)).status == 200


async def test_a_secret_is_made_and_told_once() -> None:
    async with api("refuse_replays: false") as gateway:
        right = {"access_rights": {"api": {}}, "hmac_enabled": True}
        made = (await gateway.tyk("POST", "/tyk/keys/create", right)).json
        assert len(base64.b64decode(made["hmac_string"])) == 32
        headers = signed(date(), key=made["key"], secret=made["hmac_string"])
        assert (await gateway.get("/api/", headers=headers)).status == 200
        assert (await gateway.get("/api/", key=made["key"])).status == 400, "its name is no token"
        shown = (await gateway.tyk("GET", f"/tyk/keys/{made['key_hash']}?hashed=1")).json
        assert (shown["hmac_enabled"], shown["hmac_string"]) == (True, "")
        changed = await gateway.tyk("PUT", f"/tyk/keys/{made['key_hash']}?hashed=1", {**right, "alias": "new"})
        assert (changed.status, "hmac_string" in changed.json) == (200, False)
        assert (await gateway.get("/api/", headers=headers)).status == 200, "the secret stays"
        given = await gateway.tyk("POST", "/tyk/keys/client-9", {**right, "hmac_string": "mine"})
        assert "hmac_string" not in given.json
        named = (await gateway.dashboard("POST", "/api/keys/client-10", right)).json
        assert len(base64.b64decode(named["data"]["hmac_string"])) == 32
        await gateway.tyk("DELETE", f"/tyk/keys/{made['key_hash']}?hashed=1")
        assert (await gateway.get("/api/", headers=headers)).status == 400


async def test_beside_other_methods_it_takes_the_scheme_signature() -> None:
    async with api("", "[key, basic, hmac: {refuse_replays: false}]") as gateway:
        key = await gateway.create_key("api")
        await gateway.create_user("ann", "secret", "api")
        assert (await gateway.get("/api/", headers=signed(date()))).status == 200
        assert (await gateway.get("/api/", key=key)).status == 200
        assert (await gateway.get("/api/", user=("ann", "secret"))).status == 200
        assert (await gateway.get("/api/", key="client-1")).code == "key_unknown"
    async with api("", "{all: [key: {header: X-Key}, hmac: {refuse_replays: false}]}") as gateway:
        key = await gateway.create_key("api")
        assert (await gateway.get("/api/", headers={"X-Key": key, **signed(date())})).status == 200
        assert (await gateway.get("/api/", headers={"X-Key": key})).error == TEXT


@given(st.text(max_size=80))
def test_no_signature_is_too_strange(text: str) -> None:
    assert isinstance(hmac.read(text), (str, hmac.Presented))
    assert isinstance(hmac.digest_mistake(text, b""), str)
    hmac.moment_of(text)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"algorithms": ["md5"]}, "hmac-sha1"),
        ({"skew": None}, "replays can be told only within a `skew`"),
        ({"skew": "0s"}, "greater than 0"),
        ({"skew": "2h"}, "3600"),
        ({"body_digest": "yes"}, "optional"),
    ],
)
def test_configurations_that_make_no_sense(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        hmac.Config.model_validate(options)
    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["x", pem("ES256"), "-----BEGIN CERTIFICATE-----"])
def test_certificates_that_cannot_be_used(text: str) -> None:
    with pytest.raises(ValueError, match="certificate c "):
        hmac.rsa_key("c", text)
