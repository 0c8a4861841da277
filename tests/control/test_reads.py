"""What can be looked at: APIs, policies, decisions, shadow, health, the views, and reloads."""

from __future__ import annotations

import pytest

from aiogate.telemetry.decisions import Decision

OTHER_KEY = "other-org-key-0123456789abcdef"


async def test_apis_in_tyks_classic_json(control):
    answer = await control.tyk("GET", "/apis")
    assert [api["api_id"] for api in answer.json] == ["foreign", "login", "portal"]
    login = (await control.tyk("GET", "/apis/login")).json
    assert login == answer.json[1]
    assert (login["name"], login["org_id"], login["active"]) == ("Login API", "default", True)
    assert (login["use_basic_auth"], login["use_keyless"], login["use_standard_auth"]) == (True, False, False)
    assert login["proxy"] == {
        "listen_path": "/login-api/",
        "target_url": "http://127.0.0.1:9001/",
        "strip_listen_path": True,
        "preserve_host_header": False,
    }
    assert login["version_data"]["not_versioned"] is True
    assert login["x_aiogate"] == {}


async def test_what_tyk_cannot_say_travels_under_x_aiogate(control):
    portal = (await control.tyk("GET", "/apis/portal")).json
    assert portal["proxy"]["target_url"] == "http://127.0.0.1:${UPSTREAM_PORT:-9002}/"
    assert portal["proxy"]["preserve_host_header"] is True
    assert (portal["use_basic_auth"], portal["use_standard_auth"]) == (True, True)
    assert portal["auth_configs"]["authToken"] == {
        "auth_header_name": "X-Key",
        "disable_header": False,
        "use_param": True,
        "param_name": "api_key",
        "use_cookie": False,
        "cookie_name": "",
    }
    assert portal["definition"] == {"location": "header", "key": "X-Api-Version", "strip_versioning_data": False}
    assert portal["version_data"]["default_version"] == "v1"
    assert portal["version_data"]["versions"]["v1"]["expires"] == "2027-01-31 00:00"
    assert portal["global_rate_limit"] == {"rate": 1000, "per": 60.0, "disabled": False}
    assert "allowed_ips" not in portal
    assert portal["x_aiogate"] == {
        "upstream": {"timeouts": {"read": "5s"}},
        "auth": [{"key": {"header": "X-Key", "query": "api_key"}}, {"basic": {"realm": "Portal"}}],
        "plugins": [{"ip_filter": {"allow": ["10.0.0.0/8"]}, "mode": "shadow"}],
        "labels": {"team": "identity"},
    }


EVERYTHING = """
id: every
name: ${TITLE:-Every}
listen: {path: /every/, host: Every.example.com}
upstream: http://127.0.0.1:9009/base
strip_listen_path: false
auth:
  all: [key: {header: null, cookie: token}, basic: {body: {user: 'u=(.*)', password: 'p=(.*)'}}]
  session_from: basic
versions: {by: path, strip: true, list: {v1: {upstream: "http://127.0.0.1:9010/"}, v2: {expires: 2027-01-31T00:00:30Z}}}
expires: 2028-02-03T04:05:00Z
strip_credentials: true
session_limits: {rate: false}
plugins:
  - ip_filter: {allow: [10.0.0.0/8], deny: [10.1.2.3]}
  - size_limit: 1KiB
  - request_headers: {set: {X-From: aiogate}, remove: [X-Gone]}
  - response_headers: {remove: [Server]}
  - rate_limit: ${RATE:-5/1s}
  - request_headers: {add: {X-More: "1"}}
  - other
"""


