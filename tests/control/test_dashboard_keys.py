"""`/api/keys` and its relatives: the thread's walk, and every row with its failures."""

from __future__ import annotations

import base64
import json

import pytest

from aiogate.domain.account import stored_name

OTHER_KEY = "other-org-key-0123456789abcdef"
LOGIN = {"access_rights": {"login": {"api_id": "login", "api_name": "Login API", "versions": ["Default"]}}}
USER = {**LOGIN, "basic_auth_data": {"password": "test123", "hash_type": "bcrypt"}}
THREAD = {
    "last_check": 0,
    "allowance": 1000,
    "rate": 1000,
    "per": 1,
    "expires": 0,
    "quota_max": -1,
    "quota_renews": 1491497420,
    "quota_remaining": 0,
    "quota_renewal_rate": 31104000,
    "access_rights": {
        "login": {"api_id": "login", "api_name": "Login API", "versions": ["Default"]},
        "portal": {"api_id": "portal", "api_name": "Portal", "versions": ["Default"]},
    },
    "tags": ["newuser"],
    "jwt_data": {"secret": ""},
    "meta_data": {},
    "basic_auth_data": {"password": "test123", "hash_type": "bcrypt"},
}
THREAD_FIELDS = [
    "last_check",
    "allowance",
    "rate",
    "per",
    "expires",
    "quota_max",
    "quota_renews",
    "quota_remaining",
    "quota_renewal_rate",
    "access_rights",
    "org_id",
    "oauth_client_id",
    "basic_auth_data",
    "jwt_data",
    "hmac_enabled",
    "hmac_string",
    "is_inactive",
    "apply_policy_id",
    "data_expires",
    "monitor",
    "meta_data",
    "tags",
]


def error(message, meta=None):
    return {"Status": "Error", "Message": message, "Meta": meta}


async def test_the_walk_of_the_thread(control):
    listed = (await control.api("GET", "/apis")).json["apis"]
    by_name = {api["api_definition"]["name"]: api["api_definition"] for api in listed}
    assert by_name["Login API"]["api_id"] == "login"
    assert by_name["Login API"]["proxy"]["listen_path"] == "/login-api/"
    policies = (await control.api("GET", "/portal/policies")).json["Data"]
    gold = next(policy["_id"] for policy in policies if policy["name"] == "Gold plan")

    made = await control.api("POST", "/keys/test%40test.com", {**THREAD, "apply_policy_id": gold})
    assert made.status == 200
    assert list(made.json) == ["api_model", "key_id", "data", "key_hash"]
    assert (made.json["api_model"], made.json["key_id"]) == ({}, "test@test.com")
    data = made.json["data"]
    assert [name for name in data if name in THREAD_FIELDS] == THREAD_FIELDS
    assert data["org_id"] == "default"
    assert data["basic_auth_data"] == {"password": "", "hash_type": "bcrypt"}
    assert data["monitor"] == {"trigger_limits": None}
    assert (data["apply_policy_id"], data["tags"]) == ("gold", ["gold", "newuser"])
    rule = {"url": "^/users/.*", "methods": ["GET"]}
    assert data["access_rights"]["login"]["allowed_urls"] == [rule]

    record = await control.site.sessions.get_record(made.json["key_hash"])
    stored = json.loads(record.document)["basic_auth_data"]["password"]
    assert await control.site.passwords.verify(record.name_hash, stored, "test123")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/keys/alice", USER),
        ("/apis/keys/basic/alice", USER),
        ("/keys?basic_auth=true", {**LOGIN, "basic_auth_data": {"user": "alice", "password": "test123"}}),
    ],
)
async def test_the_ways_to_make_a_user(control, path, body):
    made = await control.api("POST", path, body)
    assert (made.status, made.json["key_id"], made.json["key_hash"]) == (200, "alice", stored_name("default", "alice"))
    shown = await control.api("GET", "/keys/alice")
    assert shown.json == made.json


