"""`/tyk/oauth`: clients and tokens, in Tyk's words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import pytest

from aiogate.testing import FakeClock, GatewayFixture, running_gateway

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
FILES = {
    "apis.d/shop.yaml": "{listen: /shop/, auth: {oauth: {login: 'https://l.example/'}}, plugins: [mock: hi]}",
    "apis.d/more.yaml": "{listen: /more/, auth: {oauth: {default_policies: gold}}, plugins: [mock: hi]}",
    "apis.d/keys.yaml": "{listen: /keys/, auth: key, plugins: [mock: hi]}",
    "policies.d/gold.yaml": "access: {shop: {}, more: {}, keys: {}}",
    "policies.d/silver.yaml": "access: {shop: {}}",
    "policies.d/keys.yaml": "access: {keys: {}}",
}
CREATE = "/tyk/oauth/clients/create"


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayFixture]:
    async with running_gateway(FILES, clock=FakeClock(1_700_000_000)) as gateway:
        yield gateway


async def token(gateway: GatewayFixture, client: Any, api: str = "shop") -> str:
    form = {"grant_type": "client_credentials", "client_id": client["client_id"], "client_secret": client["secret"]}
    answer = await gateway.request("POST", f"/{api}/oauth/token", data=urlencode(form).encode(), headers=FORM)
    return str(answer.json.get("access_token", answer.json.get("error")))


async def opens(gateway: GatewayFixture, held: str) -> Any:
    answer = await gateway.get("/shop/", headers={"Authorization": f"Bearer {held}"})
    return 200 if answer.status == 200 else answer.error


async def made(gateway: GatewayFixture, **fields: Any) -> Any:
    answer = await gateway.tyk("POST", CREATE, {"api_id": "shop", "policy_id": "gold", **fields})
    assert answer.status == 200, answer.text
    return answer.json


async def test_a_client_from_its_making_to_its_end(gateway: GatewayFixture) -> None:
    client = await made(gateway, redirect_uri="https://a.example/cb", description="An app", meta_data={"team": "web"})
    one = f"/tyk/oauth/clients/shop/{client['client_id']}"
    assert len(client["secret"]) == 43
    shown = (await gateway.tyk("GET", one)).json
    assert shown == {
        "client_id": client["client_id"], "redirect_uri": "https://a.example/cb",
        "redirect_uris": ["https://a.example/cb"], "api_id": "shop", "policy_id": "gold", "secret": "", "public": False,
        "meta_data": {"team": "web"}, "description": "An app",
    }  # fmt: skip
    assert (await gateway.tyk("GET", "/tyk/oauth/clients/shop")).json == [shown]
    first = await token(gateway, client)
    assert await opens(gateway, first) == 200
    listed = (await gateway.tyk("GET", f"{one}/tokens")).json
    assert [entry["expires"] for entry in listed] == [1_700_003_600]
    assert first not in str(listed)
    page = (await gateway.tyk("GET", f"{one}/tokens?page=1")).json
    assert page == {"Pagination": {"page_num": 1, "page_total": 1, "page_size": 100}, "Tokens": listed}

    changed = await gateway.tyk("PUT", one, {"policy_id": "gold", "description": "Other"})
    assert (changed.status, changed.json["description"], changed.json["redirect_uris"]) == (200, "Other", [])
    assert await opens(gateway, first) == 200
    await gateway.tyk("PUT", one, {"policy_id": "silver"})
    assert await opens(gateway, first) == "Key not authorised", "another policy ends the tokens"

    rotated = (await gateway.tyk("PUT", f"{one}/rotate")).json
    assert await token(gateway, client) == "invalid_client"
    second = await token(gateway, rotated)
    gone = await gateway.tyk("DELETE", one)
    assert gone.json == {"key": client["client_id"], "status": "ok", "action": "deleted"}
    assert await opens(gateway, second) == "Key not authorised. OAuth client access was revoked"
    assert (await gateway.tyk("DELETE", one)).status == 404
    assert (await gateway.tyk("GET", one)).json["message"] == "OAuth Client ID not found"
    assert (await gateway.tyk("GET", "/tyk/oauth/clients/nothing")).status == 404


@pytest.mark.parametrize(("fields", "message"), [
    ({"api_id": "nothing"}, "API doesn't exist"),
    ({"api_id": ""}, "API doesn't exist"),
    ({"api_id": "keys", "policy_id": ""}, "API is not OAuth2"),
    ({"api_id": "shop", "policy_id": "nothing"}, "Policy doesn't exist"),
    ({"api_id": "shop", "policy_id": "keys"}, "Policy access rights doesn't contain API this OAuth client belongs to"),
    ({"api_id": "", "policy_id": "keys"}, "API is not OAuth2"),
    ({"api_id": "shop", "secret": "short"}, "The client cannot be made"),
    ({"api_id": "shop", "client_id": "a b"}, "The client cannot be made"),
    ({"api_id": "shop", "redirect_uri": "https://a/#b"}, "The client cannot be made"),
    ({"api_id": "shop", "public": True, "secret": "x" * 20}, "The client cannot be made"),
    ({"api_id": 1}, "Unmarshalling failed"),
    ({"meta_data": []}, "Unmarshalling failed"),
    ({"api_id": "shop", "client_id": "taken"}, "OAuth Client ID exists already"),
])  # fmt: skip
async def test_clients_that_cannot_be_made(gateway: GatewayFixture, fields: Any, message: str) -> None:
    await made(gateway, client_id="taken")
    answer = await gateway.tyk("POST", CREATE, fields)
    assert (answer.status, answer.json["message"]) == (400, message)
    assert len((await gateway.tyk("GET", "/tyk/oauth/clients/shop")).json) == 1


async def test_a_policy_makes_a_client_of_all_its_apis(gateway: GatewayFixture) -> None:
    client = await made(gateway, api_id="", client_id="both", secret="s" * 16)
    assert (await gateway.tyk("GET", "/tyk/oauth/clients/apis/both?orgID=default")).json == ["more", "shop"]
    assert (await gateway.tyk("GET", "/tyk/oauth/clients/apis/both?orgID=acme")).json == []
    held = [await token(gateway, client, api) for api in ("shop", "more")]
    asked = {"client_id": "both", "response_type": "code"}
    answer = await gateway.tyk("POST", "/tyk/oauth/authorize-client/", asked)
    assert (answer.status, answer.json["message"]) == (400, "api_id is required")
    for secret, status in (("", 401), ("wrong" * 4, 404), ("s" * 16, 200)):
        form = urlencode({"client_id": "both", "client_secret": secret})
        answer = await gateway.tyk("POST", "/tyk/oauth/revoke_all", data=form)
        assert answer.status == status, answer.text
    assert [await opens(gateway, one) for one in held] == ["Key not authorised"] * 2


async def test_tokens_are_revoked_by_text_and_by_hash(gateway: GatewayFixture) -> None:
    client = await made(gateway, client_id="app")
    for by_hash in (False, True):
        held = await token(gateway, client)
        named = held
        if by_hash:
            (listed,) = (await gateway.tyk("GET", "/tyk/oauth/clients/shop/app/tokens")).json
            named = listed["code"]
        form = urlencode({"token": named, "client_id": "app", "token_type_hint": "access_token"})
        answer = await gateway.tyk("POST", "/tyk/oauth/revoke", data=form)
        assert answer.json == {"status": "ok", "message": "token revoked successfully"}
        assert await opens(gateway, held) == "Key not authorised"
    for body, message in (
        ({}, "token is required"), ({"token": "x"}, "client_id is required"),
        ({"token": "x", "client_id": "nobody"}, "oauth client doesn't exist"),
    ):  # fmt: skip
        answer = await gateway.tyk("POST", "/tyk/oauth/revoke", body)
        assert (answer.status, answer.json["message"]) == (400, message)


async def test_refresh_tokens_are_forgotten(gateway: GatewayFixture) -> None:
    client = await made(gateway, client_id="app", redirect_uri="https://a.example/cb")
    asked = {"client_id": "app", "response_type": "code"}
    code = (await gateway.tyk("POST", "/tyk/oauth/authorize-client", asked)).json["code"]
    form = {"client_id": "app", "client_secret": client["secret"]}
    taken = {**form, "grant_type": "authorization_code", "code": code}
    tokens = (await gateway.request("POST", "/shop/oauth/token", data=urlencode(taken).encode(), headers=FORM)).json
    one = f"/tyk/oauth/refresh/{tokens['refresh_token']}"
    for query, status, message in (
        ("", 400, "Missing parameter api_id"), ("?api_id=nothing", 404, "API for this refresh token not found"),
        ("?api_id=keys", 400, "OAuth is not enabled on this API"), ("?api_id=more", 404, None),
        ("?api_id=shop", 200, None),
    ):  # fmt: skip
        answer = await gateway.tyk("DELETE", one + query)
        assert answer.status == status
        assert message is None or answer.json["message"] == message
    taken = {**form, "grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    answer = await gateway.request("POST", "/shop/oauth/token", data=urlencode(taken).encode(), headers=FORM)
    assert answer.json["error"] == "invalid_grant"
    assert await opens(gateway, tokens["access_token"]) == 200


@pytest.mark.parametrize(("query", "status", "message"), [
    ("", 422, "scope parameter is required"), ("?scope=all", 400, "unknown scope"),
    ("?scope=lapsed", 200, "lapsed tokens purged"),
])  # fmt: skip
async def test_lapsed_tokens_are_purged(gateway: GatewayFixture, query: str, status: int, message: str) -> None:
    answer = await gateway.tyk("DELETE", f"/tyk/oauth/tokens{query}")
    assert (answer.status, answer.json["message"]) == (status, message)
