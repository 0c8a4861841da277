"""Tyk's middleware as plugins of ours and back: what is written, what is refused by name, and what it then does."""

from __future__ import annotations

import pytest
import yaml

from aiogate.control.operations.classic import render
from aiogate.control.operations.translate import translate_api, yaml_text
from aiogate.testing import make_definition, recording_upstream, running_gateway

PROXY = {"listen_path": "/a/", "target_url": "http://127.0.0.1:9001/", "strip_listen_path": True}


def classic(entry=None, **further):
    versions = {"not_versioned": True, "versions": {"Default": {"use_extended_paths": True, **(entry or {})}}}
    return {"api_id": "a", "version_data": versions, "proxy": PROXY, **further}


def rules(**lists):
    return classic({"extended_paths": lists})


def reply(code=200, data="", **headers):
    return {"action": "reply", "code": code, "data": data, "headers": headers}


NO_ACTION = {"action": "no_action", "code": 200, "data": "", "headers": {}}
USERS = "^.*/users"

# name: (Tyk's definition, the plugins)
MAPPED = {
    "ignored": (rules(ignored=[{"path": "/users"}]), [{"paths": {"open": [USERS]}}]),
    "black": (
        rules(black_list=[{"path": "/users", "method": "get"}]),
        [{"paths": {"block": [{"path": USERS, "methods": ["GET"]}]}}],
    ),
    "white": (
        rules(white_list=[{"path": "/users/{id}", "method_actions": {"GET": NO_ACTION, "PUT": NO_ACTION}}]),
        [{"paths": {"allow": [{"path": "^.*/users/[^/]+", "methods": [m]} for m in ("GET", "PUT")]}}],
    ),
    "wildcards": (
        rules(ignored=[{"path": "/z/*/b"}, {"path": "/c/*"}, {"path": "^/d$"}, {"path": "/e|/f"}]),
        [{"paths": {"open": ["^.*/z/[^/]+/b", "^.*/c/.*", "^/d$", "^.*(?:/e|/f)"]}}],
    ),
    "any-case": (
        rules(black_list=[{"path": "/users", "ignore_case": True}, {"path": "^/x", "ignore_case": True}]),
        [{"paths": {"block": ["^(?i:.*(?:/users))", "^(?i:/x)"]}}],
    ),
    "any-case-of-a-version": (
        classic({"ignore_endpoint_case": True, "extended_paths": {"ignored": [{"path": "/users"}]}}),
        [{"paths": {"open": ["^(?i:.*(?:/users))"]}}],
    ),
    "with-the-listen-path": (
        rules(black_list=[{"path": "/a/secret"}, {"path": "^/a/x"}]),
        [{"paths": {"block": ["^.*/a/secret", "^/secret", "^/a/x", "^/x"]}}],
    ),
    "simple-lists": (
        classic({"use_extended_paths": False, "paths": {"black_list": ["/users"], "ignored": ["/open"]}}),
        [{"paths": {"open": ["^.*/open"], "block": [USERS]}}],
    ),
    "a-reply-comes-before-authentication": (
        rules(white_list=[{"path": "/users", "method_actions": {"GET": reply(418, "hi", **{"X-A": "b"})}}]),
        [
            {"paths": {"open": [{"path": USERS, "methods": ["GET"]}], "allow": [{"path": USERS, "methods": ["GET"]}]}},
            {"mock": {"status": 418, "body": "hi", "headers": {"X-A": "b"}},
             "match": {"paths": [USERS], "methods": ["GET"]}},
        ],
    ),
    "mock": (
        rules(mock_response=[{"path": "/users", "method": "GET", "code": 200, "body": "hi", "headers": {}}]),
        [
            {"paths": {"open": [{"path": USERS, "methods": ["GET"]}]}},
            {"mock": {"status": 200, "body": "hi"}, "match": {"paths": [USERS], "methods": ["GET"]}},
        ],
    ),
    "the-first-timeout-holds": (
        rules(hard_timeouts=[{"path": "/users", "method": "GET", "timeout": 5}, {"path": "/", "timeout": 30}]),
        [
            {"timeout": "30s", "match": {"paths": ["^.*/"]}},
            {"timeout": "5s", "match": {"paths": [USERS], "methods": ["GET"]}},
        ],
    ),
    "sizes": (
        classic({"global_size_limit": 1048576, "extended_paths": {
            "size_limits": [{"path": "/users", "method": "POST", "size_limit": 25}]}}),
        [{"size_limit": "1MiB"}, {"size_limit": "25B", "match": {"paths": [USERS], "methods": ["POST"]}}],
    ),
    "size-off": (classic({"global_size_limit": 5, "global_size_limit_disabled": True}), []),
    "headers": (
        classic({"global_headers": {"X-A": "b"}, "global_headers_remove": ["X-C"],
                 "global_response_headers": {"X-D": "e"}, "global_response_headers_remove": [],
                 "extended_paths": {"transform_headers": [
                     {"path": "/users", "method": "GET", "delete_headers": ["X-F"], "add_headers": {"X-G": "h"}}]}}),
        [
            {"request_headers": {"remove": ["X-C"], "set": {"X-A": "b"}}},
            {"request_headers": {"remove": ["X-F"], "set": {"X-G": "h"}},
             "match": {"paths": [USERS], "methods": ["GET"]}},
            {"response_headers": {"set": {"X-D": "e"}}},
        ],
    ),
    "processors": (
        classic(response_processors=[
            {"name": "header_injector", "options": {"add_headers": {"X-A": "b"}, "remove_headers": ["X-C"]}},
            {"name": "header_injector", "options": {}}, {"name": "response_body_transform", "options": {}}]),
        [{"response_headers": {"remove": ["X-C"], "set": {"X-A": "b"}}}],
    ),
    "rate-of-a-path": (
        rules(rate_limit=[{"path": "/users", "method": "GET", "rate": 5, "per": 60}]),
        [{"rate_limit": "5/1m", "match": {"paths": [USERS], "methods": ["GET"]}}],
    ),
    "addresses": (
        classic(enable_ip_whitelisting=True, allowed_ips=["10.0.0.1/8", "::1"], blacklisted_ips=["10.0.0.13"]),
        [{"ip_filter": {"allow": ["10.0.0.0/8", "::1"], "deny": ["10.0.0.13"]}}],
    ),
    "addresses-off": (classic(ip_access_control_disabled=True, allowed_ips=["10.0.0.1"]), []),
    "addresses-off-by-a-word": (
        classic(ip_access_control_disabled="no", allowed_ips=["10.0.0.1"]),
        [{"ip_filter": {"allow": ["10.0.0.1"]}}],
    ),
    "cors": (
        classic(CORS={"enable": True, "allowed_origins": ["https://A.example.com/"], "allowed_methods": ["get"],
                      "allowed_headers": ["X-A"], "exposed_headers": ["X-B"], "allow_credentials": True,
                      "max_age": 600, "options_passthrough": True, "debug": True}),
        [{"cors": {"origins": ["https://a.example.com"], "methods": ["GET"], "headers": ["X-A"], "expose": ["X-B"],
                   "credentials": True, "max_age": "10m", "passthrough": True}}],
    ),
    "cors-by-default": (classic(CORS={"enable": True, "max_age": 0}), [{"cors": {"origins": ["*"]}}]),
    "disabled": (
        rules(black_list=[{"path": "/users", "disabled": True}], hard_timeouts=[{"path": "/", "disabled": True}]), [],
    ),
    "not-in-use": (classic({"use_extended_paths": False, "extended_paths": {"black_list": [{"path": "/users"}]}}), []),
    "of-one-version": (
        {**classic(), "version_data": {"versions": {
            "v1": {"global_size_limit": 5}, "v2": {"global_size_limit": 6}}, "default_version": "v1"}},
        [{"size_limit": "5B", "match": {"versions": ["v1"]}}, {"size_limit": "6B", "match": {"versions": ["v2"]}}],
    ),
    "of-all-versions": (
        {**classic(), "version_data": {"versions": {"v1": {"global_size_limit": 5}, "v2": {"global_size_limit": 5}},
                                       "default_version": "v1"}},
        [{"size_limit": "5B"}],
    ),
}  # fmt: skip