async def test_each_part_of_a_definition_in_classic_json(control):
    control.write("apis.d/every.yaml", EVERYTHING)
    assert (await control.site.reload("test")).ok
    shown = (await control.tyk("GET", "/apis/every")).json
    assert (shown["name"], shown["domain"]) == ("${TITLE:-Every}", "every.example.com")
    assert shown["proxy"]["strip_listen_path"] is False
    assert shown["expiration"] == "2028-02-03 04:05"
    assert (shown["disable_rate_limit"], shown["disable_quota"], shown["strip_auth_data"]) == (True, False, True)
    assert shown["base_identity_provided_by"] == "basic_auth_user"
    assert shown["auth_configs"]["authToken"]["disable_header"] is True
    assert shown["auth_configs"]["authToken"]["cookie_name"] == "token"
    assert shown["basic_auth"] == {
        "extract_from_body": True,
        "body_user_regexp": "u=(.*)",
        "body_password_regexp": "p=(.*)",
    }
    assert shown["definition"] == {"location": "url", "key": "", "strip_versioning_data": True}
    assert shown["version_data"]["versions"]["v1"]["override_target"] == "http://127.0.0.1:9010/"
    for version in shown["version_data"]["versions"].values():
        assert version["global_size_limit"] == 1024
        assert (version["global_headers"], version["global_headers_remove"]) == ({"X-From": "aiogate"}, ["X-Gone"])
        assert version["global_response_headers_remove"] == ["Server"]
    assert (shown["allowed_ips"], shown["blacklisted_ips"]) == (["10.0.0.0/8"], ["10.1.2.3"])
    assert (shown["enable_ip_whitelisting"], shown["enable_ip_blacklisting"]) == (True, True)
    assert "global_rate_limit" not in shown
    assert shown["x_aiogate"]["plugins"] == [
        {"rate_limit": "${RATE:-5/1s}"},
        {"request_headers": {"add": {"X-More": "1"}}},
        "other",
    ]
    assert shown["x_aiogate"]["versions"]["by"] == "path"
    assert "auth" not in shown["x_aiogate"]


async def test_a_version_with_an_upstream_of_its_own_kind_is_kept_as_written(control):
    versions = "{by: header, list: {v1: {upstream: {url: 'http://127.0.0.1:1/', timeouts: {read: 1s}}}}}"
    text = f"listen: ${{WHERE:-/kept/}}\nupstream: http://127.0.0.1:1/\nauth: none\nversions: {versions}\n"
    control.write("apis.d/kept.yaml", text)
    assert (await control.site.reload("test")).ok
    shown = (await control.tyk("GET", "/apis/kept")).json
    assert (shown["proxy"]["listen_path"], shown["domain"]) == ("${WHERE:-/kept/}", "")
    assert shown["version_data"]["versions"]["v1"]["override_target"] == "http://127.0.0.1:1/"
    assert shown["x_aiogate"]["versions"]["list"]["v1"]["upstream"]["timeouts"] == {"read": "1s"}


async def test_native_shows_what_was_written(control):
    native = (await control.tyk("GET", "/apis/portal?format=native")).json
    assert native["upstream"]["url"] == "http://127.0.0.1:${UPSTREAM_PORT:-9002}/"
    assert native["plugins"][0] == {"rate_limit": "1000/1m"}
    assert native in (await control.tyk("GET", "/apis?format=native")).json
    answer = await control.tyk("GET", "/apis/portal?format=xml")
    assert (answer.status, answer.json["message"]) == (400, "The format 'xml' does not exist")


async def test_an_inactive_api_is_not_served(control):
    control.write(
        "apis.d/asleep.yaml", "{listen: /asleep/, upstream: 'http://127.0.0.1:1/', auth: none, active: false}"
    )
    assert (await control.site.reload("test")).ok
    answer = await control.tyk("GET", "/apis/asleep")
    assert (answer.status, answer.json) == (404, {"status": "error", "message": "API not found"})


async def test_policies(control):
    answer = await control.tyk("GET", "/policies")
    assert [policy["id"] for policy in answer.json] == ["acme", "gold", "trial"]
    gold = (await control.tyk("GET", "/policies/gold")).json
    assert gold == answer.json[1]
    assert (gold["_id"], gold["name"], gold["org_id"]) == ("gold", "Gold plan", "default")
    assert (gold["rate"], gold["per"], gold["quota_max"], gold["quota_renewal_rate"]) == (1000, 60, 100, 3600)
    assert gold["access_rights"]["login"] == {
        "api_name": "",
        "api_id": "login",
        "versions": ["Default"],
        "allowed_urls": [{"url": "^/users/.*", "methods": ["GET"]}],
    }
    assert gold["partitions"] == dict.fromkeys(("quota", "rate_limit", "acl", "complexity", "per_api"), False)
    assert (await control.tyk("GET", "/policies/trial")).json["key_expires_in"] == 86400
    answer = await control.tyk("GET", "/policies/silver")
    assert (answer.status, answer.json) == (404, {"status": "error", "message": "Policy not found"})


