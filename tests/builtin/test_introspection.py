"""The method `introspection`: tokens that another server knows, which is asked once, and believed for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from aiogate.builtin import introspection
from aiogate.testing import FakeClock, GatewayFixture, Reply, running_gateway
from tests.credentials.issuer import Issuer, running_issuer

NOW = 1_700_000_000
ANNA = {"active": True, "sub": "anna", "scope": "read", "client_id": "web", "exp": NOW + 600}


@asynccontextmanager
async def api(options: str = "default_policies: gold", auth: str = "") -> AsyncIterator[tuple[GatewayFixture, Issuer]]:
    async with running_issuer() as server:
        server.known["good"] = dict(ANNA)
        who = "client_id: gateway, client_secret: 'secret:-one'"
        method = f"introspection: {{url: '{server.url}/introspect', {who}, {options}}}"
        auth = auth.replace("METHOD", method) or f"{{{method}}}"
        files = {
            "apis.d/api.yaml": f"listen: /api/\nauth: {auth}\nplugins: [mock: welcome]\n",
            "policies.d/gold.yaml": "{access: {api: {}}, quota: 100/1h}",
            "policies.d/write.yaml": "{access: {api: {paths: [{path: /, methods: [POST]}]}}}",
        }
        async with running_gateway(files, clock=FakeClock(NOW)) as gateway:
            yield gateway, server


async def ask(gateway: GatewayFixture, text: str = "good") -> Reply:
    return await gateway.get("/api/", headers={"Authorization": f"Bearer {text}"})


def advance(gateway: GatewayFixture, seconds: float) -> None:
    clock = gateway.gateway.clock
    assert isinstance(clock, FakeClock)
    clock.advance(seconds)


async def test_a_token_is_asked_about_once_for_a_while() -> None:
    async with api() as (gateway, server):
        for _ in range(5):
            assert (await ask(gateway)).status == 200
        assert server.asked_about == ["good"]
        advance(gateway, 30)
        server.known.pop("good")
        reply = await ask(gateway)
        assert (reply.status, reply.code, reply.error) == (401, "token_invalid", "access token is not valid")
        assert reply.headers["WWW-Authenticate"] == 'Bearer realm="api", error="invalid_token"'
        assert "not active" in (await gateway.why(reply))["reason"]
        assert server.asked_about == ["good", "good"]


async def test_however_many_wait_one_question_is_asked() -> None:
    async with api() as (gateway, server):
        server.delay = 0.05
        replies = await asyncio.gather(*(ask(gateway) for _ in range(40)))
        assert {reply.status for reply in replies} == {200}
        assert server.asked_about == ["good"]


async def test_what_is_not_active_is_remembered_for_five_seconds() -> None:
    async with api() as (gateway, server):
        for _ in range(3):
            assert (await ask(gateway, "bad")).status == 401
        assert server.asked_about == ["bad"]
        advance(gateway, 5)
        server.known["bad"] = dict(ANNA)
        assert (await ask(gateway, "bad")).status == 200
        missing = await gateway.get("/api/")
        assert (missing.status, missing.code) == (400, "auth_missing")
        assert (await ask(gateway, "x" * 5000)).status == 401
        assert (await gateway.get("/api/", user=("a", "b"))).code == "auth_missing"


@pytest.mark.parametrize(
    "answer, reason",
    [
        ({"active": "true"}, "`active`: 'true'"),
        ({"active": 1}, "`active`: 1, which is not true"),
        ({}, "`active`: None"),
        (ANNA | {"exp": NOW}, "`exp` passed 0 s ago"),
        (ANNA | {"exp": "soon"}, "`exp` is 'soon'"),
        (ANNA | {"nbf": NOW + 5}, "`nbf` is 5 s ahead"),
        (ANNA | {"aud": "other"}, "`aud` is 'other'"),
        (ANNA | {"iss": "b", "aud": "me"}, "`iss` is 'b'"),
    ],
)
async def test_answers_that_do_not_let_in(answer: dict[str, Any], reason: str) -> None:
    async with api("default_policies: gold, issuer: a, audience: me") as (gateway, server):
        server.known["good"] = {"iss": "a", "aud": ["me"]} | answer
        reply = await ask(gateway)
        assert (reply.status, reply.code) == (401, "token_invalid")
        assert reason in (await gateway.why(reply))["reason"]


async def test_a_token_ends_when_it_says() -> None:
    async with api("default_policies: gold, cache: 1h") as (gateway, server):
        assert (await ask(gateway)).status == 200
        advance(gateway, 599)
        assert (await ask(gateway)).status == 200
        advance(gateway, 2)
        assert (await ask(gateway)).status == 401
        assert len(server.asked_about) == 2


@pytest.mark.parametrize(
    "broken",
    [(500, b""), (401, b""), (302, b""), (200, b"x"), (200, b"[]"), (200, b" " * 70_000 + b'{"active": true}')],
    ids=["500", "401", "redirect", "text", "list", "huge"],
)
async def test_while_the_server_is_away_nobody_is_guessed(broken: tuple[int, bytes]) -> None:
    async with api() as (gateway, server):
        assert (await ask(gateway)).status == 200
        server.broken = broken
        assert (await ask(gateway)).status == 200, "what was said holds for its time"
        advance(gateway, 30)
        for text in ("good", "other"):
            reply = await ask(gateway, text)
            assert (reply.status, reply.code, reply.headers["Retry-After"]) == (503, "issuer_unavailable", "1")
            assert "introspection" in (await gateway.why(reply))["reason"]
        server.broken = None
        assert (await ask(gateway)).status == 200, "a failure is not remembered"


async def test_an_old_answer_stands_in_where_that_is_wanted() -> None:
    async with api("default_policies: gold, stale: 60s") as (gateway, server):
        assert (await ask(gateway)).status == 200
        assert (await ask(gateway, "bad")).status == 401
        server.broken = (500, b"")
        advance(gateway, 89)
        assert (await ask(gateway)).status == 200
        assert (await ask(gateway, "bad")).status == 503
        advance(gateway, 1)
        assert (await ask(gateway)).status == 503
        server.broken = None
        server.known.pop("good")
        assert (await ask(gateway)).status == 401


async def test_what_it_opens_comes_from_claims() -> None:
    options = "scopes: {policies: {write: write}}, default_policies: gold"
    async with api(options) as (gateway, server):
        server.known["writer"] = ANNA | {"scope": "read write"}
        server.known["machine"] = {"active": True, "client_id": "batch"}
        server.known["nobody"] = {"active": True}
        assert (await ask(gateway)).headers["X-RateLimit-Limit"] == "100"
        assert (await ask(gateway, "writer")).code == "path_denied"
        assert (await ask(gateway, "machine")).status == 200
        reply = await ask(gateway, "nobody")
        assert (reply.status, reply.code) == (403, "token_identity")
        changed = "{access: {api: {}}, inactive: true}"
        assert (await gateway.reload({"policies.d/gold.yaml": changed})).ok
        assert (await ask(gateway)).code == "key_inactive", "a changed policy holds at once"
        assert server.asked_about.count("good") == 1, "and asks nobody"


async def test_a_client_claim_gives_the_policy_of_a_key() -> None:
    async with api("client_claim: client_id") as (gateway, server):
        reply = await ask(gateway)
        assert (reply.status, reply.code) == (403, "token_policy")
        await gateway.create_key(name="web", apply_policies=["gold"])
        assert (await ask(gateway)).status == 200
        await gateway.revoke("web")
        assert (await ask(gateway)).code == "token_policy"
        assert server.asked_about == ["good"]


async def test_the_gateway_says_who_asks() -> None:
    async with api("default_policies: gold, authenticate: body") as (gateway, server):
        server.credentials = "nobody"
        assert (await ask(gateway)).status == 200


async def test_beside_other_methods() -> None:
    async with api(auth="[basic, METHOD]") as (gateway, server):
        await gateway.create_user("ann", "secret", "api")
        assert (await ask(gateway)).status == 200
        assert (await gateway.get("/api/", user=("ann", "secret"))).status == 200
        assert server.asked_about == ["good"]
    jwt = "jwt: {algorithms: HS256, key: a secret of at least thirty-two bytes, default_policies: gold}"
    async with api(auth=f"[METHOD, {{{jwt}}}]") as (gateway, server):
        assert (await ask(gateway)).status == 200
        assert (await ask(gateway, "a.b.c")).code == "token_invalid"
        assert server.asked_about == ["good"]


@pytest.mark.parametrize(
    "options, reason",
    [
        ({}, "url"),
        ({"url": "http://a/", "client_id": "a", "client_secret": "b"}, "nothing says what a token opens"),
        ({"url": "http://a/", "client_id": "a", "client_secret": "b", "cache": "2h", "default_policies": "x"}, "3600"),
        (
            {"url": "http://a/", "client_id": "a", "client_secret": "b", "default_policies": "x", "header": None},
            "place",
        ),
    ],
)
def test_configurations_that_make_no_sense(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        introspection.Config.model_validate(options)
    assert reason in str(caught.value)


async def test_an_address_that_cannot_be_asked_is_no_reload() -> None:
    async with api() as (gateway, _):
        method = "introspection: {url: 'ftp://a/', client_id: a, client_secret: b, default_policies: gold}"
        text = f"listen: /api/\nauth: {{{method}}}\nplugins: [mock: welcome]\n"
        verdict = await gateway.reload({"apis.d/api.yaml": text})
        assert [one.code for one in verdict.diagnostics] == ["build_failed"]
