"""Forged and strange JSON Web Tokens over a socket (rows 46 to 48)."""

from __future__ import annotations

import hmac
import json
from base64 import b64decode
from typing import Any

import pytest

from aiogate.testing import GatewayFixture, Reply, running_gateway
from aiogate.testing.clock import FakeClock
from tests.credentials.issuer import SECRET, key_for, part, pem, public_jwk, running_issuer, sign

NOW = 1_700_000_000
CLAIMS = {"sub": "anna", "exp": NOW + 60}


def serving(options: str) -> Any:
    options += "" if "from_session" in options else ", default_policies: gold"
    files = {
        "apis.d/api.yaml": f"listen: /api/\nauth: {{jwt: {{{options}}}}}\nplugins: [mock: hi]\n",
        "policies.d/gold.yaml": "access: {api: {}}",
    }
    return running_gateway(files, clock=FakeClock(NOW))


async def ask(gateway: GatewayFixture, text: str) -> Reply:
    return await gateway.get("/api/", headers={"Authorization": f"Bearer {text}"})


def forged(header: dict[str, Any], signature: str = "") -> str:
    return f"{part(json.dumps(header).encode())}.{part(json.dumps(CLAIMS).encode())}.{signature}"


def by_hmac(algorithm: str, secret: bytes) -> str:
    """Signed by what a library may refuse to take for a secret."""
    signed = forged({"alg": algorithm}).rstrip(".")
    return f"{signed}.{part(hmac.digest(secret, signed.encode(), algorithm.replace('HS', 'sha')))}"


@pytest.mark.parametrize("allowed", ["RS256", "[RS256, HS256]"])
async def test_46_a_token_without_a_signature_or_signed_by_what_everybody_knows(allowed: str) -> None:
    public = pem("RS256")
    der = b64decode("".join(public.splitlines()[1:-1]))
    jwk = public_jwk("RS256")
    async with serving(f"algorithms: {allowed}, key: {json.dumps(public)}") as gateway:
        good = sign(CLAIMS, "RS256")
        assert (await ask(gateway, good)).status == 200
        for algorithm in ("none", "None", "NONE", "nOnE", "", None, [], ["RS256"], {}, 0, True, "RS256 ", "rs256"):
            for signature in ("", good.rpartition(".")[2]):
                reply = await ask(gateway, forged({"alg": algorithm}, signature))
                assert (reply.status, reply.code) in ((403, "token_algorithm"), (403, "token_invalid")), algorithm
        assert (await ask(gateway, forged({"typ": "JWT"}))).status == 403
        assert (await ask(gateway, good.rpartition(".")[0] + ".")).status == 403
        # What a confused verifier would take for the secret of an HMAC.
        for secret in (public.encode(), public.strip().encode(), der, jwk["n"].encode(), json.dumps(jwk).encode()):
            for algorithm in ("HS256", "HS384", "HS512"):
                reply = await ask(gateway, by_hmac(algorithm, secret))
                assert (reply.status, reply.code) in ((403, "token_algorithm"), (403, "token_invalid"))
        assert (await ask(gateway, good)).status == 200


KIDS = [
    "../../../../dev/null",
    "' OR 1=1 --",
    "one\0",
    "\0",
    "one/../one",
    "ONE",
    " one",
    "k" * 6000,
    "\u2028",
    "${SECRET}",
    "",
]


async def test_47_a_kid_is_looked_up_and_nothing_else() -> None:
    two_keys = (public_jwk("ES256", kid="one"), public_jwk("ES256", 1, kid="two"))
    async with running_issuer(*two_keys) as issuer, serving(f"algorithms: ES256, jwks: '{issuer.jwks}'") as gateway:
        assert (await ask(gateway, sign(CLAIMS, "ES256", kid="one"))).status == 200
        for kid in [*KIDS, "two", 1, None, [], {"a": "one"}]:
            reply = await ask(gateway, sign(CLAIMS, "ES256", kid=kid))
            assert (reply.status, reply.code) == (403, "token_invalid"), kid
        assert issuer.asked == 1, "invented ones are not asked for within 30 s"


