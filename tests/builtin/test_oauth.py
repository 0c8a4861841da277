"""What the OAuth 2 server says to single requests: which it refuses, how, and for which private reason (row 51)."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiogate.credentials.oauth_rules import proves, redirect_mistake
from aiogate.testing import FakeClock, GatewayFixture, running_gateway

BACK = "https://app.example.com/back"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
FILES = {
    "apis.d/shop.yaml": """
        listen: /shop/
        auth:
          oauth:
            login: https://login.example.com/allow?from=shop
            grants: [authorization_code, refresh_token, client_credentials, password]
            issuer: https://api.example.com/shop
        plugins: [mock: welcome]
    """,
    "apis.d/other.yaml": "{listen: /other/, auth: {oauth: {default_policies: gold}}, plugins: [mock: other]}",
    "apis.d/list.yaml": "{listen: /list/, auth: [key, {oauth: {}}, basic], plugins: [mock: list]}",
    "apis.d/versions.yaml": """
        listen: /versions/
        auth: {oauth: {default_policies: gold}}
        versions: {by: header, name: X-Version, list: {v1: {}}}
        plugins: [paths: {allow: [/nothing]}, mock: versions]
    """,
    "policies.d/gold.yaml": "{access: {shop: {}, other: {}, list: {}, versions: {}}, quota: 100/1h}",
    "policies.d/silver.yaml": "{access: {shop: {}}}",
}


class Shop:
    """A gateway with clients of the API `shop`."""

    def __init__(self, gateway: GatewayFixture, clock: FakeClock) -> None:
        self.gateway = gateway
        self.clock = clock
        self.secrets: dict[str, str] = {}

    async def client(self, name: str, **fields: Any) -> None:
        body = {"client_id": name, "api_id": "shop", "policy_id": "gold", "redirect_uri": BACK, **fields}
        made = await self.gateway.tyk("POST", "/tyk/oauth/clients/create", body)
        assert made.status == 200, made.text
        self.secrets[name] = made.json["secret"]

    async def post(self, path: str, name: str = "app", **form: str) -> Any:
        if self.secrets.get(name):
            form.setdefault("client_secret", self.secrets[name])
        body = urlencode({"client_id": name, **form})
        return await self.gateway.request("POST", path, data=body.encode(), headers=FORM)

    async def token(self, name: str = "app", **form: str) -> Any:
        return await self.post("/shop/oauth/token", name, **form)

    async def code(self, name: str = "app", **further: str) -> str:
        asked = {"client_id": name, "response_type": "code", "code_challenge": CHALLENGE, "redirect_uri": BACK,
                 "code_challenge_method": "S256", **further}  # fmt: skip
        given_ = await self.gateway.tyk(
            "POST", "/tyk/oauth/authorize-client/", {name: value for name, value in asked.items() if value}
        )
        assert given_.status == 200, given_.text
        return str(given_.json["code"])

    async def redeem(self, code: str, name: str = "app", **further: str) -> Any:
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK, "code_verifier": VERIFIER}
        return await self.token(name, **{key: value for key, value in (form | further).items() if value})

    async def opens(self, token: str, path: str = "/shop/") -> int:
        return int((await self.gateway.get(path, headers={"Authorization": f"Bearer {token}"})).status)

    async def reason(self, reply: Any) -> str:
        return str((await self.gateway.why(reply))["reason"])


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    clock = FakeClock(1_700_000_000)
    async with running_gateway(FILES, clock=clock) as gateway:
        made = Shop(gateway, clock)
        await made.client("app")
        await made.client("page", public=True)
        yield made


def test_the_example_of_rfc_7636_appendix_b() -> None:
    assert proves(VERIFIER, CHALLENGE)


@given(st.text(alphabet=st.characters(codec="latin-1"), max_size=140))
def test_no_other_verifier_proves_the_challenge(text: str) -> None:
    assert proves(text, CHALLENGE) is (text == VERIFIER)


@pytest.mark.parametrize("uri", [
    "", "app.example.com", "/back", "https://", "https://a@b/", "https://a:b@c/", "https://a/#f", "javascript:alert(1)",
    "data:text/html,x", "https://a/../b", "https://a/./b", "https://*.a/", "https://a/ b", "https://a\\@b/", "https://a:x/",
    "https://ä/", "//a/", "JavaScript:x", "https://a/" + "x" * 2048,
])  # fmt: skip
def test_addresses_that_nobody_is_sent_to(uri: str) -> None:
    assert redirect_mistake(uri)


@pytest.mark.parametrize("uri", [BACK, "http://127.0.0.1:8000/cb", "com.example.app:/cb", "https://a/?x=1"])
def test_addresses_of_clients(uri: str) -> None:
    assert redirect_mistake(uri) == ""


async def test_what_is_no_token_is_refused_in_tyks_words(shop: Shop) -> None:
    gateway = shop.gateway
    nothing = await gateway.get("/shop/")
    assert (nothing.status, nothing.error, nothing.code) == (400, "Authorization field missing", "auth_missing")
    for value in ("oat_1", "Bearer", "Basic YTpi", "Bearer a b"):
        answer = await gateway.get("/shop/", headers={"Authorization": value})
        assert (answer.status, answer.error) == (400, "Bearer token malformed"), value
    unknown = await gateway.get("/shop/", headers={"Authorization": "Bearer oat_unknown"})
    assert (unknown.status, unknown.error, unknown.code) == (403, "Key not authorised", "token_unknown")
    assert 'error="invalid_token"' in unknown.headers["WWW-Authenticate"]
    key = await gateway.create_key("shop")
    answer = await gateway.get("/shop/", headers={"Authorization": f"Bearer {key}"})
    assert answer.code == "token_unknown"
    assert "kind key" in await shop.reason(answer)


async def test_a_client_gets_a_token_for_itself(shop: Shop) -> None:
    answer = await shop.token(grant_type="client_credentials", scope="all")
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Pragma"] == "no-cache"
    token = answer.json.pop("access_token")
    assert answer.json == {"access_token": token, "token_type": "bearer", "expires_in": 3600, "scope": ""}
    assert [await shop.opens(token, path) for path in ("/shop/", "/other/", "/list/")] == [200] * 3
    for mutated in (token[:-1], token + "A", token.swapcase(), token.replace("oat_", "oat-"), token[:-1] + "\u00e4"):
        assert await shop.opens(mutated) == 403
    shop.clock.advance(3600)
    assert await shop.opens(token) == 403


async def test_new_tokens_bring_no_new_quota(shop: Shop) -> None:
    left = []
    for _ in range(2):
        token = (await shop.token(grant_type="client_credentials")).json["access_token"]
        answer = await shop.gateway.get("/shop/", headers={"Authorization": f"Bearer {token}"})
        left.append(answer.headers["X-RateLimit-Remaining"])
    assert left == ["99", "98"]


@pytest.mark.parametrize(("form", "status", "error", "reason"), [
    ({"client_secret": "x" * 43, "grant_type": "client_credentials"}, 401, "invalid_client", "is wrong"),
    ({"client_id": "nobody", "grant_type": "client_credentials"}, 401, "invalid_client", "no client"),
    ({"client_id": "", "grant_type": "client_credentials"}, 401, "invalid_client", "neither"),
    ({}, 400, "invalid_request", "grant_type is missing"),
    ({"grant_type": "implicit"}, 400, "unsupported_grant_type", "offered"),
    ({"grant_type": "authorization_code"}, 400, "invalid_request", "code is missing"),
    ({"grant_type": "authorization_code", "code": "made-up"}, 400, "invalid_grant", "no such code"),
    ({"grant_type": "refresh_token", "refresh_token": "ort_made-up"}, 400, "invalid_grant", "no such refresh token"),
    ({"grant_type": "refresh_token"}, 400, "invalid_request", "refresh_token is missing"),
    ({"grant_type": "password"}, 400, "invalid_request", "username"),
    ({"grant_type": "password", "username": "anna", "password": "x"}, 400, "invalid_grant", "no record"),
])  # fmt: skip
async def test_refusals_have_the_form_of_rfc_6749(shop: Shop, form: Any, status: int, error: str, reason: str) -> None:
    answer = await shop.token(**form)
    assert (answer.status, answer.json["error"]) == (status, error)
    assert set(answer.json) == {"error", "error_description", "request_id"}
    assert answer.headers["Cache-Control"] == "no-store"
    assert ("WWW-Authenticate" in answer.headers) is (status == 401)
    assert reason in await shop.reason(answer)


async def test_a_client_says_who_it_is_once(shop: Shop) -> None:
    async def ask(body: bytes, secret: str = shop.secrets["app"], **headers: str) -> Any:
        pair = b64encode(f"app:{quote(secret, safe='')}".encode()).decode()
        return await shop.gateway.request(
            "POST", "/shop/oauth/token/", data=body, headers={**FORM, "Authorization": f"Basic {pair}", **headers}
        )

    right = b"grant_type=client_credentials"
    assert (await ask(right)).status == 200
    assert (await ask(b'{"grant_type": "client_credentials"}', **{"Content-Type": "application/json"})).status == 200
    wrong = await ask(right, secret="x" * 20)
    assert (wrong.status, wrong.headers["WWW-Authenticate"]) == (401, 'Basic realm="shop"')
    for body in (right + b"&client_secret=x", right + b"&client_id=page", right + b"&" + right, b"\xff", b"a=%FF"):
        answer = await ask(body)
        assert (answer.status, answer.json["error"]) == (400, "invalid_request"), body
    assert (await ask(right, **{"Content-Type": "text/plain"})).json["error"] == "invalid_request"
    assert (await ask(right, Authorization="Bearer x")).json["error"] == "invalid_client"
    answer = await shop.gateway.get("/shop/oauth/token")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_public_clients_have_no_secret_and_no_tokens_of_their_own(shop: Shop) -> None:
    assert (await shop.token("page", grant_type="client_credentials")).json["error"] == "unauthorized_client"
    answer = await shop.token("page", grant_type="client_credentials", client_secret="anything")
    assert answer.json["error"] == "invalid_client"
    assert (await shop.post("/shop/oauth/introspect", "page", token="x")).status == 401
    assert (await shop.post("/shop/oauth/revoke_all", "page")).status == 401


async def authorize(shop: Shop, **asked: str) -> Any:
    request = {"client_id": "app", "response_type": "code", "redirect_uri": BACK, "state": "s t", **asked}
    query = urlencode({name: value for name, value in request.items() if value})
    return await shop.gateway.get(f"/shop/oauth/authorize?{query}")


async def test_a_user_is_sent_to_the_login_page_with_the_request(shop: Shop) -> None:
    answer = await authorize(shop, code_challenge=CHALLENGE, code_challenge_method="S256", login_hint="anna&x=y")
    assert answer.status == 307
    address = urlsplit(answer.headers["Location"])
    assert address[:3] == ("https", "login.example.com", "/allow")
    asked = {name: values[0] for name, values in parse_qs(address.query).items()}
    assert asked == {
        "from": "shop", "client_id": "app", "response_type": "code", "redirect_uri": BACK, "state": "s t",
        "code_challenge": CHALLENGE, "code_challenge_method": "S256", "login_hint": "anna&x=y", "api_id": "shop",
    }  # fmt: skip


@pytest.mark.parametrize("uri", [
    "https://app.example.com/back/", "https://app.example.com/back/../evil", "https://app.example.com/backward",
    "https://app.example.com/back#x", "https://app.example.com@evil.example/back", "https://APP.example.com/back",
    "https://app.example.com/back?x=1", "http://app.example.com/back", "https://app.example.com:443/back",
    "https://evil.example/?https://app.example.com/back", "https://app.example.com/%62ack", "//app.example.com/back",
    "https://app.example.com/back\r\nX: y",
])  # fmt: skip
async def test_nobody_is_sent_to_an_address_that_is_not_the_clients_own(shop: Shop, uri: str) -> None:
    answer = await authorize(shop, redirect_uri=uri)
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")
    assert "Location" not in answer.headers
    answer = await shop.gateway.tyk(
        "POST", "/tyk/oauth/authorize-client", {"client_id": "app", "response_type": "code", "redirect_uri": uri}
    )
    assert answer.status == 400


async def test_an_unknown_client_is_sent_nowhere(shop: Shop) -> None:
    answer = await authorize(shop, client_id="nobody", redirect_uri="https://evil.example/")
    assert (answer.status, "Location" in answer.headers) == (400, False)


@pytest.mark.parametrize(("asked", "error"), [
    ({"response_type": ""}, "invalid_request"),
    ({"response_type": "token"}, "unsupported_response_type"),
    ({"client_id": "page"}, "invalid_request"),
    ({"code_challenge": CHALLENGE}, "invalid_request"),
    ({"code_challenge": VERIFIER, "code_challenge_method": "plain"}, "invalid_request"),
    ({"code_challenge": "short", "code_challenge_method": "S256"}, "invalid_request"),
    ({"code_challenge_method": "S256"}, "invalid_request"),
])  # fmt: skip
async def test_other_mistakes_go_back_to_the_client(shop: Shop, asked: Any, error: str) -> None:
    answer = await authorize(shop, **asked)
    assert answer.status == 302
    address, _, query = answer.headers["Location"].partition("?")
    told = {name: values[0] for name, values in parse_qs(query).items()}
    assert (address, told["error"], told["state"]) == (BACK, error, "s t")
    assert told["iss"] == "https://api.example.com/shop"
    assert (await shop.gateway.why(answer))["code"] == "oauth_refused"


async def test_a_code_is_good_once_and_only_for_who_asked(shop: Shop) -> None:
    await shop.client("other-app")
    code = await shop.code()
    for further, reason in (
        ({"code_verifier": ""}, "code_verifier is missing"),
        ({"code_verifier": VERIFIER[:-1] + "l"}, "does not match"),
        ({"redirect_uri": "https://app.example.com/"}, "redirect_uri"),
        ({"redirect_uri": ""}, "redirect_uri"),
    ):
        answer = await shop.redeem(code, **further)
        assert answer.json["error"] == "invalid_grant"
        assert reason in answer.json["error_description"]
    mixed = await shop.redeem(code, "other-app")
    assert "issued to client app" in await shop.reason(mixed)
    issued = await shop.redeem(code)
    assert issued.status == 200, "what others tried did not spend it"
    token, refresh = issued.json["access_token"], issued.json["refresh_token"]
    assert await shop.opens(token) == 200
    again = await shop.redeem(code)
    assert again.json["error"] == "invalid_grant"
    assert "used before" in await shop.reason(again)
    assert await shop.opens(token) == 403, "what came of it is revoked"
    assert (await shop.token(grant_type="refresh_token", refresh_token=refresh)).json["error"] == "invalid_grant"


async def test_a_code_lives_a_minute_and_a_verifier_needs_a_challenge(shop: Shop) -> None:
    code = await shop.code()
    shop.clock.advance(60)
    assert "expired" in await shop.reason(await shop.redeem(code))
    code = await shop.code(code_challenge="", code_challenge_method="")
    assert "without a challenge" in (await shop.redeem(code)).json["error_description"]
    assert (await shop.redeem(code, code_verifier="")).status == 200


@pytest.mark.parametrize("times", [2, 8])
async def test_of_parallel_uses_of_a_refresh_token_none_survives(shop: Shop, times: int) -> None:
    issued = (await shop.redeem(await shop.code())).json
    asked = [shop.token(grant_type="refresh_token", refresh_token=issued["refresh_token"]) for _ in range(times)]
    answers = await asyncio.gather(*asked)
    lucky = [answer.json for answer in answers if answer.status == 200]
    assert len(lucky) <= 1
    for tokens in (issued, *lucky):
        assert await shop.opens(tokens["access_token"]) == 403
        answer = await shop.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
        assert answer.json["error"] == "invalid_grant"


async def test_refresh_tokens_rotate(shop: Shop) -> None:
    tokens = (await shop.redeem(await shop.code("page"), "page")).json
    seen = {tokens["refresh_token"]}
    for _ in range(3):
        shop.clock.advance(13 * 86400)
        stolen = await shop.token("app", grant_type="refresh_token", refresh_token=tokens["refresh_token"])
        assert "issued to client page" in await shop.reason(stolen)
        tokens = (await shop.token("page", grant_type="refresh_token", refresh_token=tokens["refresh_token"])).json
        assert await shop.opens(tokens["access_token"]) == 200
        seen.add(tokens["refresh_token"])
    assert len(seen) == 4
    shop.clock.advance(14 * 86400)
    answer = await shop.token("page", grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    assert answer.json["error"] == "invalid_grant"


async def test_a_session_is_handed_over_at_login(shop: Shop) -> None:
    await shop.client("free", policy_id="")
    gateway, asked = shop.gateway, {"client_id": "free", "response_type": "code", "redirect_uri": BACK, "state": "x/y"}
    assert (await gateway.tyk("POST", "/tyk/oauth/authorize-client", asked)).status == 400, "it would have no rights"
    for rules in ('{"rate": "x"}', "nonsense", '{"apply_policies": ["missing"]}'):
        answer = await gateway.tyk("POST", "/tyk/oauth/authorize-client", {**asked, "key_rules": rules})
        assert answer.status == 400, rules
    form = urlencode({**asked, "key_rules": '{"alias": "anna", "access_rights": {"shop": {}}, "quota_max": 5}'})
    answer = await gateway.tyk("POST", "/tyk/oauth/authorize-client/", data=form)
    code = answer.json["code"]
    assert answer.json["redirect_to"] == (f"{BACK}?code={code}&state=x%2Fy&iss=https%3A%2F%2Fapi.example.com%2Fshop")
    token = (await shop.redeem(code, "free", code_verifier="")).json["access_token"]
    reply = await gateway.get("/shop/", headers={"Authorization": f"Bearer {token}"})
    assert (reply.status, reply.headers["X-RateLimit-Remaining"]) == (200, "4")
    assert await shop.opens(token, "/other/") == 403
    known = (await shop.post("/shop/oauth/introspect", "free", token=token)).json
    assert known == {
        "active": True, "token_type": "bearer", "client_id": "free", "sub": "anna", "iat": 1_700_000_000,
        "exp": 1_700_003_600, "iss": "https://api.example.com/shop",
    }  # fmt: skip
    assert (await shop.post("/shop/oauth/introspect", "free", token=token + "x")).json == {"active": False}


async def test_clients_ask_about_their_own_tokens_and_the_servers_behind_the_api_about_all() -> None:
    files = FILES | {
        "apis.d/shop.yaml": FILES["apis.d/shop.yaml"].replace(
            "oauth:\n", "oauth:\n            resource_servers: backend\n"
        )
    }
    async with running_gateway(files, clock=FakeClock(1_700_000_000)) as gateway:
        shop = Shop(gateway, FakeClock())
        for name in ("app", "curious", "backend"):
            await shop.client(name)
        await shop.client("page", public=True)
        tokens = (await shop.redeem(await shop.code())).json

        async def asked(name: str, kind: str) -> Any:
            return (await shop.post("/shop/oauth/introspect", name, token=tokens[kind])).json

        for name, access, refresh in (("app", True, True), ("curious", False, False), ("backend", True, False)):
            assert (await asked(name, "access_token"))["active"] is access
            assert (await asked(name, "refresh_token"))["active"] is refresh
        assert await asked("curious", "access_token") == {"active": False}, "as one that does not exist"
        assert (await asked("backend", "access_token"))["client_id"] == "app"
        assert (await asked("page", "access_token"))["error"] == "invalid_client"
        await shop.post("/shop/oauth/revoke", "backend", token=tokens["access_token"])
        assert await shop.opens(tokens["access_token"]) == 200, "to ask about a token is not to own it"
        await shop.post("/shop/oauth/revoke", "app", token=tokens["access_token"])
        assert await asked("backend", "access_token") == {"active": False}


async def test_42_a_search_for_a_client_secret_is_stopped() -> None:
    clock = FakeClock(1_700_000_000)
    async with running_gateway(FILES, clock=clock, failures__user="3/1m", failures__address="6/1m") as gateway:
        shop = Shop(gateway, clock)
        for name in ("app", "other", "third"):
            await shop.client(name)
        await shop.client("page", public=True)
        form = {"grant_type": "client_credentials"}
        for _ in range(5):
            assert (await shop.token("app", **form, client_secret="")).json["error"] == "invalid_client"
        assert (await shop.token("app", **form)).status == 200, "who shows no secret guesses none"
        for number in range(5):
            path = ("token", "introspect", "revoke")[number % 3]
            answer = await shop.post(f"/shop/oauth/{path}", "app", **form, client_secret=f"wrong-{number}")
            assert answer.status == (401 if number < 3 else 429)
        assert (answer.code, answer.headers["Retry-After"]) == ("auth_throttled", "60")
        assert await shop.reason(answer) == (
            "too many wrong client secrets came from 127.0.0.1; client 'app' waits 60 s"
        )
        assert (await shop.token("app", **form)).status == 429, "the right one would tell a guesser"
        assert (await shop.token("other", **form)).status == 200
        for number in range(3):
            assert (await shop.token("nobody", **form, client_secret=f"wrong-{number}")).status == 401
        assert (await shop.token("third", **form)).status == 429, "the address waits"
        assert (await shop.token("other", **form)).status == 200, "and who came in from there does not"
        clock.advance(60)
        assert (await shop.token("app", **form)).status == 200


async def test_42_guesses_at_once_hear_no_more_than_guesses_one_by_one() -> None:
    async with running_gateway(FILES, failures__user="3/1m") as gateway:
        shop = Shop(gateway, FakeClock())
        await shop.client("app")
        vault = gateway.gateway.store.vault
        read = vault.get

        async def slowly(name: str) -> Any:
            await asyncio.sleep(0.02)
            return await read(name)

        vault.get = slowly  # type: ignore[method-assign]
        secrets = [*(f"wrong-{number}" for number in range(30)), shop.secrets["app"]]
        form = {"grant_type": "client_credentials"}
        answers = await asyncio.gather(*(shop.token("app", **form, client_secret=secret) for secret in secrets))
        statuses = [answer.status for answer in answers]
        assert statuses.count(401) <= 3
        assert statuses.count(429) >= 27


async def test_a_user_and_password_are_a_grant(shop: Shop) -> None:
    await shop.gateway.create_user("anna", "secret", "shop", quota_max=10, per=1)
    form = {"grant_type": "password", "username": "anna"}
    wrong = await shop.token(**form, password="wrong")
    assert (wrong.json["error"], await shop.reason(wrong)) == ("invalid_grant", "the password of user anna is wrong")
    tokens = (await shop.token(**form, password="secret")).json
    answer = await shop.gateway.get("/shop/", headers={"Authorization": f"Bearer {tokens['access_token']}"})
    assert answer.headers["X-RateLimit-Remaining"] == "9"
    await shop.gateway.revoke("anna")
    answer = await shop.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    assert (answer.json["error"], await shop.reason(answer)) == ("invalid_grant", "user anna was deleted")


async def test_clients_revoke_what_is_theirs(shop: Shop) -> None:
    await shop.client("other-app")
    tokens = (await shop.redeem(await shop.code())).json
    for name, token, status in (
        ("other-app", tokens["access_token"], 200), ("other-app", tokens["refresh_token"], 200), ("app", "what", 200),
    ):  # fmt: skip
        answer = await shop.post("/shop/oauth/revoke", name, token=token)
        assert (answer.status, await shop.opens(tokens["access_token"])) == (status, 200)
    await shop.post("/shop/oauth/revoke", token=tokens["access_token"])
    assert await shop.opens(tokens["access_token"]) == 403
    fresh = (await shop.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])).json
    await shop.post("/shop/oauth/revoke", token=fresh["refresh_token"])
    assert await shop.opens(fresh["access_token"]) == 403
    own = (await shop.token(grant_type="client_credentials")).json["access_token"]
    assert (await shop.post("/shop/oauth/revoke_all")).status == 200
    assert await shop.opens(own) == 403


async def test_beside_other_methods_each_takes_its_own(shop: Shop) -> None:
    token = (await shop.token(grant_type="client_credentials")).json["access_token"]
    key = await shop.gateway.create_key("list")
    assert await shop.opens(token, "/list/") == 200
    assert await shop.opens(key, "/list/") == 200
    await shop.gateway.create_user("anna", "secret", "list")
    answer = await shop.gateway.get("/list/", user=("anna", "secret"))
    assert answer.status == 200


async def test_endpoints_belong_to_no_version_and_to_no_path(shop: Shop) -> None:
    made = await shop.gateway.tyk("POST", "/tyk/oauth/clients/create", {"api_id": "versions", "client_id": "v"})
    shop.secrets["v"] = made.json["secret"]
    for headers in ({}, {"X-Version": "v1"}):
        body = urlencode({"client_id": "v", "client_secret": shop.secrets["v"], "grant_type": "client_credentials"})
        answer = await shop.gateway.request(
            "POST", "/versions/oauth/token", data=body.encode(), headers={**FORM, **headers}
        )
        assert answer.status == 200, answer.text


async def test_the_server_describes_itself(shop: Shop) -> None:
    told = (await shop.gateway.get("/shop/.well-known/oauth-authorization-server")).json
    assert told["issuer"] == "https://api.example.com/shop"
    assert told["token_endpoint"] == "https://api.example.com/shop/oauth/token"
    assert told["code_challenge_methods_supported"] == ["S256"]
    assert told["authorization_response_iss_parameter_supported"] is True
    told = (await shop.gateway.get("/other/.well-known/oauth-authorization-server")).json
    assert told["issuer"] == f"{shop.gateway.url}/other"
    assert told["grant_types_supported"] == ["client_credentials"]
    assert "authorization_endpoint" not in told