async def test_a_key_is_told_once(control):
    made = (await control.api("POST", "/keys", LOGIN)).json
    assert json.loads(base64.b64decode(made["key_id"]))["org"] == "default"
    shown = (await control.api("GET", f"/keys/{made['key_id']}")).json
    assert shown["key_id"] == shown["key_hash"] == made["key_hash"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/keys", USER, "Failed to create key - a basic-auth user needs a name"),
        ("/keys?basic_auth=true", USER, "Failed to create key - basic_auth_data.user is missing"),
        (
            "/keys?basic_auth=true",
            {**LOGIN, "basic_auth_data": {"user": "alice"}},
            "Failed to create key - basic_auth_data.password is missing",
        ),
        ("/apis/keys/basic/alice", LOGIN, "Failed to create key - basic_auth_data.password is missing"),
        (
            "/keys/a:b:c",
            USER,
            "Failed to create key - a user name cannot hold a colon: HTTP basic authentication splits there",
        ),
        ("/keys", {}, "Failed to create key, keys must have at least one Access Rights record set."),
        ("/keys/alice", {}, "Failed to create key, ensure security settings are correct."),
        ("/keys", {**LOGIN, "apply_policy_id": "silver"}, 'Failed to create key - policy not found: "silver"'),
    ],
)
async def test_a_create_that_stores_nothing_says_so(control, path, body, message):
    answer = await control.api("POST", path, body)
    assert (answer.status, answer.json["Status"], answer.json["Message"]) == (400, "Error", message)
    assert (await control.api("GET", "/keys")).json == {"data": {"keys": []}, "pages": 0}


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("POST", "/keys", "Request body malformed."),
        ("POST", "/keys/alice", "Request body malformed."),
        ("POST", "/keys/preview", "Request body malformed."),
        ("POST", "/apis/keys/basic/alice", "Request body malformed."),
        ("PUT", "/keys/alice", "User/Key object validation failed, most likely malformed input."),
        ("PUT", "/apis/login/keys/alice", "User/Key object validation failed, most likely malformed input."),
    ],
)
async def test_a_malformed_body_says_where_it_broke(control, method, path, message):
    answer = await control.api(method, path, '{"rate": 1,\n "per" 1}')
    assert (answer.status, answer.json["Status"], answer.json["Message"]) == (400, "Error", message)
    assert answer.json["Meta"][0].startswith("line 2, column 8: ")
    answer = await control.api(method, path, {"rate": "many"})
    assert (answer.status, answer.json["Message"]) == (400, message)
    assert answer.json["Meta"][0].startswith("rate: ")


async def test_the_callers_organisation_overrides_the_body(control):
    made = await control.api("POST", "/keys/alice", {**USER, "org_id": "acme"})
    assert made.json["data"]["org_id"] == "default"
    assert made.json["key_hash"] == stored_name("default", "alice")


@pytest.mark.parametrize("one", ["/keys/alice", "/apis/keys/basic/alice", "/apis/login/keys/alice"])
async def test_get_put_and_delete(control, one):
    await control.api("POST", "/keys/alice", USER)
    shown = await control.api("GET", one)
    assert (shown.status, shown.json["key_id"], shown.json["data"]["alias"]) == (200, "alice", "")
    changed = await control.api("PUT", one, {**LOGIN, "alias": "Alice"})
    assert (changed.status, changed.json["key_id"], changed.json["data"]["alias"]) == (200, "alice", "Alice")
    deleted = await control.api("DELETE", one)
    assert (deleted.status, deleted.json) == (
        200,
        {"Status": "OK", "Message": "Key deleted successfully.", "Meta": None},
    )
    for method, refusal in (
        ("GET", "Could not retrieve key detail."),
        ("PUT", "Key is not found"),
        ("DELETE", "Could not retrieve key detail."),
    ):
        answer = await control.api(method, one, LOGIN if method == "PUT" else None)
        assert (answer.status, answer.json) == (404, error(refusal))


async def test_a_user_may_be_called_by_hash_and_by_organisation_and_name(control):
    made = (await control.api("POST", "/keys/alice", USER)).json
    for call in (made["key_hash"], f"{made['key_hash']}?hashed=1", "defaultalice", "alice?auto_guess=true"):
        assert (await control.api("GET", f"/keys/{call}")).json == made


async def test_raw_shows_the_stored_session(control):
    await control.api("POST", "/keys/alice", {**USER, "apply_policies": ["gold"]})
    assert (await control.api("GET", "/keys/alice")).json["data"]["rate"] == 1000
    assert (await control.api("GET", "/keys/alice?raw=1")).json["data"]["rate"] == 0


async def test_the_keys_of_an_organisation_are_its_own(control):
    made = (await control.api("POST", "/keys/alice", USER)).json
    hashed = made["key_hash"]
    for call in ("alice", hashed, f"{hashed}?hashed=1", "defaultalice"):
        for method in ("GET", "PUT", "DELETE"):
            body = {"access_rights": {"foreign": {}}} if method == "PUT" else None
            answer = await control.api(method, f"/keys/{call}", body, key=OTHER_KEY)
            assert answer.status == 404
            assert answer.json["Message"] in ("Could not retrieve key detail.", "Key is not found")
    assert (await control.api("GET", "/keys", key=OTHER_KEY)).json == {"data": {"keys": []}, "pages": 0}
    assert (await control.api("GET", "/keys/detailed", key=OTHER_KEY)).json == {"keys": [], "pages": 0}
    assert (await control.api("GET", "/keys/alice")).json == made
    theirs = await control.api("POST", "/keys/alice", {**USER, "access_rights": {"foreign": {}}}, key=OTHER_KEY)
    assert theirs.json["key_hash"] == stored_name("acme", "alice")
    assert (await control.api("GET", "/keys/alice")).json == made