LIST = "version_data.versions.Default.extended_paths"
REFUSED = {
    "no-path": (rules(ignored=[{"method": "GET"}]), [f"{LIST}.ignored.0"]),
    "pattern": (rules(black_list=[{"path": "/(?=a)"}]), [f"{LIST}.black_list.0"]),
    "repetition": (rules(black_list=[{"path": "/[a-z]{2,3}$"}]), [f"{LIST}.black_list.0"]),
    "more": (rules(black_list=[{"path": "/a", "unless": "x"}]), [f"{LIST}.black_list.0.unless"]),
    "action": (
        rules(ignored=[{"path": "/a", "method_actions": {"GET": {"action": "redirect"}}}]),
        [f"{LIST}.ignored.0.method_actions.GET"],
    ),
    "status": (rules(mock_response=[{"path": "/a", "code": 101}]), [f"{LIST}.mock_response.0.code"]),
    "not-a-list": (rules(white_list={"path": "/a"}), [f"{LIST}.white_list"]),
    "not-an-object": (rules(white_list=["/a"]), [f"{LIST}.white_list.0"]),
    "filled-in": (
        classic({"global_headers": {"X-A": "$tyk_meta.a"}}),
        ["version_data.versions.Default.global_headers"],
    ),
    "timeout": (rules(hard_timeouts=[{"path": "/a", "timeout": "5s"}]), [f"{LIST}.hard_timeouts.0.timeout"]),
    "processor": (classic(response_processors=[{"name": "custom_mw_res_hook"}]), ["response_processors.0"]),
    "address": (classic(allowed_ips=["10.0.0.300"]), ["allowed_ips.0"]),
    "any-origin-with-credentials": (
        classic(CORS={"enable": True, "allow_credentials": True}), ["CORS.allow_credentials"],
    ),
    "origin": (classic(CORS={"enable": True, "allowed_origins": ["https://a*.b"]}), ["CORS.allowed_origins.0"]),
    "further": (rules(virtual=[{"path": "/a"}], cache=["/b"]), [f"{LIST}.cache", f"{LIST}.virtual"]),
}  # fmt: skip