async def test_47_a_kid_that_names_a_key_is_a_name_and_nothing_else() -> None:
    async with serving("algorithms: HS256, from_session: true") as gateway:
        await gateway.create_key(name="one", apply_policies=["gold"], jwt_data={"secret": SECRET})
        assert (await ask(gateway, sign(CLAIMS, kid="one"))).status == 200
        for kid in filter(None, KIDS):
            assert (await ask(gateway, sign(CLAIMS, kid=kid))).code == "token_invalid", kid


@pytest.mark.parametrize("kid", ["one", "evil"])
async def test_47_no_header_leads_to_another_key(kid: str) -> None:
    evil = public_jwk("ES256", 1, kid="evil")
    async with running_issuer(public_jwk("ES256", kid="one")) as issuer, running_issuer(evil) as elsewhere:
        async with serving(f"algorithms: ES256, jwks: '{issuer.jwks}'") as gateway:
            assert (await ask(gateway, sign(CLAIMS, "ES256", kid="one"))).status == 200
            for name, value in (
                ("jku", elsewhere.jwks), ("x5u", elsewhere.jwks), ("jwk", evil), ("x5c", [part(b"evil")]),
                ("crit", ["jku"]), ("x5t", "evil"), ("iss", elsewhere.url),
            ):  # fmt: skip
                text = sign(CLAIMS, "ES256", key_for("ES256", 1), kid=kid, **{name: value})
                assert (await ask(gateway, text)).code == "token_invalid", name
        assert (issuer.asked, elsewhere.asked) == (1, 0)


@pytest.mark.parametrize("payload, status, code", [
    (f'{{"sub": "a", "exp": {NOW + 0.5}}}', 200, ""),
    (f'{{"sub": "a", "exp": {NOW - 9}}}', 200, ""),  # within the skew of 10 s
    (f'{{"sub": "a", "exp": {NOW - 10}}}', 401, "token_expired"),
    (f'{{"sub": "a", "exp": {NOW + 9}, "nbf": {NOW + 10}}}', 200, ""),
    (f'{{"sub": "a", "exp": {NOW + 9}, "nbf": {NOW + 11}}}', 401, "token_rejected"),
    (f'{{"sub": "a", "exp": {NOW + 9}, "iat": {NOW + 10}}}', 200, ""),
    (f'{{"sub": "a", "exp": {NOW + 9}, "iat": {NOW + 11}}}', 401, "token_rejected"),
    (f'{{"sub": "a", "exp": "{NOW + 9}"}}', 401, "token_rejected"),
    ('{"sub": "a", "exp": 1e400}', 401, "token_rejected"),
    ('{"sub": "a", "exp": -1e400}', 401, "token_rejected"),
    ('{"sub": "a", "exp": NaN}', 401, "token_rejected"),
    ('{"sub": "a", "exp": 1' + "0" * 400 + "}", 401, "token_rejected"),
    ('{"sub": "a", "exp": -1}', 401, "token_expired"),
    ('{"sub": "a", "exp": true}', 401, "token_rejected"),
    ('{"sub": "a", "exp": null}', 401, "token_rejected"),
    ('{"sub": "a", "exp": [99999999999]}', 401, "token_rejected"),
    ('{"sub": "a", "exp": {}}', 401, "token_rejected"),
    ('{"sub": "a"}', 401, "token_rejected"),
])  # fmt: skip
async def test_48_when_a_token_holds(payload: str, status: int, code: str) -> None:
    async with serving(f"algorithms: HS256, key: '{SECRET}', skew: 10s") as gateway:
        reply = await ask(gateway, sign(payload.encode()))
        assert reply.status == status, reply.text
        assert status == 200 or reply.code == code