async def test_dashboard_policies(control):
    answer = (await control.api("GET", "/portal/policies")).json
    assert (list(answer), answer["Pages"]) == (["Data", "Pages"], 0)
    gold = answer["Data"][0]
    assert (gold["_id"], gold["date_created"], gold["active"]) == ("gold", "0001-01-01T00:00:00Z", True)
    login = gold["access_rights"]["login"]
    assert (login["apiid"], login["api_id"], login["apiname"]) == ("login", "login", "")
    assert (await control.api("GET", "/portal/policies/gold")).json == gold
    assert [policy["_id"] for policy in answer["Data"]] == ["gold", "trial"]
    theirs = (await control.api("GET", "/portal/policies?p=1", key=OTHER_KEY)).json
    assert ([policy["_id"] for policy in theirs["Data"]], theirs["Pages"]) == (["acme"], 1)
    for policy in ("acme", "silver"):
        missing = await control.api("GET", f"/portal/policies/{policy}")
        assert (missing.status, missing.json["Message"]) == (404, "Could not retrieve portal object.")


async def test_dashboard_apis(control):
    answer = (await control.api("GET", "/apis")).json
    assert answer["pages"] == 0
    assert [api["api_definition"]["api_id"] for api in answer["apis"]] == ["login", "portal"]
    assert list(answer["apis"][0])[:3] == ["api_model", "api_definition", "hook_references"]
    assert (await control.api("GET", "/apis/login")).json == answer["apis"][0]
    found = (await control.api("GET", "/apis?q=LOGIN&p=1")).json
    assert ([api["api_definition"]["name"] for api in found["apis"]], found["pages"]) == (["Login API"], 1)
    for api in ("foreign", "nothing"):
        missing = await control.api("GET", f"/apis/{api}")
        assert (missing.status, missing.json) == (
            404,
            {"Status": "Error", "Message": "Could not retrieve API detail", "Meta": None},
        )


async def test_pages_of_apis(control):
    for number in range(11):
        text = f"{{listen: /many-{number}/, upstream: 'http://127.0.0.1:1/', auth: none}}"
        control.write(f"apis.d/many-{number:02}.yaml", text)
    assert (await control.site.reload("test")).ok
    sizes = {}
    for page in (-1, 0, 1, 2, 3):
        answer = (await control.api("GET", f"/apis?p={page}")).json
        sizes[page] = (len(answer["apis"]), answer["pages"])
    assert sizes == {-1: (13, 0), 0: (13, 0), 1: (10, 2), 2: (3, 2), 3: (0, 2)}


# decisions


def decide(control, request_id, api="login", *, shadow=False, at=1.0, rule="apis.d/login.yaml:5:3", path="/login-api/"):
    decision = Decision(
        request_id,
        at,
        "GET",
        path,
        api=api,
        step="basic",
        rule=rule,
        code="auth_failed",
        reason="user unknown",
        shadow=shadow,
    )
    control.site.store.decisions.append(decision)


async def test_why_a_request_was_refused(control):
    decide(control, "abc", path="/login-api/\udcff")
    answer = await control.tyk("GET", "/decisions/abc")
    assert (answer.status, answer.json["code"], answer.json["reason"]) == (200, "auth_failed", "user unknown")
    assert answer.json["rule"] == "apis.d/login.yaml:5:3"
    assert answer.json["path"] == "/login-api/\udcff"
    answer = await control.tyk("GET", "/decisions/def")
    assert (answer.status, answer.json["message"]) == (404, "Decision not found")


async def test_the_newest_decisions(control):
    for number in range(5):
        decide(control, f"r{number}", "login" if number % 2 else "portal", at=number)

    async def ids(query):
        return [one["request_id"] for one in (await control.tyk("GET", f"/decisions{query}")).json["decisions"]]

    assert await ids("") == ["r4", "r3", "r2", "r1", "r0"]
    assert await ids("?limit=2") == ["r4", "r3"]
    assert await ids("?api=login") == ["r3", "r1"]
    assert await ids("?api=nothing") == []


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "many", "9" * 30])
async def test_a_limit_that_cannot_be(control, limit):
    for path in ("/decisions", "/shadow"):
        answer = await control.tyk("GET", f"{path}?limit={limit}")
        assert (answer.status, answer.json["status"]) == (400, "error")
        assert "limit" in answer.json["message"]


async def test_what_shadow_rules_would_have_refused(control):
    decide(control, "real")
    for number, rule in enumerate(("a:1:1", "b:1:1", "b:1:1")):
        decide(control, f"s{number}", shadow=True, rule=rule, at=number)
    decide(control, "other", "portal", shadow=True, at=9)
    shown = (await control.tyk("GET", "/shadow?api=login")).json
    assert [(rule["rule"], rule["count"], rule["last"]) for rule in shown["rules"]] == [
        ("b:1:1", 2, 2.0),
        ("a:1:1", 1, 0.0),
    ]
    assert [one["request_id"] for one in shown["decisions"]] == ["s2", "s1", "s0"]
    assert len((await control.tyk("GET", "/shadow")).json["decisions"]) == 4