def paths(lines):
    return [line.partition(":")[0] for line in lines]


def native(body):
    translation = translate_api(body)
    assert list(translation.refused) == []
    return translation.native


@pytest.mark.parametrize("name", MAPPED)
async def test_tyks_middleware_becomes_plugins_that_compile(name):
    body, expected = MAPPED[name]
    found = native(body)
    assert found.get("plugins", []) == expected
    async with running_gateway({"apis.d/a.yaml": yaml_text(found, "a test")}) as gateway:
        shown = (await gateway.tyk("GET", "/tyk/apis/a")).json
        # What is shown is Tyk's again, and says the same once more.
        again = native({key: value for key, value in shown.items() if key != "x_aiogate"} | {
            "x_aiogate": shown["x_aiogate"]})  # fmt: skip
        plugins = sorted(again.get("plugins", []), key=yaml.safe_dump)
        assert plugins == sorted(found.get("plugins", []), key=yaml.safe_dump)
        assert again["auth"] == found["auth"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_equal_is_refused_by_its_place(name):
    body, refused = REFUSED[name]
    assert paths(translate_api(body).refused) == refused


def test_what_is_disabled_is_told():
    translation = translate_api(MAPPED["disabled"][0])
    assert f"{LIST}.black_list.0" in paths(translation.ignored)
    assert f"{LIST}.hard_timeouts.0" in paths(translation.ignored)


NATIVE = """
id: a
listen: /a/
upstream: http://127.0.0.1:9001/
auth: key
plugins:
  - paths: {open: [/health, /public/*], block: [{path: "^/v[0-9]+/x", methods: [GET]}], allow: ["^/v"]}
  - cors: {origins: [https://a.example.com], max_age: 1m}
  - timeout: 30s
    match: {paths: [/**]}
  - timeout: {limit: 5s}
    match: {paths: [/quick/*, "^.*/fast"], methods: [GET, PUT]}
  - size_limit: 1MiB
  - request_headers: {set: {X-A: b}}
    match: {paths: ["^/a|^/b"]}
  - response_headers: {add: {X-A: b}}
  - mock: hi
"""


def test_ours_becomes_tyks_and_what_it_has_no_field_for_stays_ours():
    shown = render(make_definition(NATIVE, "apis.d/a.yaml"))
    entry = shown["version_data"]["versions"]["Default"]
    extended = entry["extended_paths"]
    assert [one["path"] for one in extended["ignored"]] == ["^/health$", "^/public/.*$"]
    assert extended["black_list"][0]["method_actions"].keys() == {"GET"}
    assert extended["white_list"][0]["path"] == "^/v"
    assert [(one["path"], one["method"], one["timeout"]) for one in extended["hard_timeouts"]] == [
        ("^/quick/.*$", "GET", 5), ("^/quick/.*$", "PUT", 5), ("/fast", "GET", 5), ("/fast", "PUT", 5),
        ("^/.*$", "", 30),
    ]  # fmt: skip
    assert extended["transform_headers"][0]["path"] == "^/a|^/b"
    assert entry["global_size_limit"] == 1048576
    assert (shown["CORS"]["allowed_origins"], shown["CORS"]["max_age"]) == (["https://a.example.com"], 60)
    assert shown["x_aiogate"]["plugins"] == [{"response_headers": {"add": {"X-A": "b"}}}, {"mock": "hi"}]
    again = native(shown)
    assert again["plugins"][-2:] == shown["x_aiogate"]["plugins"]


@pytest.mark.parametrize(
    "plugin",
    [
        "{paths: {block: [/a]}, mode: shadow}",
        "{size_limit: 0B}",
        "{size_limit: '${SIZE:-1MiB}'}",
        "{timeout: 5s}",
        "{cors: {origins: [https://a.example.com], max_age: 1500ms}}",
        "{request_headers: {add: {X-A: b}}}",
        "{ip_filter: {deny: [10.0.0.1]}, match: {paths: [/a]}}",
        "{mock: hi, match: {paths: [/a]}}",
        "{paths: {block: ['^/[a-z]{2,3}$']}}",
        "{timeout: 5s, match: {paths: ['^/a/*b']}}",
    ],
)
def test_an_entry_without_an_equal_travels_as_it_is(plugin):
    text = f"{{id: a, listen: /a/, upstream: 'http://127.0.0.1:9001/', auth: key, plugins: [{plugin}]}}"
    shown = render(make_definition(text, "apis.d/a.yaml"))
    assert shown["x_aiogate"]["plugins"] == [yaml.safe_load(plugin)]


async def test_a_translated_api_does_what_tyk_does():
    body = rules(
        ignored=[{"path": "/health"}],
        black_list=[{"path": "/secret"}],
        white_list=[{"path": "/users", "method_actions": {"GET": NO_ACTION, "PUT": reply(201, "made")}}],
    )
    async with recording_upstream() as upstream:
        body["proxy"] = {**PROXY, "target_url": upstream.url}
        async with running_gateway({"apis.d/a.yaml": yaml_text(native(body), "a test")}) as gateway:
            key = await gateway.create_key("a")
            asked = [
                ("GET", "/health"),
                ("GET", "/users/1"),
                ("PUT", "/users"),
                ("GET", "/users/secret"),
                ("GET", "/x"),
            ]
            statuses = [(await gateway.request(method, f"/a{path}")).status for method, path in asked]
            assert statuses == [200, 401, 201, 403, 403]
            statuses = [(await gateway.request(method, f"/a{path}", key=key)).status for method, path in asked]
            assert statuses == [200, 200, 201, 403, 403]
            assert [one.target for one in upstream.received] == ["/health", "/health", "/users/1"]
