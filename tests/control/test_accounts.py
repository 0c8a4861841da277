"""Organisations and dashboard users: made by the operator, limited to their own, with keys that are told once."""

from __future__ import annotations

import asyncio

import pytest

SECRET = "control-secret-0123456789abcdef"
ACCESS_KEY = "dashboard-key-0123456789abcdef"
ANN = {"org_id": "acme", "first_name": "Ann", "email_address": "ann@example.com"}


async def admin(control, method, path, body=None, secret=SECRET):
    return await control.call(method, f"/admin{path}", body, admin_auth=secret)


async def made(control, **details):
    answer = await admin(control, "POST", "/users", {**ANN, **details})
    assert answer.status == 200, answer.text
    return answer.json["Meta"]


@pytest.mark.parametrize("secret", ["", "wrong", SECRET + "x", ACCESS_KEY, "ä"])
async def test_nobody_comes_in_without_the_secret(control, secret):
    for method, path in (("GET", "/organisations"), ("POST", "/users"), ("DELETE", "/organisations/default")):
        answer = await admin(control, method, path, None, secret)
        assert (answer.status, answer.json) == (401, {"Status": "Error", "Message": "Not authorised", "Meta": None})
    answer = await control.call("GET", "/admin/organisations", X_Tyk_Authorization=SECRET, Authorization=ACCESS_KEY)
    assert answer.status == 401


async def test_an_organisation_goes_round(control):
    acme = {"owner_name": "Acme", "owner_slug": "acme", "cname": "api.acme.example", "cname_enabled": True}
    answer = await admin(control, "POST", "/organisations", acme)
    org = answer.json["Meta"]
    assert (answer.json["Message"], len(org)) == ("Org created", 24)
    shown = (await admin(control, "GET", f"/organisations/{org}")).json
    assert shown == {**acme, "id": org, "apis": []}
    assert (await admin(control, "PUT", f"/organisations/{org}", {**acme, "owner_name": "A"})).json["Message"] == (
        "Org updated"
    )
    listed = (await admin(control, "GET", "/organisations")).json
    assert (listed["pages"], {one["id"]: one["owner_name"] for one in listed["organisations"]}) == (
        0,
        {org: "A", "default": "default"},
    )
    default = next(one for one in listed["organisations"] if one["id"] == "default")
    assert {"api_human_name": "Portal", "api_id": "portal"} in default["apis"]
    assert (await admin(control, "DELETE", f"/organisations/{org}")).json["Message"] == "Org deleted"
    for method, body in (("GET", None), ("PUT", acme), ("DELETE", None)):
        assert (await admin(control, method, f"/organisations/{org}", body)).status == 404


async def test_an_organisation_that_is_in_use_stays(control):
    assert (await admin(control, "POST", "/organisations", {"id": "acme", "owner_name": "Acme"})).json["Meta"] == "acme"
    user = await made(control)
    await control.tyk("POST", "/keys/somebody", {"org_id": "acme", "access_rights": {"foreign": {}}})
    answer = await admin(control, "DELETE", "/organisations/acme")
    assert (answer.status, answer.json["Meta"]) == (
        409,
        ["API foreign", "policy acme", f"user {user['id']}", "1 key"],
    )
    assert (await admin(control, "DELETE", "/organisations/default")).status == 409
    assert (await admin(control, "POST", "/organisations", {"id": "acme", "owner_name": "B"})).status == 409
    assert (await admin(control, "PUT", "/organisations/acme", {"id": "b", "owner_name": "B"})).status == 400


@pytest.mark.parametrize(
    "body", [{}, {"owner_name": 5}, {"owner_name": "A", "id": " a"}, {"owner_name": "A" * 300}, []]
)
async def test_an_organisation_that_is_none(control, body):
    assert (await admin(control, "POST", "/organisations", body)).status == 400


