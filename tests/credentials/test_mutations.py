"""No mutation of a valid credential is accepted, whoever came in with the valid one just before.

Basic auth has its test in `tests/builtin/test_basic.py`, signed tokens by every algorithm in `test_jose.py`.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import tempfile
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from hmac import digest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aiogate.builtin import hmac, introspection, jwt, key, mtls, oidc
from aiogate.chain.contracts import Authenticator, AuthenticatorKind, BuildContext, Services
from aiogate.credentials.certificates import CertificateRefused, CertificateStore, ClientCertificate, FolderCertificates
from aiogate.credentials.tokens import Tokens
from aiogate.domain.account import kind_of, stored_name
from aiogate.domain.policy import Policy, PolicySet
from aiogate.domain.session import AccessDefinition, Record, Session, parse_document
from aiogate.testing import FakeClock, make_exchange, make_services, run_authenticator
from aiogate.testing.steps import make_definition
from tests.credentials.issuer import SECRET, public_jwk, sign

NOW = 1_800_000_000
ISSUER = "https://login.example.com/"
CHARACTERS = 'ABCXYZabcxyz0189-_=.+/:,"% \t\u00e9'
"""What may stand in a credential, and what parsers stumble over."""


@st.composite
def mutations(draw: st.DrawFn, text: str) -> str:
    """The text with one to three changes; never itself."""
    value = text
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(value)))
        other = draw(st.sampled_from(CHARACTERS))
        until = draw(st.integers(at, len(value)))
        value = draw(
            st.sampled_from(
                (
                    value[:at] + other + value[at + 1 :],
                    value[:at] + other + value[at:],
                    value[:at] + value[at + 1 :],
                    value[:at] + value[at : at + 1].swapcase() + value[at + 1 :],
                    value[:at] + value[at + 1 : at + 2] + value[at : at + 1] + value[at + 2 :],
                    value[:at],
                    value[:until] + value[at:until] + value[until:],
                )
            )
        )
    return value


@dataclass(frozen=True)
class Method:
    """A method whose credential is a header: how it is configured, and what is sent."""

    kind: AuthenticatorKind
    config: Mapping[str, Any]
    valid: str
    scheme: str
    record: Mapping[str, Any] | None = None
    name: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    same: Callable[[str], object] = str.strip
    """What a text comes to; texts that come to the same are one credential in two spellings."""


CLAIMS = {"iss": ISSUER, "aud": "web", "sub": "anna", "exp": NOW + 600, "iat": NOW}
DATE = {"Date": formatdate(NOW, usegmt=True)}
MADE = digest(SECRET.encode(), f"(request-target): get /orders\ndate: {DATE['Date']}".encode(), "sha256")
SIGNED = 'keyId="client-1",algorithm="hmac-sha256",headers="(request-target) date",signature="SIGNATURE"'.replace(
    "SIGNATURE", b64encode(MADE).decode()
)
METHODS = {
    "key": Method(
        key.aiogate_middleware(), {}, "default5f2f1f3c9c8e4b0d", "Bearer ", record={}, name="default5f2f1f3c9c8e4b0d"
    ),
    "jwt": Method(
        jwt.aiogate_middleware(),
        {"algorithms": "HS256", "key": SECRET, "default_policies": "gold"},
        sign(CLAIMS),
        "Bearer ",
    ),
    "own": Method(
        jwt.aiogate_middleware(),
        {"algorithms": "HS256", "from_session": True},
        sign(CLAIMS, kid="partner"),
        "Bearer ",
        record={"jwt_data": {"secret": SECRET}},
        name="partner",
    ),
    "oidc": Method(
        oidc.aiogate_middleware(),
        {"providers": [{"issuer": ISSUER, "clients": {"web": "gold"}}]},
        sign(CLAIMS, "ES256", kid="one"),
        "Bearer ",
    ),
    "introspection": Method(
        introspection.aiogate_middleware(),
        {"url": ISSUER, "client_id": "a", "client_secret": "b", "default_policies": "gold"},
        "2YotnFZFEjr1zCsicMWpAA",
        "Bearer ",
    ),
    "hmac": Method(
        hmac.aiogate_middleware(),
        {"refuse_replays": False},
        SIGNED,
        "Signature ",
        record={"hmac_enabled": True, "hmac_string": SECRET},
        name="client-1",
        headers=DATE,
        same=hmac.read,
    ),
}


@dataclass
class Door:
    """A method that is in use: who sent the valid credential was let in."""

    method: Method
    services: Services
    authenticator: Authenticator
    policies: PolicySet

    async def lets_in(self, text: str, **changed: Any) -> bool:
        headers = {**self.method.headers, "Authorization": self.method.scheme + text, **changed.pop("headers", {})}
        request = {"method": "GET", "path": "/orders", **changed}
        exchange = make_exchange(**request, headers=headers, policies=self.policies)
        answer = self.authenticator.authenticate(exchange)
        return isinstance(await answer if isinstance(answer, Awaitable) else answer, Session)


async def opened(method: Method) -> Door:
    services = make_services(FakeClock(NOW))
    definition = make_definition()
    context = BuildContext(definition, "Default", services, definition.source.locate(()), (method.kind.name,))
    if method.record is not None:
        document = parse_document({"access_rights": {"test": {}}, **method.record})
        stored = document.changed(org_id="default").stored()
        record = Record(stored_name("default", method.name), "default", kind_of(document), "", stored)
        await services.sessions.put(record)
    authenticator = method.kind.build(method.kind.config.model_validate(method.config), context)
    return Door(
        method, services, authenticator, PolicySet([Policy("gold", org="default", access={"test": AccessDefinition()})])
    )


@pytest.fixture
def nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's keys and the introspection server are here."""

    async def ask(headers: object, form: Mapping[str, str], most: int, within: float) -> Mapping[str, Any]:
        return {"active": form["token"] == METHODS["introspection"].valid, "sub": "anna"}

    keys = json.dumps({"keys": [public_jwk("ES256", kid="one")]})
    monkeypatch.setattr(Tokens, "asker", lambda self, url: ask)
    monkeypatch.setattr(Tokens, "discovered_keys", lambda self, *_: self.written_keys(keys, ["ES256"]))


