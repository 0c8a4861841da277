"""What an operator who comes from Tyk does first, with curl."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest

from aiogate.testing import GatewayFixture, RecordingUpstream, running_gateway

Curl = Callable[..., Awaitable[Any]]

SESSION = {
    "org_id": "default",
    "rate": 100,
    "per": 1,
    "quota_max": 1000,
    "quota_renewal_rate": 3600,
    "apply_policy_id": "gold",
    "access_rights": {
        "login": {"api_id": "login", "api_name": "Login API", "versions": ["Default"]},
        "portal": {"api_id": "portal", "api_name": "Portal", "versions": ["Default"]},
    },
    "basic_auth_data": {"password": "test123"},
}


@pytest.fixture
async def gateway(upstream: RecordingUpstream) -> AsyncIterator[GatewayFixture]:
    files = {
        "apis.d/login.yaml": f"""
            name: Login API
            listen: /login-api/
            upstream: {upstream.url}
            auth: [basic: {{realm: Login}}]
            """,
        "apis.d/portal.yaml": f"""
            name: Portal
            listen: /portal/
            upstream: {upstream.url}
            auth: [key, basic]
            """,
        "policies.d/gold.yaml": """
            name: Gold plan
            access: {login: {}, portal: {}}
            rate: 1000/1m
            quota: 100000/30d
            """,
    }
    async with running_gateway(files) as running:
        yield running


@pytest.fixture
def dashboard(gateway: GatewayFixture, curl: Curl) -> Curl:
    """One call of the Dashboard API by curl: (method, path, body) to (status, JSON)."""

    async def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = ("-d", orjson.dumps(body).decode()) if body is not None else ()
        headers = ("-H", f"Authorization: {gateway.access_key}")
        got = await curl("-X", method, *headers, *data, gateway.control_url + path)
        return got.status, orjson.loads(got.body)

    return call


@pytest.fixture
def tyk(gateway: GatewayFixture, curl: Curl) -> Curl:
    """The same of the Gateway API."""

    async def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = ("-d", orjson.dumps(body).decode()) if body is not None else ()
        headers = ("-H", f"x-tyk-authorization: {gateway.secret}")
        got = await curl("-X", method, *headers, *data, gateway.control_url + path)
        return got.status, orjson.loads(got.body)

    return call


async def test_a_user_made_by_the_dashboard_reaches_the_upstream(
    gateway: GatewayFixture, dashboard: Curl, curl: Curl, upstream: RecordingUpstream
) -> None:
    status, made = await dashboard("POST", "/api/keys/test%40test.com", SESSION)
    assert status == 200
    assert made["key_id"] == "test@test.com"
    assert "test123" not in str(made)

    got = await curl("-u", "test@test.com:test123", gateway.url + "/login-api/who?am=i")
    assert (got.status, orjson.loads(got.body)) == (200, {"method": "GET", "target": "/who?am=i"})
    assert upstream.last.headers["Authorization"].startswith("Basic ")
    assert got.headers["x-ratelimit-limit"] == "100000", "the policy's quota goes before the session's"
    assert got.headers["x-ratelimit-remaining"] == "99999"


async def test_a_user_made_by_the_gateway_api_reaches_the_upstream(
    gateway: GatewayFixture, tyk: Curl, curl: Curl
) -> None:
    status, made = await tyk("POST", "/tyk/keys/test@test.com", SESSION)
    assert (status, made["key"], made["status"], made["action"]) == (200, "test@test.com", "ok", "added")
    assert (await curl("-u", "test@test.com:test123", gateway.url + "/login-api/")).status == 200
    assert (await curl("-u", "test@test.com:test124", gateway.url + "/login-api/")).status == 401


async def test_a_header_made_with_echo_is_refused_and_why_says_why(
    gateway: GatewayFixture, dashboard: Curl, tyk: Curl, curl: Curl
) -> None:
    await dashboard("POST", "/api/keys/test%40test.com", SESSION)
    by_echo = base64.b64encode(b"test@test.com:test123\n").decode()
    got = await curl("-H", f"Authorization: Basic {by_echo}", gateway.url + "/login-api/")
    body = orjson.loads(got.body)
    assert (got.status, body["error"], body["code"]) == (401, "User not authorised", "auth_failed")
    assert got.headers["www-authenticate"] == 'Basic realm="Login", charset="UTF-8"'
    assert got.headers["x-request-id"] == body["request_id"]

    status, why = await tyk("GET", f"/tyk/decisions/{body['request_id']}")
    assert status == 200
    assert why["reason"] == (
        "the password of user test@test.com ends in a newline; it would be right without; "
        "`echo` adds a newline, `printf` and `echo -n` do not"
    )
    assert (why["api"], why["step"], why["stage"]) == ("login", "auth", "AUTHENTICATE")
    assert why["rule"].endswith("apis.d/login.yaml:4:1")
    assert "test123" not in str(why)


@pytest.mark.parametrize("path", ["/api/keys", "/tyk/keys"])
async def test_a_user_posted_without_a_name_is_told_where_to_go(dashboard: Curl, tyk: Curl, path: str) -> None:
    status, refused = await (tyk if path.startswith("/tyk") else dashboard)("POST", path, SESSION)
    assert status == 400
    assert "/api/keys/{username}" in str(refused)
    assert "/tyk/keys/{name}" in str(refused)


async def test_post_again_overwrites(gateway: GatewayFixture, dashboard: Curl, curl: Curl) -> None:
    await dashboard("POST", "/api/keys/test%40test.com", SESSION)
    again = {**SESSION, "basic_auth_data": {"password": "changed"}}
    assert (await dashboard("POST", "/api/keys/test%40test.com", again))[0] == 200
    assert (await curl("-u", "test@test.com:test123", gateway.url + "/login-api/")).status == 401
    assert (await curl("-u", "test@test.com:changed", gateway.url + "/login-api/")).status == 200


@pytest.mark.parametrize("surface", ["dashboard", "tyk"])
async def test_put_updates_and_keeps_an_omitted_password(
    gateway: GatewayFixture, dashboard: Curl, tyk: Curl, curl: Curl, surface: str
) -> None:
    call, path = (
        (dashboard, "/api/keys/test%40test.com") if surface == "dashboard" else (tyk, "/tyk/keys/test@test.com")
    )
    await call("POST", path, SESSION)
    changed = {key: value for key, value in SESSION.items() if key != "basic_auth_data"}
    changed["apply_policy_id"] = ""
    changed["quota_max"] = 7
    assert (await call("PUT", path, changed))[0] == 200
    got = await curl("-u", "test@test.com:test123", gateway.url + "/login-api/")
    assert (got.status, got.headers["x-ratelimit-limit"]) == (200, "7")


async def test_post_without_a_password_over_a_user_is_refused(dashboard: Curl) -> None:
    await dashboard("POST", "/api/keys/test%40test.com", SESSION)
    without = {key: value for key, value in SESSION.items() if key != "basic_auth_data"}
    status, refused = await dashboard("POST", "/api/keys/test%40test.com", without)
    assert status == 400
    assert "password" in refused["Message"]


async def test_what_the_api_returns_is_accepted_as_input(
    gateway: GatewayFixture, dashboard: Curl, tyk: Curl, curl: Curl
) -> None:
    await dashboard("POST", "/api/keys/test%40test.com", SESSION)
    _, wrapper = await dashboard("GET", "/api/keys/test%40test.com")
    assert set(wrapper) == {"api_model", "key_id", "data", "key_hash"}
    assert "test123" not in str(wrapper)
    assert "$2" not in str(wrapper)
    for call, path, body in (
        (dashboard, "/api/keys/test%40test.com", wrapper),
        (dashboard, "/api/keys/test%40test.com", wrapper["data"]),
        (tyk, "/tyk/keys/test@test.com", wrapper["data"]),
        (tyk, "/tyk/keys/test@test.com", (await tyk("GET", "/tyk/keys/test@test.com"))[1]),
    ):
        status, answer = await call("PUT", path, body)
        assert (status, "warnings" in answer) == (200, False), answer
        assert (await curl("-u", "test@test.com:test123", gateway.url + "/login-api/")).status == 200


async def test_a_key_is_told_once_and_works(gateway: GatewayFixture, dashboard: Curl, curl: Curl) -> None:
    session = {key: value for key, value in SESSION.items() if key != "basic_auth_data"}
    _, made = await dashboard("POST", "/api/keys", session)
    key = made["key_id"]
    assert orjson.loads(base64.b64decode(key + "=" * (-len(key) % 4)))["org"] == "default"
    for header in (key, f"Bearer {key}"):
        assert (await curl("-H", f"Authorization: {header}", gateway.url + "/portal/")).status == 200
    _, listed = await dashboard("GET", "/api/keys")
    assert listed["data"]["keys"] == [made["key_hash"]]
    assert key not in str(await dashboard("GET", f"/api/keys/{made['key_hash']}"))


async def test_the_portal_shows_apis_and_policies(dashboard: Curl) -> None:
    _, apis = await dashboard("GET", "/api/apis")
    shown = {api["api_definition"]["api_id"]: api["api_definition"]["proxy"]["listen_path"] for api in apis["apis"]}
    assert shown == {"login": "/login-api/", "portal": "/portal/"}
    _, policies = await dashboard("GET", "/api/portal/policies")
    assert set(policies) == {"Data", "Pages"}
    [gold] = policies["Data"]
    assert (gold["_id"], gold["name"], gold["org_id"]) == ("gold", "Gold plan", "default")
    assert sorted(gold["access_rights"]) == ["login", "portal"]


async def test_who_has_no_credential_for_the_control_port_gets_nothing(gateway: GatewayFixture, curl: Curl) -> None:
    for path, status in (("/tyk/keys", 403), ("/api/keys", 401), ("/tyk/reload", 403)):
        assert (await curl(gateway.control_url + path)).status == status
        wrong = await curl("-H", "Authorization: wrong", "-H", "X-Tyk-Authorization: wrong", gateway.control_url + path)
        assert wrong.status == status
    assert (await curl(gateway.control_url + "/hello")).status == 200
    assert (await curl(gateway.control_url + "/ready")).status == 200
