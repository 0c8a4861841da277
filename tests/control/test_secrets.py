"""Planted secrets never come back: not in a reply, not in the log. A new key is told once."""

from __future__ import annotations

import json

import pytest

SECRET = "control-secret-0123456789abcdef"
ACCESS_KEY = "dashboard-key-0123456789abcdef"
LOGIN = {"access_rights": {"login": {}}}
CANARIES = {
    "password": "canary-password-91c1",
    "changed": "canary-password-changed-5d0e",
    "hmac": "canary-hmac-string-77aa",
    "jwt": "canary-jwt-secret-30bf",
    "oauth": "canary-oauth-token-4c21",
    "token": "canary-custom-token-8ef0",
}


def document(password=""):
    return {
        **LOGIN,
        "basic_auth_data": {"password": password},
        "hmac_string": CANARIES["hmac"],
        "jwt_data": {"secret": CANARIES["jwt"]},
        "oauth_keys": {"client": CANARIES["oauth"]},
        "alias": "label",
        "quota_max": 5,
        "quota_renewal_rate": 60,
    }


async def walk(control):
    """Every endpoint that meets a session, well and badly used."""
    user, changed = document(CANARIES["password"]), document(CANARIES["changed"])
    token = {**LOGIN, "alias": "token"}
    for surface, one, extra in ((control.tyk, "/keys/alice", "/keys/create"), (control.api, "/keys/carol", "/keys")):
        await surface("POST", one, user)
        await surface("GET", one)
        await surface("GET", f"{one}?raw=1")
        await surface("PUT", one, changed)
        await surface("PUT", one, document())
        await surface("POST", "/keys/preview", user)
        await surface("POST", extra, user)
        await surface("POST", extra, {**user, "rate": CANARIES["password"]})
        await surface("POST", one, json.dumps(user)[:-1])
        await surface("POST", one, {**user, "apply_policies": ["silver"]})
        await surface("POST", one, {**user, "basic_auth_data": {"password": CANARIES["password"] * 5}})
        await surface("POST", one, {**user, "basic_auth_data": CANARIES["password"]})
        await surface("GET", "/keys")
        await surface("DELETE", one)
        await surface("POST", one, user)
    await control.api("GET", "/keys/detailed")
    await control.api("GET", "/apis/login/keys/search")
    await control.api("POST", "/apis/keys/basic/dave", user)
    await control.tyk("POST", f"/keys/{CANARIES['token']}", token)
    made = control.answers.pop()
    assert made.json["key"] == CANARIES["token"]
    await control.tyk("GET", f"/keys/{CANARIES['token']}")
    await control.tyk("PUT", f"/keys/{CANARIES['token']}", token)
    await control.tyk("POST", f"/keys/{CANARIES['token']}", token)
    await control.tyk("POST", f"/keys/policy/{made.json['key_hash']}", {"policy": "gold"})
    await control.tyk("DELETE", f"/keys/{CANARIES['token']}/counters")
    await control.tyk("DELETE", f"/keys/{CANARIES['token']}")
    await control.tyk("GET", f"/keys/{CANARIES['token']}")
    for path in (
        "/tyk/reload?block=true",
        "/tyk/apis",
        "/tyk/policies",
        "/api/system/status",
        "/hello",
        "/ready",
        "/no",
    ):
        await control.call("GET", path, X_Tyk_Authorization=SECRET, Authorization=ACCESS_KEY)
        await control.call("GET", path, X_Tyk_Authorization=SECRET + "x", Authorization=ACCESS_KEY + "x")


async def test_planted_secrets_never_come_back(control, caplog):
    await walk(control)
    assert {200, 400, 404} <= {answer.status for answer in control.answers}
    said = "\n".join(f"{answer.headers}{answer.text}" for answer in control.answers)
    for name, canary in {**CANARIES, "secret": SECRET, "access key": ACCESS_KEY}.items():
        assert canary not in said, name
        assert canary not in caplog.text, name
    assert "$2b$" not in said
    assert "$2b$" not in caplog.text
    assert not [answer for answer in control.answers if answer.status >= 500]


async def test_events_hold_no_secret(control):
    await walk(control)
    published = repr(control.events)
    assert "TokenCreated" in published
    assert [name for name, canary in CANARIES.items() if canary in published] == []


@pytest.mark.parametrize(("surface", "field"), [("tyk", "key"), ("api", "key_id")])
async def test_a_generated_key_is_told_once(control, caplog, surface, field):
    call = getattr(control, surface)
    key = (await call("POST", "/keys", LOGIN)).json[field]
    control.answers.clear()
    for method, body in (
        ("GET", None),
        ("PUT", LOGIN),
        ("GET", None),
        ("POST", LOGIN),
        ("DELETE", None),
        ("GET", None),
    ):
        await call(method, f"/keys/{key}", body)
        await call("GET", "/keys")
    assert [answer.status for answer in control.answers[::2]] == [200, 200, 200, 200, 200, 404]
    assert not [answer for answer in control.answers if key in answer.text]
    assert key not in caplog.text


async def test_the_store_holds_no_plain_password_and_no_key(control):
    key = (await control.tyk("POST", "/keys", LOGIN)).json["key"]
    await control.tyk("POST", "/keys/alice", document(CANARIES["password"]))
    records = repr(await control.site.sessions.page())
    assert "alice" in records
    assert key not in records
    assert CANARIES["password"] not in records