# system


async def test_health_of_an_api(control):
    answer = await control.tyk("GET", "/health?api_id=login")
    assert answer.json == {
        "throttle_reqests_per_second": 0.5,
        "quota_violations_per_second": 0.25,
        "key_failures_per_second": 0.125,
        "average_upstream_latency": 12.5,
        "average_requests_per_second": 3.0,
    }
    answer = await control.tyk("GET", "/health")
    assert (answer.status, answer.json["message"]) == (400, "missing api_id parameter")
    answer = await control.tyk("GET", "/health?api_id=nothing")
    assert (answer.status, answer.json["message"]) == (404, "API ID not found")


async def test_views_are_shown_as_they_are(control):
    answer = await control.tyk("GET", "/routes")
    assert answer.json == {"generation": 1, "routes": ["foreign", "login", "portal"], "match": None}
    answer = await control.tyk("GET", "/routes?method=GET&path=/x%2Fy&host=a.example")
    assert answer.json["match"] == "GET /x/y at a.example"
    assert (await control.tyk("GET", "/plugins")).json == [{"name": "basic"}]
    assert (await control.tyk("GET", "/chains/login")).json == [{"api": "login", "steps": []}]
    answer = await control.tyk("GET", "/chains/nothing")
    assert (answer.status, answer.json["message"]) == (404, "API not found")


@pytest.mark.parametrize("path", ["/reload", "/reload/group"])
async def test_a_reload_is_queued(control, path):
    answer = await control.tyk("GET", path)
    assert (answer.status, answer.json) == (200, {"status": "ok", "message": ""})
    await control.client.close()
    assert control.site.reloads == ["start", "control API"]


@pytest.mark.parametrize("path", ["/reload", "/reload/group"])
async def test_a_reload_with_block_waits_for_the_verdict(control, path):
    control.write("policies.d/silver.yaml", "{id: silver, access: {login: {}}, rate: 1/1s}")
    answer = await control.tyk("GET", f"{path}?block=true")
    assert (answer.status, answer.json["status"], answer.json["message"], answer.json["generation"]) == (
        200,
        "ok",
        "",
        2,
    )
    assert (await control.tyk("GET", "/policies/silver")).status == 200


async def test_a_refused_reload_says_where_and_keeps_serving(control):
    control.write("apis.d/login.yaml", "listen: /login-api/\nupstream: http://127.0.0.1:9001/\nauht: basic\n")
    answer = await control.tyk("GET", "/reload?block=true")
    assert (answer.status, answer.json["status"], answer.json["generation"]) == (422, "error", 1)
    problems = [one for one in answer.json["diagnostics"] if one["code"] == "unknown_key"]
    assert [(one["line"], one["column"], one["path"]) for one in problems] == [(3, 1, "auht")]
    assert problems[0]["file"].endswith("apis.d/login.yaml")
    assert "auth" in problems[0]["hint"]
    assert f"Reload refused: {len(answer.json['diagnostics'])} problem" in answer.json["message"]
    assert "generation 1 keeps serving" in answer.json["message"]
    assert (await control.tyk("GET", "/apis/login")).json["use_basic_auth"] is True

    ready = await control.call("GET", "/ready")
    assert (ready.status, ready.json["status"], ready.json["generation"]) == (200, "ready", 1)
    assert ready.json["last_reload"]["ok"] is False
    assert ready.json["last_reload"]["diagnostics"] == answer.json["diagnostics"]


async def test_versions_as_tyk_lists_them(control):
    shown = (await control.tyk("GET", "/apis/portal/versions")).json
    assert shown["status"] == "success"
    assert [(one["versionName"], one["expirationDate"], one["isDefaultVersion"]) for one in shown["apis"]] == [
        ("v1", "2027-01-31 00:00", True),
        ("v2", "", False),
    ]
    only = (await control.tyk("GET", "/apis/login/versions")).json["apis"]
    assert only == [
        {"id": "login", "name": "Login API", "versionName": "Default", "internal": False, "expirationDate": "",
         "isDefaultVersion": True}
    ]  # fmt: skip
    assert (await control.tyk("GET", "/apis/gone/versions")).status == 404