@pytest.mark.usefixtures("nothing_is_asked")
@pytest.mark.parametrize("name", METHODS)
def test_no_mutation_of_a_credential_is_accepted(name: str) -> None:
    method = METHODS[name]
    with asyncio.Runner() as runner:
        door = runner.run(opened(method))
        assert runner.run(door.lets_in(method.valid))
        valid = method.same(method.valid)

        @settings(max_examples=300, deadline=None)
        @given(mutations(method.valid))
        def check(text: str) -> None:
            assert runner.run(door.lets_in(text)) <= (method.same(text) == valid), text

        check()
        assert runner.run(door.lets_in(method.valid)), "the valid one still is"


@given(
    st.sampled_from(["method", "path", "query", "Date"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30),
)
@settings(max_examples=200, deadline=None)
def test_a_signature_is_for_one_request(part: str, other: str) -> None:
    value = {"method": "GET", "path": "/orders", "query": "", "Date": DATE["Date"]}[part]
    changed = f"/{other}" if part == "path" else value + other if part == "Date" else other
    sent = {"headers": {"Date": changed}} if part == "Date" else {part: changed}

    async def both() -> tuple[bool, bool]:
        door = await opened(METHODS["hmac"])
        return await door.lets_in(SIGNED), await door.lets_in(SIGNED, **sent)

    assert asyncio.run(both()) == (True, changed.upper() == "GET" if part == "method" else changed == value)


# Certificates


def certificate() -> ClientCertificate:
    made = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("anna@example.com", key_type=trustme.KeyType.ECDSA)
    return ClientCertificate.read(ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode()))


ANNA = certificate()


def admitted(allowed: str, shown: ClientCertificate) -> bool:
    services = make_services(FakeClock(ANNA.not_before + 1))
    handshake: Any = SimpleNamespace(certificate=shown)
    exchange = make_exchange(scheme="https", handshake=handshake)
    kind = mtls.aiogate_middleware()
    return isinstance(asyncio.run(run_authenticator(kind, {"allow": [allowed]}, exchange, services=services)), Session)


@given(mutations(ANNA.fingerprint))
@settings(max_examples=200, deadline=None)
def test_no_mutation_of_a_fingerprint_lets_the_certificate_in(text: str) -> None:
    try:
        found = admitted(text, ANNA)
    except ValidationError:
        return
    assert found == (text.replace(":", "").strip().lower() == ANNA.fingerprint)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_mutation_of_a_certificate_has_its_fingerprint_or_breaks_its_reader(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(ANNA.der) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    other = ANNA.der[:at] + bytes([ANNA.der[at] ^ bit]) + ANNA.der[at + 1 :]
    assert admitted(ANNA.fingerprint, ANNA)
    assert not admitted(ANNA.fingerprint, ClientCertificate.read(other))
    with tempfile.TemporaryDirectory() as made:
        store = CertificateStore(FolderCertificates(Path(made)))
        try:
            identifier = asyncio.run(store.add("default", ssl.DER_cert_to_PEM_cert(other).encode()))
        except CertificateRefused:
            return
        assert asyncio.run(store.show(identifier)) is not None
        assert asyncio.run(store.public_key(identifier)) is not None