async def test_a_user_sees_only_their_organisation(control):
    user = await made(control)
    key = user["access_key"]
    apis = (await control.api("GET", "/apis", key=key)).json["apis"]
    assert [one["api_definition"]["api_id"] for one in apis] == ["foreign"]
    assert (await control.api("GET", "/apis/login", key=key)).status == 404
    assert [one["id"] for one in (await control.api("GET", "/users", key=key)).json["users"]] == [user["id"]]
    other = (await control.api("POST", "/users", {"email_address": "bob@example.com", "org_id": "acme"})).json
    assert (await control.api("GET", f"/users/{other['Meta']}", key=key)).status == 404
    assert (await control.api("DELETE", f"/users/{other['Meta']}", key=key)).status == 404
    assert (await control.api("GET", f"/users/{other['Meta']}")).json["org_id"] == "default"
    assert (await control.api("GET", "/system/status", key=key)).json == {"generation": 1}
    assert "last_reload" in (await control.api("GET", "/system/status")).json
    await control.api("POST", "/keys/fresh", {"access_rights": {"foreign": {}}}, key=key)
    assert (await control.tyk("GET", "/keys/fresh")).json["org_id"] == "acme"


async def test_an_access_key_is_told_once_and_kept_as_a_hash(control, caplog):
    user = await made(control, password="correct horse battery")
    key = user["access_key"]
    assert (len(key), "password" in user, user["password_set"]) == (32, False, True)
    renewed = (await control.api("PUT", f"/users/{user['id']}/actions/key/reset", key=key)).json
    assert (await control.api("GET", "/apis", key=key)).status == 401
    another = renewed["access_key"]
    assert (await control.api("GET", "/apis", key=f"Bearer {another}")).status == 200
    control.answers.clear()
    await control.api("GET", "/users", key=another)
    await control.api("GET", f"/users/{user['id']}", key=another)
    await admin(control, "GET", "/users")
    await control.tyk("GET", "/keys")
    said = "".join(answer.text for answer in control.answers) + caplog.text
    kept = repr(await control.site.store.sessions.page())
    for secret in (key, another, "correct horse"):
        assert secret not in said
        assert secret not in kept
    assert "$2b$" not in said


async def test_a_user_is_changed_and_deleted(control):
    user = await made(control)
    key, one = user["access_key"], f"/users/{user['id']}"
    changed = {"email_address": "ann@example.com", "last_name": "Lee", "org_id": "default"}
    assert (await control.api("PUT", one, changed, key=key)).json["Message"] == "User updated"
    shown = (await control.api("GET", one, key=key)).json
    assert (shown["last_name"], shown["first_name"], shown["org_id"]) == ("Lee", "", "acme")
    assert (await control.api("POST", f"{one}/actions/reset", {"new_password": "first one"}, key=key)).status == 200
    wrong = {"new_password": "second one", "current_password": "nonsense"}
    assert (await control.api("POST", f"{one}/actions/reset", wrong, key=key)).status == 403
    right = {"new_password": "second one", "current_password": "first one"}
    assert (await control.api("POST", f"{one}/actions/reset", right, key=key)).json[
        "Message"
    ] == "User password updated"
    assert (await control.api("POST", f"{one}/actions/reset", {"new_password": "x" * 73}, key=key)).status == 400
    inactive = {**changed, "active": False}
    assert (await control.api("PUT", one, inactive, key=key)).status == 200
    assert (await control.api("GET", one, key=key)).status == 401
    other = await made(control, email_address="bob@example.com")
    assert (await control.api("DELETE", one, key=other["access_key"])).json["Message"] == "User deleted"
    assert (await control.api("GET", one, key=other["access_key"])).json["Message"] == "Could not retrieve user detail."


async def test_the_first_user_stays_as_it_is(control):
    assert (await control.api("GET", "/users/admin")).json["org_id"] == "default"
    for method, path, body in (
        ("PUT", "/users/admin", {"email_address": "a@b.c"}),
        ("DELETE", "/users/admin", None),
        ("PUT", "/users/admin/actions/key/reset", None),
    ):
        assert (await control.api(method, path, body)).status == 409


