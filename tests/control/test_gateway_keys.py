"""`/tyk/keys`: every row of the endpoint table, its failures, and the rules of a write."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from aiogate.domain.account import stored_name
from aiogate.domain.limits import Bucket

LOGIN = {"access_rights": {"login": {"api_id": "login", "api_name": "Login API", "versions": ["Default"]}}}
ALICE = {**LOGIN, "basic_auth_data": {"password": "correct horse", "hash_type": "plain"}}
NO_RIGHTS = "Failed to create key, keys must have at least one Access Rights record set."
INSECURE = "Failed to create key, ensure security settings are correct."


def name_hash(name, org="default"):
    return stored_name(org, name)


async def stored(control, name, org="default"):
    record = await control.site.sessions.get_record(stored_name(org, name))
    return None if record is None else json.loads(record.document)


# create


@pytest.mark.parametrize("path", ["/keys/create", "/keys"])
async def test_create_makes_a_key_of_tyks_form(control, path):
    answer = await control.tyk("POST", path, LOGIN)
    key = answer.json["key"]
    assert answer.json == {"key": key, "status": "ok", "action": "added", "key_hash": name_hash(key)}
    named = json.loads(base64.b64decode(key))
    assert (named["org"], named["h"], len(named["id"])) == ("default", "sha256", 32)
    assert (await control.tyk("GET", f"/keys/{key}")).json["access_rights"]["login"]["versions"] == ["Default"]


async def test_two_creates_make_two_keys(control):
    first = (await control.tyk("POST", "/keys/create", LOGIN)).json["key"]
    second = (await control.tyk("POST", "/keys/create", LOGIN)).json["key"]
    listed = (await control.tyk("GET", "/keys")).json["keys"]
    assert listed == sorted([name_hash(first), name_hash(second)])


async def test_create_without_rights_is_refused(control):
    for body in ({}, {"access_rights": {}}, {"access_rights": None, "rate": 5, "per": 1}):
        answer = await control.tyk("POST", "/keys/create", body)
        assert (answer.status, answer.json["status"], answer.json["message"]) == (400, "error", NO_RIGHTS)
    assert (await control.tyk("GET", "/keys")).json == {"keys": []}


async def test_create_with_only_a_policy(control):
    answer = await control.tyk("POST", "/keys/create", {"apply_policies": ["gold"]})
    shown = (await control.tyk("GET", f"/keys/{answer.json['key']}")).json
    assert sorted(shown["access_rights"]) == ["login", "portal"]
    assert (shown["rate"], shown["per"], shown["quota_max"], shown["tags"]) == (1000, 60, 100, ["gold"])


async def test_a_password_without_a_name_says_where_to_post_it(control):
    for path in ("/keys/create", "/keys"):
        answer = await control.tyk("POST", path, ALICE)
        assert (answer.status, answer.json["message"]) == (400, "Failed to create key - a basic-auth user needs a name")
        assert "/tyk/keys/{name}" in answer.json["details"][0]
        assert "/api/keys/{username}" in answer.json["details"][0]
    assert (await control.tyk("GET", "/keys")).json == {"keys": []}


# what a body may be


@pytest.mark.parametrize(
    ("method", "path", "text"),
    [
        ("POST", "/keys/create", "Unmarshalling failed"),
        ("POST", "/keys", "Unmarshalling failed"),
        ("POST", "/keys/preview", "Unmarshalling failed"),
        ("POST", "/keys/alice", "Request malformed"),
        ("PUT", "/keys/alice", "Request malformed"),
        ("POST", f"/keys/policy/{'0' * 64}", "Couldn't decode instruction"),
    ],
)
@pytest.mark.parametrize(
    ("body", "where"),
    [
        ('{\n  "rate": 5,\n}', "line 2, column 12: trailing comma is not allowed"),
        ("", "line 1, column 1: the body is empty"),
        (b'{\n"alias": "\xff"}', "line 2, column 11: not UTF-8 text"),
        ("[1]", "line 1, column 1: a JSON object is expected"),
        ('{"rate": NaN}', "line 1, column 10: unexpected character, expected a JSON value"),
        ('{"rate": 1, "rate": 2}', "the key 'rate' stands twice in one object"),
        ('{"a":' * 1010 + "1" + "}" * 1010, "the body is nested too deeply"),
    ],
)
async def test_malformed_json_says_where_it_broke(control, method, path, text, body, where):
    answer = await control.tyk(method, path, body)
    assert answer.json == {"status": "error", "message": text, "details": [where]}
    assert answer.status == 400


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("rate", "many", "rate"),
        ("quota_max", 1e30, "quota_max"),
        ("access_rights", ["login"], "access_rights"),
        ("basic_auth_data", "secret", "basic_auth_data"),
        ("max_query_depth", 5, "max_query_depth"),
        ("tags", "gold", "tags"),
    ],
)
async def test_each_wrong_field_is_named(control, field, value, path):
    answer = await control.tyk("POST", "/keys/alice", {**ALICE, field: value})
    assert (answer.status, answer.json["message"]) == (400, "Request malformed")
    assert [detail.partition(":")[0] for detail in answer.json["details"]] == [path]
    assert await stored(control, "alice") is None


async def test_all_wrong_fields_are_named_together(control):
    answer = await control.tyk("POST", "/keys/alice", {**ALICE, "rate": "many", "expires": "soon"})
    assert [detail.partition(":")[0] for detail in answer.json["details"]] == ["rate", "expires"]


async def test_what_a_key_request_returned_is_accepted_whole(control):
    await control.tyk("POST", "/keys/alice", ALICE)
    shown = (await control.tyk("GET", "/keys/alice")).json
    wrapped = {"api_model": {}, "key_id": "", "data": {**shown, "alias": "Alice"}}
    answer = await control.tyk("PUT", "/keys/alice", wrapped)
    assert (answer.status, answer.json["action"]) == (200, "modified")
    assert (await control.tyk("GET", "/keys/alice")).json["alias"] == "Alice"


async def test_a_form_content_type_is_no_obstacle(control):
    answer = await control.call(
        "POST",
        "/tyk/keys/alice",
        json.dumps(ALICE),
        X_Tyk_Authorization=control.site.secret,
        Content_Type="application/x-www-form-urlencoded",
    )
    assert (answer.status, answer.json["key"]) == (200, "alice")


# named


async def test_a_basic_auth_user_is_made_by_posting_a_password_to_a_name(control):
    answer = await control.tyk("POST", "/keys/alice", ALICE)
    assert answer.json == {"key": "alice", "status": "ok", "action": "added", "key_hash": name_hash("alice")}
    record = await control.site.sessions.get_record(name_hash("alice"))
    assert (record.kind, record.label, record.org) == ("basic", "alice", "default")
    password = (await stored(control, "alice"))["basic_auth_data"]
    assert password["hash_type"] == "bcrypt"
    assert await control.site.passwords.verify(record.name_hash, password["password"], "correct horse")


async def test_a_custom_key(control):
    answer = await control.tyk("POST", "/keys/my-own-token", {**LOGIN, "alias": "mine"})
    assert (answer.json["key"], answer.json["key_hash"]) == ("my-own-token", name_hash("my-own-token"))
    record = await control.site.sessions.get_record(name_hash("my-own-token"))
    assert (record.kind, record.label) == ("key", "mine")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("test%40test.com", "test@test.com"),
        ("a%2Fb%2fc", "a/b/c"),
        ("50%25", "50%"),
        ("%C3%BCser", "üser"),
        ("a%7Bb%7D", "a{b}"),
    ],
)
async def test_names_are_decoded_once(control, path, name):
    answer = await control.tyk("POST", f"/keys/{path}", ALICE)
    assert (answer.json["key"], answer.json["key_hash"]) == (name, name_hash(name))
    assert (await control.tyk("GET", f"/keys/{path}")).status == 200
    assert (await control.tyk("DELETE", f"/keys/{path}")).json["key"] == name


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("al", "Failed to create key - the name has 2 characters, at least 3 are needed"),
        ("a:b:c", "Failed to create key - a user name cannot hold a colon: HTTP basic authentication splits there"),
        ("f" * 64, "Failed to create key - the name has the form of a key hash; it could not be told from one"),
        ("ali%0Ace", "Failed to create key - the name holds a control character"),
    ],
)
async def test_names_that_cannot_be(control, path, reason):
    answer = await control.tyk("POST", f"/keys/{path}", ALICE)
    assert (answer.status, answer.json["message"]) == (400, reason)


async def test_a_colon_is_fine_in_a_key(control):
    assert (await control.tyk("POST", "/keys/a:b:c", LOGIN)).json["key"] == "a:b:c"


async def test_a_key_does_not_become_a_user_with_a_colon(control):
    await control.tyk("POST", "/keys/a:b:c", LOGIN)
    answer = await control.tyk("POST", "/keys/a:b:c", ALICE)
    assert answer.status == 400
    assert (await control.site.sessions.get_record(name_hash("a:b:c"))).kind == "key"


@pytest.mark.parametrize("password", ["x" * 73, "ü" * 37, "nul\0"])
async def test_a_password_that_bcrypt_cannot_take(control, password):
    answer = await control.tyk("POST", "/keys/alice", {**LOGIN, "basic_auth_data": {"password": password}})
    assert (answer.status, answer.json["message"]) == (400, "Failed to create key - the password cannot be used")
    assert password not in answer.text
    assert await stored(control, "alice") is None


async def test_named_without_rights_is_refused(control):
    answer = await control.tyk("POST", "/keys/alice", {"basic_auth_data": {"password": "correct horse"}})
    assert (answer.status, answer.json["message"]) == (400, INSECURE)
    assert await stored(control, "alice") is None


@pytest.mark.parametrize(("method", "path"), [("POST", "/keys/create"), ("POST", "/keys/bob"), ("PUT", "/keys/alice")])
async def test_unknown_policies_are_refused_each_one_named(control, method, path):
    await control.tyk("POST", "/keys/alice", ALICE)
    answer = await control.tyk(method, path, {**LOGIN, "apply_policies": ["gold", "silver", "bronze"]})
    assert answer.json == {
        "status": "error",
        "message": 'Failed to create key - policy not found: "silver", "bronze"',
        "details": ['policy "silver" does not exist', 'policy "bronze" does not exist'],
    }
    assert answer.status == 400
    assert (await stored(control, "alice")).get("apply_policies") == []


async def test_a_policy_of_another_organisation_is_refused(control):
    answer = await control.tyk("POST", "/keys/create", {**LOGIN, "apply_policies": ["acme"], "org_id": "default"})
    assert answer.status == 400
    assert "policy acme belongs to organisation 'acme'" in answer.json["message"]


async def test_an_api_that_is_not_loaded_is_stored_and_named(control):
    body = {"access_rights": {"login": {}, "gone": {}, "foreign": {}}, "org_id": "default"}
    answer = await control.tyk("POST", "/keys/create", body)
    assert answer.status == 200
    assert answer.json["warnings"] == [
        'API "gone" is not loaded',
        'API "foreign" belongs to organisation "acme", this key to "default"',
    ]
    shown = (await control.tyk("GET", f"/keys/{answer.json['key']}")).json
    assert sorted(shown["access_rights"]) == ["foreign", "gone", "login"]


# overwriting


async def test_a_post_overwrites(control):
    await control.tyk("POST", "/keys/alice", {**ALICE, "alias": "old", "tags": ["a"]})
    answer = await control.tyk("POST", "/keys/alice", {**ALICE, "basic_auth_data": {"password": "new one"}})
    assert (answer.json["key"], answer.json["action"]) == ("alice", "added")
    document = await stored(control, "alice")
    assert (document["alias"], document["tags"]) == ("", [])
    assert await control.site.passwords.verify("", document["basic_auth_data"]["password"], "new one")


async def test_a_post_over_a_user_needs_a_password(control):
    await control.tyk("POST", "/keys/alice", ALICE)
    answer = await control.tyk("POST", "/keys/alice", {**LOGIN, "alias": "no password"})
    assert answer.status == 400
    assert answer.json["message"] == "Failed to create key - 'alice' is a basic-auth user and needs a password"
    assert "use PUT, which keeps the password" in answer.json["details"][0]
    assert (await stored(control, "alice"))["alias"] == ""


async def test_a_put_keeps_the_password_and_the_date_of_creation(control):
    await control.tyk("POST", "/keys/alice", ALICE)
    before = await stored(control, "alice")
    control.site.clock.advance(60)
    answer = await control.tyk("PUT", "/keys/alice", {**LOGIN, "alias": "changed"})
    assert answer.json == {"key": "alice", "status": "ok", "action": "modified", "key_hash": name_hash("alice")}
    after = await stored(control, "alice")
    assert after["basic_auth_data"] == before["basic_auth_data"]
    assert (after["date_created"], after["alias"]) == (before["date_created"], "changed")
    assert int(after["last_updated"]) == int(before["last_updated"]) + 60


async def test_a_put_with_a_password_changes_it(control):
    await control.tyk("POST", "/keys/alice", ALICE)
    await control.tyk("PUT", "/keys/alice", {**LOGIN, "basic_auth_data": {"password": "another"}})
    document = await stored(control, "alice")
    assert await control.site.passwords.verify("", document["basic_auth_data"]["password"], "another")


async def test_a_put_replaces_and_does_not_merge(control):
    await control.tyk("POST", "/keys/alice", {**ALICE, "tags": ["a"], "rate": 5, "per": 1})
    await control.tyk("PUT", "/keys/alice", LOGIN)
    document = await stored(control, "alice")
    assert (document["tags"], document["rate"]) == ([], 0)


async def test_a_put_of_nothing_is_404(control):
    for path in ("/keys/nobody", f"/keys/{'0' * 64}", f"/keys/{'0' * 64}?hashed=1"):
        answer = await control.tyk("PUT", path, LOGIN)
        assert (answer.status, answer.json) == (404, {"status": "error", "message": "Key is not found"})
    answer = await control.tyk("POST", f"/keys/{'0' * 64}?hashed=1", LOGIN)
    assert (answer.status, answer.json["message"]) == (404, "Key is not found")


async def test_a_put_never_changes_the_kind(control):
    await control.tyk("POST", "/keys/my-own-token", LOGIN)
    for change in ({"basic_auth_data": {"password": "x"}}, {"hmac_enabled": True}, {"jwt_data": {"secret": "x"}}):
        answer = await control.tyk("PUT", "/keys/my-own-token", {**LOGIN, **change})
        assert answer.json["message"] == "Failed to create key - PUT does not change the kind of a key"
        assert answer.status == 400
    assert (await control.site.sessions.get_record(name_hash("my-own-token"))).kind == "key"


# how a record may be called


async def test_a_user_may_be_called_by_name_by_organisation_and_name_and_by_hash(control):
    await control.tyk("POST", "/keys/alice", ALICE)
    hashed = name_hash("alice")
    for call in (
        "alice",
        "defaultalice",
        hashed,
        f"{hashed}?hashed=1",
        hashed.upper(),
        "alice?username=true&org_id=default",
    ):
        shown = await control.tyk("GET", f"/keys/{call}")
        assert (shown.status, shown.json["org_id"]) == (200, "default")
        written = await control.tyk("PUT", f"/keys/{call}", {**LOGIN, "alias": call})
        assert (written.json["key"], written.json["key_hash"]) == ("alice", hashed)
    assert (await control.tyk("GET", "/keys")).json["keys"] == [hashed]
    assert (await control.tyk("DELETE", "/keys/defaultalice")).json["key"] == "alice"


async def test_a_key_may_be_called_by_its_text_and_by_its_hash(control):
    made = (await control.tyk("POST", "/keys/create", LOGIN)).json
    for call in (made["key"], made["key_hash"], f"{made['key_hash']}?hashed=true"):
        written = await control.tyk("PUT", f"/keys/{call}", {**LOGIN, "alias": "x"})
        assert written.json == {
            "key": made["key_hash"],
            "status": "ok",
            "action": "modified",
            "key_hash": made["key_hash"],
        }
    assert (await control.tyk("DELETE", f"/keys/{made['key']}")).json["key"] == made["key_hash"]


async def test_hashed_takes_nothing_but_a_hash(control):
    await control.tyk("POST", "/keys/alice", ALICE)
    answer = await control.tyk("GET", "/keys/alice?hashed=1")
    assert (answer.status, answer.json["message"]) == (404, "Key not found")


async def test_one_name_in_two_organisations(control):
    await control.tyk("POST", "/keys/alice", ALICE)
    body = {**ALICE, "access_rights": {"foreign": {}}, "org_id": "acme"}
    assert (await control.tyk("POST", "/keys/alice", body)).json["key_hash"] == name_hash("alice", "acme")
    answer = await control.tyk("GET", "/keys/alice")
    assert (answer.status, answer.json["message"]) == (400, "This name exists in several organisations")
    assert answer.json["details"] == ["say org_id, one of: acme, default"]
    assert (await control.tyk("GET", "/keys/alice?org_id=acme")).json["org_id"] == "acme"
    assert (await control.tyk("DELETE", "/keys/acmealice")).json["key_hash"] == name_hash("alice", "acme")
    assert (await control.tyk("GET", "/keys/alice")).json["org_id"] == "default"


async def test_the_organisation_of_a_new_key(control):
    foreign = {"access_rights": {"foreign": {}}}
    for path, body, org in [
        ("/keys/one", LOGIN, "default"),
        ("/keys/two", foreign, "acme"),
        ("/keys/three", {"apply_policies": ["acme"]}, "acme"),
        ("/keys/four", {"access_rights": {"gone": {}}}, "default"),
        ("/keys/five?org_id=acme", {"access_rights": {"gone": {}}}, "acme"),
        ("/keys/six", {**foreign, "org_id": "acme"}, "acme"),
    ]:
        name = path.split("/")[-1].split("?")[0]
        assert (await control.tyk("POST", path, body)).json["key_hash"] == stored_name(org, name)
    answer = await control.tyk("POST", "/keys/seven", {"access_rights": {"login": {}, "foreign": {}}})
    assert (answer.status, answer.json["message"]) == (400, "Failed to create key - org_id is missing")
    assert answer.json["details"] == ["what the key names belongs to several: acme, default"]


async def test_a_user_of_a_tyk_organisation_may_be_posted_by_both_in_one_word(control):
    org = "570534390b79010001000001"
    answer = await control.tyk("POST", f"/keys/{org}alice", {**ALICE, "org_id": org})
    assert (answer.json["key"], answer.json["key_hash"]) == ("alice", stored_name(org, "alice"))


# what a write sets


async def test_an_expiry_in_the_past_gives_way(control):
    now = int(control.site.clock.now())
    await control.tyk("POST", "/keys/alice", {**ALICE, "expires": now - 1})
    assert (await stored(control, "alice"))["expires"] == 0
    await control.tyk("PUT", "/keys/alice", {**LOGIN, "expires": now + 100})
    await control.tyk("PUT", "/keys/alice", {**LOGIN, "expires": now - 100})
    assert (await stored(control, "alice"))["expires"] == now + 100
    await control.tyk("PUT", "/keys/alice", {**LOGIN, "expires": -1})
    assert (await stored(control, "alice"))["expires"] == -1


async def test_a_trial_policy_limits_a_new_key_only(control):
    now = int(control.site.clock.now())
    await control.tyk("POST", "/keys/alice", {**ALICE, "apply_policies": ["trial"]})
    assert (await stored(control, "alice"))["expires"] == now + 86400
    await control.tyk("PUT", "/keys/alice", {**LOGIN, "apply_policies": ["trial"], "expires": 0})
    assert (await stored(control, "alice"))["expires"] == 0


async def test_dates_are_set(control):
    await control.tyk(
        "POST", "/keys/alice", {**ALICE, "date_created": "1999-01-01T00:00:00Z", "quota_renewal_rate": 60}
    )
    document = await stored(control, "alice")
    now = int(control.site.clock.now())
    assert (document["date_created"], document["last_updated"]) == ("2023-11-14T22:13:20Z", str(now))
    assert document["quota_renews"] == now + 60


async def test_a_lifetime_is_given_to_the_store(control):
    now = control.site.clock.now()
    await control.tyk("POST", "/keys/alice", {**ALICE, "expires": int(now) + 60, "post_expiry_action": "delete"})
    assert (await control.site.sessions.get_record(name_hash("alice"))).delete_at == int(now) + 60
    control.site.clock.advance(61)
    assert (await control.tyk("GET", "/keys/alice")).json["message"] == "Key not found"


# counters


async def spend(control, name, times, limit=10, window=60.0, scope="", kind="quota"):
    bucket = Bucket(f"{kind}:{scope}:{name_hash(name)}", limit, window, kind)
    for _ in range(times):
        control.site.store.counters.take([bucket], control.site.clock.now())


async def remaining(control, name):
    return (await control.tyk("GET", f"/keys/{name}")).json["quota_remaining"]


QUOTA = {**ALICE, "quota_max": 10, "quota_renewal_rate": 60}


async def test_a_read_shows_the_live_counter(control):
    await control.tyk("POST", "/keys/alice", {**QUOTA, "quota_remaining": 999})
    assert await remaining(control, "alice") == 10
    await spend(control, "alice", 4)
    shown = (await control.tyk("GET", "/keys/alice")).json
    assert (shown["quota_remaining"], shown["quota_renews"]) == (6, int(control.site.clock.now()) + 60)
    control.site.clock.advance(61)
    shown = (await control.tyk("GET", "/keys/alice")).json
    assert (shown["quota_remaining"], shown["quota_renews"]) == (10, int(control.site.clock.now()) + 60)


async def test_a_write_resets_only_what_it_changes(control):
    await control.tyk("POST", "/keys/alice", QUOTA)
    await spend(control, "alice", 4)
    await control.tyk("PUT", "/keys/alice", {**QUOTA, "alias": "same limit"})
    assert await remaining(control, "alice") == 6
    await control.tyk("POST", "/keys/alice", {**QUOTA, "rate": 5, "per": 1})
    assert await remaining(control, "alice") == 6
    await control.tyk("PUT", "/keys/alice", {**QUOTA, "quota_max": 20})
    assert await remaining(control, "alice") == 20


async def test_reset_and_suppress_reset(control):
    await control.tyk("POST", "/keys/alice", QUOTA)
    await spend(control, "alice", 4)
    await control.tyk("PUT", "/keys/alice?suppress_reset=1", {**QUOTA, "quota_max": 20})
    assert await remaining(control, "alice") == 16
    await control.tyk("PUT", "/keys/alice?reset=1", {**QUOTA, "quota_max": 20})
    assert await remaining(control, "alice") == 20


async def test_an_api_with_its_own_limit_is_counted_and_shown_by_itself(control):
    limit = {"quota_max": 3, "quota_renewal_rate": 60, "rate": 1, "per": 1}
    body = {**QUOTA, "access_rights": {"login": {"limit": limit}, "portal": {}}}
    await control.tyk("POST", "/keys/alice", body)
    await spend(control, "alice", 2, limit=3, scope="login")
    shown = (await control.tyk("GET", "/keys/alice")).json
    assert shown["access_rights"]["login"]["limit"]["quota_remaining"] == 1
    assert shown["quota_remaining"] == 10
    assert "limit" not in shown["access_rights"]["portal"]


async def test_counters_are_deleted_on_request(control):
    await control.tyk("POST", "/keys/alice", {**QUOTA, "rate": 2, "per": 60})
    await spend(control, "alice", 4)
    await spend(control, "alice", 2, limit=2, kind="rate")
    answer = await control.tyk("DELETE", "/keys/alice/counters")
    assert answer.json == {"key": "alice", "status": "ok", "action": "reset", "key_hash": name_hash("alice")}
    assert await remaining(control, "alice") == 10
    left = await control.site.store.counters.read([f"rate::{name_hash('alice')}"], control.site.clock.now())
    assert list(left) == [None]
    answer = await control.tyk("DELETE", "/keys/nobody/counters")
    assert (answer.status, answer.json["message"]) == (404, "Key not found")


async def test_a_deleted_key_leaves_no_counters_to_its_successor(control):
    await control.tyk("POST", "/keys/alice", QUOTA)
    await spend(control, "alice", 10)
    await control.tyk("DELETE", "/keys/alice")
    await control.tyk("POST", "/keys/alice", QUOTA)
    assert await remaining(control, "alice") == 10


# read, delete, list


async def test_a_read_shows_the_effective_session_and_raw_the_stored_one(control):
    await control.tyk(
        "POST", "/keys/alice", {**ALICE, "apply_policies": ["gold"], "rate": 1, "per": 1, "tags": ["own"]}
    )
    effective = (await control.tyk("GET", "/keys/alice")).json
    raw = (await control.tyk("GET", "/keys/alice?raw=1")).json
    assert (effective["rate"], effective["per"], effective["tags"]) == (1000, 60, ["gold", "own"])
    assert sorted(effective["access_rights"]) == ["login", "portal"]
    assert effective["quota_remaining"] == 100
    assert (raw["rate"], raw["per"], raw["tags"], sorted(raw["access_rights"])) == (1, 1, ["own"], ["login"])
    for shown in (effective, raw):
        assert shown["basic_auth_data"] == {"password": "", "hash_type": "bcrypt"}


async def test_a_key_whose_policy_went_away_can_still_be_read_and_deleted(control):
    await control.tyk("POST", "/keys/alice", {**ALICE, "apply_policies": ["trial"]})
    (control.folder / "policies.d/trial.yaml").unlink()
    await control.site.reload("test")
    shown = await control.tyk("GET", "/keys/alice")
    assert (shown.status, shown.json["apply_policies"]) == (200, ["trial"])
    assert (await control.tyk("DELETE", "/keys/alice")).status == 200


async def test_api_id_on_a_single_key_is_a_filter(control):
    await control.tyk("POST", "/keys/alice", ALICE)
    assert (await control.tyk("GET", "/keys/alice?api_id=login")).status == 200
    for method in ("GET", "DELETE"):
        assert (await control.tyk(method, "/keys/alice?api_id=portal")).status == 404
    answer = await control.tyk("DELETE", "/keys/alice?api_id=-1")
    assert (answer.status, answer.json["action"]) == (200, "deleted")


async def test_delete_revokes_at_once(control):
    await control.tyk("POST", "/keys/alice", ALICE)
    policies = control.site.current.table.policies
    found = await control.site.sessions.find("default", "alice", policies)
    assert found.label == "alice"
    answer = await control.tyk("DELETE", "/keys/alice")
    assert answer.json == {"key": "alice", "status": "ok", "action": "deleted", "key_hash": name_hash("alice")}
    assert control.site.sessions.cached("default", "alice", policies) is None
    assert (await control.tyk("GET", "/keys/alice")).json == {"status": "error", "message": "Key not found"}
    answer = await control.tyk("DELETE", "/keys/alice")
    assert (answer.status, answer.json) == (404, {"status": "error", "message": "There is no such key found"})


async def test_lists_filter_really(control):
    for name, body in {
        "alice": ALICE,
        "alfred": {**ALICE, "access_rights": {"portal": {}}},
        "bob": {**ALICE, "access_rights": {}, "apply_policies": ["gold"]},
        "carol": {**ALICE, "access_rights": {"foreign": {}}, "org_id": "acme"},
    }.items():
        assert (await control.tyk("POST", f"/keys/{name}", body)).status == 200

    async def listed(query):
        hashes = (await control.tyk("GET", f"/keys?{query}")).json["keys"]
        assert hashes == sorted(hashes)
        return {(await control.site.sessions.get_record(one)).label for one in hashes}

    assert await listed("") == {"alice", "alfred", "bob", "carol"}
    assert await listed("filter=default") == {"alice", "alfred", "bob"}
    assert await listed("filter=acme") == {"carol"}
    assert await listed("filter=al") == {"alice", "alfred"}
    assert await listed("filter=defaultali") == {"alice"}
    assert await listed("filter=nothing") == set()
    assert await listed("org_id=acme") == {"carol"}
    assert await listed("api_id=portal") == {"alfred", "bob"}
    assert await listed("api_id=login") == {"alice", "bob"}
    assert await listed("api_id=foreign") == {"carol"}
    assert await listed("api_id=foreign&filter=default") == set()
    assert await listed("api_id=gone") == set()


async def test_more_keys_than_one_fetch(control, monkeypatch):
    monkeypatch.setattr("aiogate.control.operations.keys._AT_A_TIME", 3)
    names = [f"key-{number}" for number in range(7)]
    for name in names:
        await control.tyk("POST", f"/keys/{name}", LOGIN)
    assert (await control.tyk("GET", "/keys")).json["keys"] == sorted(map(name_hash, names))


# policies, preview, events, concurrency


async def test_policies_are_set_by_hash(control):
    made = (await control.tyk("POST", "/keys/create", {**LOGIN, "alias": "kept"})).json
    answer = await control.tyk("POST", f"/keys/policy/{made['key_hash']}", {"policy": "gold"})
    assert answer.json == {"key": made["key_hash"], "status": "ok", "action": "updated", "key_hash": made["key_hash"]}
    shown = (await control.tyk("GET", f"/keys/{made['key']}")).json
    assert (shown["apply_policies"], shown["apply_policy_id"], shown["alias"]) == (["gold"], "gold", "kept")
    await control.tyk("POST", f"/keys/policy/{made['key_hash']}", {"apply_policies": ["trial", "gold"]})
    shown = (await control.tyk("GET", f"/keys/{made['key']}")).json
    assert (shown["apply_policies"], shown["tags"]) == (["trial", "gold"], ["gold"])


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"policy": "silver"}, 400, 'Failed to create key - policy not found: "silver"'),
        ({"policy": 1}, 400, "Couldn't decode instruction"),
        ({"apply_policies": "gold"}, 400, "Couldn't decode instruction"),
        ({"apply_policies": [1]}, 400, "Couldn't decode instruction"),
    ],
)
async def test_policies_that_cannot_be_set(control, body, status, message):
    made = (await control.tyk("POST", "/keys/create", LOGIN)).json
    answer = await control.tyk("POST", f"/keys/policy/{made['key_hash']}", body)
    assert (answer.status, answer.json["message"]) == (status, message)


async def test_policies_of_an_unknown_key(control):
    answer = await control.tyk("POST", f"/keys/policy/{'0' * 64}", {"policy": "gold"})
    assert (answer.status, answer.json) == (404, {"status": "error", "message": "Key not found"})


async def test_taking_the_last_policy_from_a_key_without_rights_is_refused(control):
    made = (await control.tyk("POST", "/keys/create", {"apply_policies": ["gold"]})).json
    answer = await control.tyk("POST", f"/keys/policy/{made['key_hash']}", {})
    assert (answer.status, answer.json["message"]) == (400, INSECURE)


async def test_preview_stores_nothing(control):
    answer = await control.tyk("POST", "/keys/preview", {**ALICE, "apply_policies": ["gold"]})
    assert (answer.status, answer.json["rate"], answer.json["tags"]) == (200, 1000, ["gold"])
    assert "warnings" not in answer.json
    assert answer.json["basic_auth_data"]["password"] == ""
    assert (await control.tyk("GET", "/keys")).json == {"keys": []}


async def test_preview_says_what_would_stand_in_the_way(control):
    answer = await control.tyk("POST", "/keys/preview", {**LOGIN, "apply_policies": ["silver"]})
    assert (answer.status, answer.json["warnings"]) == (200, ["policy not found: silver"])
    answer = await control.tyk("POST", "/keys/preview", {"access_rights": {"gone": {}}})
    assert answer.json["warnings"] == ['API "gone" is not loaded']


async def test_writes_are_published(control):
    await control.tyk("POST", "/keys/alice", ALICE)
    await control.tyk("PUT", "/keys/alice", LOGIN)
    await control.tyk("DELETE", "/keys/alice")
    published = [(event.name, event.org, event.session, event.details["label"]) for event in control.events]
    names = ("TokenCreated", "TokenUpdated", "TokenDeleted")
    assert published == [(name, "default", name_hash("alice"), "alice") for name in names]


async def test_writes_of_one_name_do_not_overtake_each_other(control):
    await control.tyk("POST", "/keys/alice", ALICE)
    bodies = [{**LOGIN, "basic_auth_data": {"password": f"password {turn}"}} for turn in range(8)]
    answers = await asyncio.gather(*(control.tyk("PUT", "/keys/alice", body) for body in bodies))
    assert [answer.status for answer in answers] == [200] * 8
    assert (await control.site.sessions.get_record(name_hash("alice"))).revision == 9


async def test_a_full_hashing_queue_is_503(control, monkeypatch):
    from aiogate.credentials.passwords import PasswordsBusyError

    async def busy(*_):
        raise PasswordsBusyError("33 passwords are waiting to be hashed")

    monkeypatch.setattr(type(control.site.passwords), "hash", busy)
    answer = await control.tyk("POST", "/keys/alice", ALICE)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json["message"] == "Too many passwords are being hashed, try again"


async def test_a_window_without_end_can_be_read_back(control):
    body = {"access_rights": {"login": {}}, "quota_max": 1, "quota_renewal_rate": 2**63 - 1}
    made = (await control.tyk("POST", "/keys", body)).json
    shown = await control.tyk("GET", f"/keys/{made['key_hash']}")
    assert (shown.status, shown.json["quota_renewal_rate"]) == (200, 2**63 - 1)
    assert (
        await control.tyk("POST", "/org/keys/default", {"quota_max": 1, "quota_renewal_rate": 2**63 - 1})
    ).status == 200
    assert (await control.tyk("GET", "/org/keys/default")).status == 200