async def test_the_keys_of_an_api(control):
    await control.api("POST", "/keys/alice", USER)
    await control.api("POST", "/keys/bob", {**USER, "access_rights": {"portal": {}}})
    await control.api("POST", "/keys/carol", {**USER, "access_rights": {}, "apply_policies": ["gold"]})
    hashes = {name: stored_name("default", name) for name in ("alice", "bob", "carol")}
    answer = await control.api("GET", "/apis/login/keys")
    assert answer.json == {"data": {"keys": sorted([hashes["alice"], hashes["carol"]])}, "pages": 0}
    detailed = (await control.api("GET", "/apis/portal/keys/search")).json["keys"]
    assert {key["key_id"] for key in detailed} == {"bob", "carol"}
    by_query = (await control.api("GET", "/keys?api_id=portal")).json["data"]["keys"]
    assert by_query == sorted([hashes["bob"], hashes["carol"]])
    assert (await control.api("GET", "/apis/login/keys/bob")).status == 404
    assert (await control.api("DELETE", "/apis/login/keys/bob")).status == 404
    assert (await control.api("GET", "/apis/portal/keys/bob")).status == 200


@pytest.mark.parametrize("api", ["nothing", "foreign"])
async def test_the_keys_of_an_api_that_is_not_there(control, api):
    answer = await control.api("GET", f"/apis/{api}/keys")
    assert (answer.status, answer.json) == (404, error("Could not retrieve keys.", [f"API '{api}' does not exist"]))
    answer = await control.api("GET", f"/apis/{api}/keys/alice")
    assert (answer.status, answer.json["Message"]) == (404, "Could not retrieve key detail.")


async def test_pages_of_ten(control):
    names = [f"user-{number:02}" for number in range(23)]
    for name in names:
        await control.api("POST", f"/keys/{name}", LOGIN)
    hashes = sorted(stored_name("default", name) for name in names)
    for path in ("/keys", "/apis/keys", "/apis/login/keys", "/apis/login/keys/"):
        for page in (1, 2, 3, 4):
            answer = (await control.api("GET", f"{path}?p={page}")).json
            assert answer == {"data": {"keys": hashes[(page - 1) * 10 : page * 10]}, "pages": 3}
        for everything in ("", "?p=0", "?p=-1"):
            assert (await control.api("GET", path + everything)).json == {"data": {"keys": hashes}, "pages": 0}
    answer = await control.api("GET", "/keys?p=two")
    assert (answer.status, answer.json) == (400, error("The parameter 'p' is not a whole number"))


async def test_details_give_kind_and_label_and_never_a_key(control):
    await control.api("POST", "/keys/alice", USER)
    made = (await control.api("POST", "/keys", {**LOGIN, "alias": "robot"})).json
    answer = await control.api("GET", "/keys/detailed")
    by_label = {key["label"]: key for key in answer.json["keys"]}
    assert (by_label["alice"]["kind"], by_label["alice"]["key_id"]) == ("basic", "alice")
    assert (by_label["robot"]["kind"], by_label["robot"]["key_id"]) == ("key", made["key_hash"])
    assert made["key_id"] not in answer.text
    found = (await control.api("GET", "/keys/detailed?q=rob&p=1")).json
    assert ([key["label"] for key in found["keys"]], found["pages"]) == (["robot"], 1)


async def test_preview(control):
    answer = await control.api("POST", "/keys/preview", {**USER, "apply_policies": ["gold"], "org_id": "acme"})
    assert (answer.status, answer.json["org_id"], answer.json["rate"]) == (200, "default", 1000)
    answer = await control.api("POST", "/keys/preview", {**USER, "apply_policies": ["silver"]})
    assert answer.json["warnings"] == ["policy not found: silver"]
    assert (await control.api("GET", "/keys")).json["data"]["keys"] == []


async def test_warnings_travel_with_the_reply(control):
    answer = await control.api("POST", "/keys/alice", {**USER, "access_rights": {"gone": {}}})
    assert (answer.status, answer.json["warnings"]) == (200, ['API "gone" is not loaded'])


async def test_the_reply_is_accepted_as_the_next_body(control):
    made = (await control.api("POST", "/keys/alice", {**USER, "tags": ["a"]})).json
    answer = await control.api("PUT", "/keys/alice", made)
    assert (answer.status, answer.json["data"]["tags"]) == (200, ["a"])
    record = await control.site.sessions.get_record(made["key_hash"])
    assert json.loads(record.document)["basic_auth_data"]["password"].startswith("$2b$")