async def test_one_address_is_one_user_however_many_ask(control):
    answers = await asyncio.gather(*(admin(control, "POST", "/users", ANN) for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [200, 403, 403, 403, 403]
    assert (await admin(control, "POST", "/users", {**ANN, "email_address": "ANN@example.com"})).status == 403
    assert (await admin(control, "POST", "/users", {**ANN, "org_id": "other"})).status == 200


@pytest.mark.parametrize(
    ("permissions", "opened", "closed"),
    [
        ({"keys": "write"}, [("GET", "/keys"), ("POST", "/keys"), ("GET", "/apis/foreign/keys"), ("GET", "/apis/keys")],
         [("GET", "/apis"), ("GET", "/users"), ("GET", "/portal/policies"), ("GET", "/system/status")]),
        ({"apis": "read", "policies": "read"}, [("GET", "/apis"), ("GET", "/portal/policies")],
         [("POST", "/apis"), ("DELETE", "/apis/foreign"), ("POST", "/portal/policies"), ("GET", "/keys")]),
        ({"apis": "deny", "keys": "read"}, [("GET", "/keys")],
         [("GET", "/apis"), ("POST", "/keys"), ("GET", "//apis")]),
        ({"IsAdmin": "admin"}, [("GET", "/apis"), ("GET", "/users"), ("GET", "/system/status")], []),
        ({}, [("GET", "/apis"), ("GET", "/users"), ("GET", "/keys")], []),
    ],
)  # fmt: skip
async def test_permissions_open_sections(control, permissions, opened, closed):
    key = (await made(control, user_permissions=permissions))["access_key"]
    for method, path in opened:
        assert (await control.api(method, path, "{}" if method == "POST" else None, key=key)).status in (200, 400), path
    for method, path in closed:
        answer = await control.api(method, path, "{}" if method == "POST" else None, key=key)
        assert answer.status in (403, 404) if path.startswith("//") else answer.status == 403, path


async def test_nobody_gets_more_than_the_one_who_gives_it(control):
    low = await made(control, user_permissions={"users": "write", "keys": "read"})
    high = await made(control, email_address="bob@example.com")
    key = low["access_key"]
    for permissions in ({}, {"IsAdmin": "admin"}, {"keys": "write"}, {"apis": "read"}):
        body = {"email_address": "c@example.com", "user_permissions": permissions}
        assert (await control.api("POST", "/users", body, key=key)).status == 403
        assert (await control.api("PUT", f"/users/{low['id']}", {**ANN, **body}, key=key)).status == 403
    for method, path, body in (
        ("PUT", "", {"email_address": "bob@example.com", "user_permissions": {"keys": "read"}}),
        ("PUT", "/actions/key/reset", None),
        ("POST", "/actions/reset", {"new_password": "long enough"}),
        ("DELETE", "", None),
    ):
        assert (await control.api(method, f"/users/{high['id']}{path}", body, key=key)).status == 403
    body = {"email_address": "d@example.com", "user_permissions": {"keys": "read"}}
    assert (await control.api("POST", "/users", body, key=key)).status == 200


@pytest.mark.parametrize(
    "body",
    [{}, {"email_address": "no address"}, {"email_address": 5}, {"email_address": "a@b.c", "active": "yes"},
     {"email_address": "a@b.c", "user_permissions": {"apis": "all"}}, {"email_address": "a@b.c", "org_id": " users"},
     {"email_address": "a@b.c", "org_id": "acme", "password": "x" * 73}, {"email_address": "a@b.c"}],
)  # fmt: skip
async def test_a_user_that_is_none(control, body):
    answer = await admin(control, "POST", "/users", body)
    assert (answer.status, answer.json["Message"]) == (400, "User object validation failed.")


async def test_what_is_not_a_callers_to_set_is_not_set(control):
    sent = {"id": "admin", "access_key": "chosen-by-the-caller", "created_at": "x", "password_set": True}
    user = await made(control, **sent)
    assert user["id"] != "admin"
    assert user["access_key"] != "chosen-by-the-caller"
    assert user["password_set"] is False


async def test_no_key_call_reaches_a_user_or_an_organisation(control):
    user = await made(control)
    await admin(control, "POST", "/organisations", {"id": "acme", "owner_name": "Acme"})
    for record in await control.site.store.sessions.page():
        assert (await control.tyk("GET", f"/keys/{record.name_hash}")).status == 404
        assert (await control.tyk("DELETE", f"/keys/{record.name_hash}")).status == 404
    assert (await control.tyk("GET", "/keys?detail=1")).json == {"keys": [], "records": []}
    assert (await control.tyk("GET", f"/keys/{user['access_key']}?org_id=%20dashboard%20users")).status == 404
    assert (await control.api("GET", "/apis", key=user["access_key"])).status == 200


async def test_a_reload_by_the_operator(control):
    assert (await admin(control, "GET", "/system/reload")).json == {"status": "ok"}
    await asyncio.sleep(0)
    assert control.site.reloads == ["start", "control API"]
