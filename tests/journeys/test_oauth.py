"""OAuth 2 with a client of the field, and over two gateways on one Redis."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import uuid4

import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client

from aiogate.testing import GatewayFixture, running_gateway

BACK = "https://app.example.com/back"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
FILES = {
    "apis.d/shop.yaml": "{listen: /shop/, auth: {oauth: {login: 'https://login.example/'}}, plugins: [mock: hi]}",
    "policies.d/gold.yaml": "access: {shop: {}}",
}


async def made(gateway: GatewayFixture, **fields: Any) -> Any:
    body = {"api_id": "shop", "policy_id": "gold", "redirect_uri": BACK, **fields}
    return (await gateway.tyk("POST", "/tyk/oauth/clients/create", body)).json


@pytest.mark.parametrize("way", ["client_secret_basic", "client_secret_post", "none"])
async def test_authlib_logs_in_refreshes_and_revokes(way: str) -> None:
    async with running_gateway(FILES) as gateway:
        registered = await made(gateway, public=way == "none")
        base = f"{gateway.url}/shop/oauth"
        async with AsyncOAuth2Client(
            registered["client_id"], registered["secret"] or None, redirect_uri=BACK, code_challenge_method="S256",
            token_endpoint_auth_method=way, revocation_endpoint_auth_method=way, scope="shop",
        ) as client:  # fmt: skip
            verifier = "v" * 64
            address, state = client.create_authorization_url(f"{base}/authorize", code_verifier=verifier)
            sent_on = await client.request("GET", address, withhold_token=True)
            assert sent_on.status_code == 307
            asked = {name: values[0] for name, values in parse_qs(urlsplit(sent_on.headers["Location"]).query).items()}
            # The login page's server, when the user has said who it is.
            allowed = await gateway.tyk("POST", "/tyk/oauth/authorize-client/", data=urlencode(asked))
            back = allowed.json["redirect_to"]
            assert back.startswith(f"{BACK}?code=")
            token = await client.fetch_token(
                f"{base}/token", authorization_response=back, code_verifier=verifier, state=state
            )
            assert (await client.get(f"{gateway.url}/shop/")).text == "hi"
            refreshed = await client.refresh_token(f"{base}/token")
            assert refreshed["refresh_token"] != token["refresh_token"]
            assert (await client.get(f"{gateway.url}/shop/")).status_code == 200
            await client.revoke_token(f"{base}/revoke", token=refreshed["refresh_token"])
            assert (await client.get(f"{gateway.url}/shop/")).status_code == 403


async def test_two_gateways_share_clients_codes_and_revocations(redis_server: Any) -> None:
    settings = {"store": redis_server.url, "redis__prefix": f"{uuid4().hex}:"}
    async with running_gateway(FILES, **settings) as one, running_gateway(FILES, **settings) as two:
        client = await made(one, client_id="app")
        asked = {"client_id": "app", "response_type": "code"}
        code = (await two.tyk("POST", "/tyk/oauth/authorize-client", asked)).json["code"]
        form = {"client_id": "app", "client_secret": client["secret"], "grant_type": "authorization_code", "code": code}

        async def redeem(gateway: GatewayFixture) -> Any:
            return await gateway.request("POST", "/shop/oauth/token", data=urlencode(form).encode(), headers=FORM)

        async def opens(gateway: GatewayFixture, token: str) -> int:
            return int((await gateway.get("/shop/", headers={"Authorization": f"Bearer {token}"})).status)

        token = (await redeem(one)).json["access_token"]
        assert [await opens(gateway, token) for gateway in (one, two)] == [200, 200]
        assert (await redeem(two)).json["error"] == "invalid_grant", "a code that was used elsewhere"
        async with asyncio.timeout(5):
            while 200 in [await opens(gateway, token) for gateway in (one, two)]:
                await asyncio.sleep(0.01)

        code = (await two.tyk("POST", "/tyk/oauth/authorize-client", asked)).json["code"]
        form["code"] = code
        answers = await asyncio.gather(*(redeem(gateway) for gateway in (one, two) * 4))
        assert sum(answer.status == 200 for answer in answers) <= 1


async def test_clients_and_tokens_outlive_the_process(tmp_path: Any) -> None:
    held = ""
    for _ in range(2):
        async with running_gateway(FILES, folder=tmp_path, store="sqlite") as gateway:
            if not held:
                client = await made(gateway, client_id="app")
                form = {"client_id": "app", "client_secret": client["secret"], "grant_type": "client_credentials"}
                answer = await gateway.request("POST", "/shop/oauth/token", data=urlencode(form).encode(), headers=FORM)
                held = answer.json["access_token"]
            answer = await gateway.get("/shop/", headers={"Authorization": f"Bearer {held}"})
            assert answer.status == 200
    written = b"".join(path.read_bytes() for path in (tmp_path / "var").glob("aiogate.db*"))
    for secret in (held, client["secret"]):
        assert secret.encode() not in written
