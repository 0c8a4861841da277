"""The method `oidc`: ID tokens of providers, by their discovery documents, for clients with policies of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from aiogate.builtin import oidc
from aiogate.testing import FakeClock, GatewayFixture, Reply, running_gateway
from tests.credentials.issuer import SECRET, Issuer, key_for, public_jwk, running_issuer, sign

NOW = 1_700_000_000


@asynccontextmanager
async def api(issuer: Issuer, options: str = "", auth: str = "") -> AsyncIterator[GatewayFixture]:
    method = f"oidc: {{providers: [{{issuer: '{issuer.url}', clients: {{web: gold, app: silver}}}}]{options}}}"
    auth = auth.replace("METHOD", method) or f"{{{method}}}"
    files = {
        "apis.d/api.yaml": f"listen: /api/\nauth: {auth}\nplugins: [mock: welcome]\n",
        "policies.d/gold.yaml": "{access: {api: {}}, quota: 5/1h}",
        "policies.d/silver.yaml": "{access: {api: {}}, quota: 1/1h}",
    }
    async with running_gateway(files, clock=FakeClock(NOW)) as gateway:
        yield gateway


@asynccontextmanager
async def provider() -> AsyncIterator[Issuer]:
    async with running_issuer(public_jwk("RS256", kid="one")) as issuer:
        yield issuer


def token(issuer: Issuer, algorithm: str = "RS256", key: Any = None, kid: str = "one", **claims: Any) -> str:
    said = {"iss": issuer.url, "aud": "web", "sub": "anna", "exp": NOW + 60, "iat": NOW} | claims
    said = {name: value for name, value in said.items() if value is not None}
    return sign(said, algorithm, key or key_for("RS256"), kid=kid)


async def ask(gateway: GatewayFixture, text: str) -> Reply:
    return await gateway.get("/api/", headers={"Authorization": f"Bearer {text}"})


async def test_an_id_token_opens_what_its_client_opens() -> None:
    async with provider() as issuer, api(issuer) as gateway:
        reply = await ask(gateway, token(issuer))
        assert (reply.status, reply.headers["X-RateLimit-Limit"], issuer.asked) == (200, "5", 2)
        for claims in (
            {"aud": ["web"]},
            {"aud": ["web", "app"], "azp": "web"},
            {"aud": ["x", "web"]},
            {"iat": NOW - 9},
        ):
            assert (await ask(gateway, token(issuer, **claims))).headers["X-RateLimit-Limit"] == "5"
        assert (await ask(gateway, token(issuer, iat=NOW - 5))).code == "quota_exceeded", "one person, one count"
        for _ in range(2):
            other = await ask(gateway, token(issuer, sub="ben", aud="app"))
        assert (other.code, other.headers["X-RateLimit-Limit"]) == ("quota_exceeded", "1")
        assert issuer.asked == 2


async def test_what_is_refused_and_why() -> None:
    async with provider() as issuer, api(issuer) as gateway:
        missing = await gateway.get("/api/")
        assert (missing.status, missing.code, missing.error) == (401, "auth_missing", "Key not authorised")
        for text, code, reason in (
            ("x", "token_invalid", "the token has 1 parts"),
            (token(issuer, iss="http://evil.example"), "token_invalid", "of the issuer 'http://evil.example'"),
            (token(issuer, iss=issuer.url + "/"), "token_invalid", "accepted: http"),
            (token(issuer, key=key_for("RS256", 1)), "token_invalid", "signature"),
            (token(issuer, kid="other"), "token_invalid", "no key has the kid 'other'"),
            (token(issuer, "HS256", key_for("HS256")), "token_algorithm", "allowed here: ES256, EdDSA, PS256, RS256"),
            (token(issuer, exp=NOW), "token_expired", "`exp`"),
            (token(issuer, exp=None), "token_rejected", "`exp`"),
            (token(issuer, iat=None), "token_rejected", "`iat`"),
            (token(issuer, aud="other"), "token_rejected", "`aud` is 'other'"),
            (token(issuer, aud=["web", "app"]), "token_rejected", "`aud` names 2 of the clients"),
            (token(issuer, aud=["web", {}], azp="other"), "token_rejected", "`azp` is 'other'"),
            (token(issuer, sub=None), "token_identity", "no claim `sub`"),
        ):
            reply = await ask(gateway, text)
            assert (reply.status, reply.code, reply.error) == (401, code, "Key not authorised"), reply.text
            assert reply.headers["WWW-Authenticate"] == 'Bearer realm="api", error="invalid_token"'
            assert reason in (await gateway.why(reply))["reason"]
        assert issuer.asked == 2
        gateway.remove("policies.d/gold.yaml")
        assert (await gateway.reload()).ok
        reply = await ask(gateway, token(issuer))
        assert (reply.status, reply.code, reply.error) == (
            403, "token_policy", "Key not authorized: no matching policy",
        )  # fmt: skip
        assert "client web: policy not found: gold" in (await gateway.why(reply))["reason"]


async def test_clients_may_be_counted_apart() -> None:
    async with provider() as issuer, api(issuer, ", segregate_by_client: true") as gateway:
        assert (await ask(gateway, token(issuer, aud="app"))).status == 200
        assert (await ask(gateway, token(issuer, aud="app"))).code == "quota_exceeded"
        assert (await ask(gateway, token(issuer, aud="web"))).status == 200


@pytest.mark.parametrize(
    "discovery, reason",
    [
        ({"issuer": "http://evil.example"}, "says that the issuer is 'http://evil.example'"),
        ({"jwks_uri": None}, "cannot be asked"),
        ({"jwks_uri": "file:///etc/passwd"}, "cannot be asked"),
        ({"jwks_uri": "http://169.254.169.254/"}, "cannot be asked"),
    ],
)
async def test_a_discovery_document_that_is_not_the_providers(discovery: dict[str, Any], reason: str) -> None:
    async with provider() as issuer, api(issuer) as gateway:
        issuer.discovery = discovery
        reply = await ask(gateway, token(issuer))
        assert (reply.status, reply.code) == (503, "issuer_unavailable")
        assert reason in (await gateway.why(reply))["reason"]


async def test_keys_of_a_provider_rotate_and_stay_while_it_is_away() -> None:
    async with provider() as issuer, api(issuer) as gateway:
        clock = gateway.gateway.clock
        assert isinstance(clock, FakeClock)
        assert (await ask(gateway, token(issuer))).status == 200
        issuer.keys.append(public_jwk("RS256", 1, kid="two"))
        two = token(issuer, key=key_for("RS256", 1), kid="two", exp=NOW + 999)
        assert (await ask(gateway, two)).status == 401
        clock.advance(31)
        assert (await ask(gateway, two)).status == 200
        issuer.broken = (500, b"")
        clock.advance(500)
        fresh = token(issuer, key=key_for("RS256", 1), kid="two", exp=NOW + 999, iat=NOW + 500)
        assert (await ask(gateway, fresh)).status == 200


async def test_beside_jwt_each_takes_its_own_issuers() -> None:
    jwt = f"jwt: {{algorithms: HS256, key: '{SECRET}', issuer: mine, default_policies: silver}}"
    async with provider() as issuer:
        ours = sign({"sub": "anna", "exp": NOW + 60, "iss": "mine"})
        for auth in (f"[METHOD, {{{jwt}}}, key]", f"[{{{jwt}}}, METHOD, key]"):
            async with api(issuer, auth=auth) as gateway:
                key = await gateway.create_key("api")
                assert (await ask(gateway, token(issuer))).headers["X-RateLimit-Limit"] == "5"
                assert (await ask(gateway, ours)).headers["X-RateLimit-Limit"] == "1"
                assert (await ask(gateway, key)).status == 200
                assert (await ask(gateway, "a.b.c")).code == "token_invalid"


@pytest.mark.parametrize(
    "options, reason",
    [
        ({}, "providers"),
        ({"providers": []}, "at least 1"),
        ({"providers": [{"issuer": "http://a", "clients": {}}]}, "at least 1"),
        ({"providers": [{"issuer": "http://a", "clients": {"a": "b"}}] * 2}, "same issuer"),
        ({"providers": [{"issuer": "http://a", "clients": {"a": "b"}, "algorithms": "HS256"}]}, "RS256"),
        ({"providers": [{"issuer": "http://a", "clients": {"a": "b"}}], "header": None}, "needs a place"),
    ],
)
def test_configurations_that_make_no_sense(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        oidc.Config.model_validate(options)
    assert reason in str(caught.value)
