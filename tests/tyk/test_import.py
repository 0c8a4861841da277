"""`aiogate import tyk`: every field gets a verdict, what is written is ours, what is refused is not written."""

from __future__ import annotations

import base64
import json

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from aiogate.cli.main import main
from aiogate.config.provenance import is_untouched
from aiogate.config.settings import load_settings
from aiogate.control.operations.classic import render
from aiogate.control.operations.translate import translate_api, translate_policy, yaml_text
from aiogate.control.operations.tyk_fields import API_FIELDS, POLICY_FIELDS
from aiogate.runtime.assembly import check
from aiogate.testing import make_definition

UNVERSIONED = {"not_versioned": True, "versions": {"Default": {}}}
PROXY = {"listen_path": "/a/", "target_url": "http://127.0.0.1:9001/", "strip_listen_path": True}
BASE = {"api_id": "a", "version_data": UNVERSIONED, "proxy": PROXY}
PLAIN = {"id": "a", "listen": "/a/", "upstream": "http://127.0.0.1:9001/", "auth": "key"}
V = {"v1": {"expires": "2027-01-31 00:00"}, "v2": {"override_target": "http://127.0.0.1:9002/"}}
LIST = {"v1": {"expires": "2027-01-31T00:00:00Z"}, "v2": {"upstream": "http://127.0.0.1:9002/"}}


LENIENT = {"require": [], "target": "path", "body_digest": "off", "refuse_replays": False}
PRINT = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
SECRET = "a secret of at least thirty-two bytes"


def in_base64(text):
    return base64.b64encode(text.encode()).decode()


def versioned(**definition):
    return {"definition": definition, "version_data": {"versions": V, "default_version": "v1"}}


# name: (what is added to BASE, what is added to PLAIN, the fields that are ignored)
MAPPED = {
    "minimal": ({}, {}, []),
    "zeros": ({"tags": [], "graphql": {"enabled": False}, "unknown": 0, "domain": ""}, {}, []),
    "identity": (
        {"name": "A", "org_id": "acme", "id": "5", "slug": "a"},
        {"name": "A", "org": "acme"},
        ["id", "slug"],
    ),
    "inactive": ({"active": False}, {"active": False}, []),
    "domain": ({"domain": "api.example.com"}, {"listen": {"path": "/a/", "host": "api.example.com"}}, []),
    "domain-off": ({"domain": "b.example.com", "domain_disabled": True}, {}, ["domain", "domain_disabled"]),
    "expiration": ({"expiration": "2027-01-31 00:00"}, {"expires": "2027-01-31T00:00:00Z"}, []),
    "never": ({"expiration": "-1"}, {}, []),
    "keyless": ({"use_keyless": True, "use_basic_auth": True}, {"auth": "none"}, ["use_basic_auth"]),
    "standard": ({"use_standard_auth": True}, {}, []),
    "basic": ({"use_basic_auth": True}, {"auth": "basic"}, []),
    "basic-cache": ({"use_basic_auth": True, "basic_auth": {"cache_ttl": 5}}, {"auth": {"basic": {"cache": "5s"}}}, []),
    "basic-no-cache": (
        {"use_basic_auth": True, "basic_auth": {"disable_caching": True, "cache_ttl": 5}},
        {"auth": {"basic": {"cache": "off"}}},
        ["basic_auth.cache_ttl"],
    ),
    "basic-body": (
        {"use_basic_auth": True, "basic_auth": {
            "extract_from_body": True, "body_user_regexp": "<u>(.*)</u>", "body_password_regexp": "<p>(.*)</p>"}},
        {"auth": {"basic": {"body": {"user": "<u>(.*)</u>", "password": "<p>(.*)</p>"}}}},
        [],
    ),
    "unused-source": (
        {"use_basic_auth": True, "auth": {"auth_header_name": "X-Key"}},
        {"auth": "basic"},
        ["auth.auth_header_name"],
    ),
    "both": (
        {"use_basic_auth": True, "use_standard_auth": True},
        {"auth": {"all": ["basic", "key"], "session_from": "key"}},
        [],
    ),
    "identity-from": (
        {"use_basic_auth": True, "use_standard_auth": True, "base_identity_provided_by": "basic_auth_user"},
        {"auth": {"all": ["basic", "key"], "session_from": "basic"}},
        [],
    ),
    "source": (
        {"auth": {"auth_header_name": "X-Key", "use_param": True, "use_cookie": True, "cookie_name": "k"}},
        {"auth": {"key": {"header": "X-Key", "query": "X-Key", "cookie": "k"}}},
        [],
    ),
    "source-new": (
        {"auth_configs": {"authToken": {"disable_header": True, "use_param": True, "param_name": "q"}}},
        {"auth": {"key": {"header": None, "query": "q"}}},
        [],
    ),
    "hmac": (
        {"enable_signature_checking": True},
        {"auth": {"hmac": {"algorithms": ["hmac-sha1", "hmac-sha256", "hmac-sha384", "hmac-sha512", "rsa-sha256"],
                           "skew": None, **LENIENT}}},
        [],
    ),
    "hmac-more": (
        {"enable_signature_checking": True, "hmac_allowed_algorithms": ["hmac-sha256"], "hmac_allowed_clock_skew": 1500,
         "auth_configs": {"hmac": {"auth_header_name": "X-S"}}, "use_basic_auth": True},
        {"auth": {"all": ["basic", {"hmac": {"algorithms": ["hmac-sha256"], "skew": "1500ms", **LENIENT,
                                             "header": "X-S"}}], "session_from": "hmac"}},
        [],
    ),
    "oidc": (
        {"use_openid": True, "openid_options": {"segregate_by_client": True, "providers": [
            {"issuer": "https://a", "client_ids": {in_base64("web"): "gold", in_base64("app"): "silver"}}]},
         "auth_configs": {"oidc": {"auth_header_name": "X-T"}}},
        {"auth": {"oidc": {"providers": [{"issuer": "https://a", "clients": {"web": "gold", "app": "silver"}}],
                           "segregate_by_client": True, "header": "X-T"}}},
        [],
    ),
    "jwt-secret": (
        {"enable_jwt": True, "jwt_signing_method": "hmac", "jwt_source": in_base64(SECRET + "${X}"),
         "jwt_default_policies": ["gold"], "jwt_expires_at_validation_skew": 10, "auth": {"auth_header_name": "X-T"},
         "auth_configs": {"authToken": {"auth_header_name": "X-Key"}}, "idp_client_id_mapping_disabled": True},
        {"auth": {"jwt": {"algorithms": ["HS256", "HS384", "HS512"], "key": SECRET + "$${X}", "header": "X-T",
                          "skew": {"exp": "10s"}, "default_policies": ["gold"]}}},
        ["auth_configs.authToken.auth_header_name", "idp_client_id_mapping_disabled"],
    ),
    "jwt-set": (
        {"enable_jwt": True, "jwt_signing_method": "rsa", "jwt_source": in_base64("https://a/keys"),
         "jwt_identity_base_field": "mail", "jwt_policy_field_name": "plan", "jwt_client_base_field": "azp",
         "jwt_expires_at_validation_skew": 5, "jwt_issued_at_validation_skew": 5, "jwt_skip_kid": True,
         "jwt_not_before_validation_skew": 5, "scopes": {"jwt": {"scope_to_policy": {"r": "read"}}}},
        {"auth": {"jwt": {"algorithms": ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
                          "jwks": "https://a/keys", "identity": "mail", "skew": "5s", "policy_claim": "plan",
                          "scopes": {"claim": "scope", "policies": {"r": "read"}}}}},
        ["jwt_client_base_field", "jwt_skip_kid"],
    ),
    "jwt-sets": (
        {"enable_jwt": True, "jwt_signing_method": "ecdsa", "jwt_client_base_field": "azp", "jwt_source": "x",
         "jwt_jwks_uris": [{"url": "https://a/keys", "cache_timeout": 9}, {"url": "https://b/keys"}],
         "jwt_scope_to_policy_mapping": {"w": "write"}, "jwt_scope_claim_name": "scp",
         "auth_configs": {"jwt": {"use_cookie": True, "cookie_name": "t"}}, "auth": {"auth_header_name": "X-Old"}},
        {"auth": {"jwt": {"algorithms": ["ES256", "ES384", "ES512"], "jwks": ["https://a/keys", "https://b/keys"],
                          "cookie": "t", "client_claim": "azp",
                          "scopes": {"claim": "scp", "policies": {"w": "write"}}}}},
        ["auth.auth_header_name", "jwt_source"],
    ),
    "jwt-one-to-one": (
        {"enable_jwt": True, "jwt_skip_kid": True, "jwt_policy_field_name": "plan", "jwt_scope_claim_name": "s"},
        {"auth": {"jwt": {"algorithms": ["HS256", "HS384", "HS512"], "from_session": True, "kid_is_key": False}}},
        ["jwt_policy_field_name", "jwt_scope_claim_name"],
    ),
    "jwt-and-key": (
        {"enable_jwt": True, "use_standard_auth": True, "base_identity_provided_by": "jwt_claim"},
        {"auth": {"all": [{"jwt": {"algorithms": ["HS256", "HS384", "HS512"], "from_session": True}}, "key"],
                  "session_from": "jwt"}},
        [],
    ),
    "mtls": (
        {"use_keyless": True, "use_mutual_tls_auth": True, "client_certificates": [PRINT, f"acme{PRINT}"]},
        {"auth": {"mtls": {"allow": [PRINT, f"acme{PRINT}"]}}},
        [],
    ),
    "mtls-and-key": (
        {"use_mutual_tls_auth": True, "client_certificates": [PRINT]},
        {"auth": {"all": [{"mtls": {"allow": [PRINT]}}, "key"], "session_from": "key"}},
        [],
    ),
    "mtls-and-two": (
        {"use_mutual_tls_auth": True, "client_certificates": [PRINT], "use_basic_auth": True, "use_standard_auth": True,
         "base_identity_provided_by": "basic_auth_user", "strip_auth_data": True},
        {"auth": {"all": [{"mtls": {"allow": [PRINT]}}, "basic", "key"], "session_from": "basic"},
         "strip_credentials": True},
        [],
    ),
    "mtls-off": ({"client_certificates": [PRINT]}, {}, ["client_certificates"]),
    "strip": ({"strip_auth_data": True}, {"strip_credentials": True}, []),
    "by-header": (
        versioned(location="header", key="X-V"),
        {"versions": {"by": "header", "name": "X-V", "default": "v1", "list": LIST}},
        [],
    ),
    "by-query": (
        versioned(location="url-param", key="v"),
        {"versions": {"by": "query", "name": "v", "default": "v1", "list": LIST}},
        [],
    ),
    "by-path": (
        versioned(location="url", strip_versioning_data=True),
        {"versions": {"by": "path", "default": "v1", "strip": True, "list": LIST}},
        [],
    ),
    "override": (
        {"version_data": {"not_versioned": True, "versions": {"D": {"override_target": "http://127.0.0.1:1/"}}}},
        {"upstream": "http://127.0.0.1:1/"},
        ["proxy.target_url"],
    ),
    "version-expires": (
        {"version_data": {"not_versioned": True, "versions": {"Default": {"expires": "2027-01-31 00:00"}}}},
        {"expires": "2027-01-31T00:00:00Z"},
        [],
    ),
    "host": (
        {"proxy": {**PROXY, "preserve_host_header": True, "disable_strip_slash": True}},
        {"upstream": {"url": "http://127.0.0.1:9001/", "preserve_host": True}},
        ["proxy.disable_strip_slash"],
    ),
    "keep-path": ({"proxy": {**PROXY, "strip_listen_path": False}}, {"strip_listen_path": False}, []),
    "rate": ({"global_rate_limit": {"rate": 100, "per": 60.0}}, {"plugins": [{"rate_limit": "100/1m"}]}, []),
    "rate-off": (
        {"global_rate_limit": {"rate": 1, "per": 1, "disabled": True}},
        {},
        ["global_rate_limit.disabled", "global_rate_limit.per", "global_rate_limit.rate"],
    ),
    "limits-off": (
        {"disable_rate_limit": True, "disable_quota": True},
        {"session_limits": {"rate": False, "quota": False}},
        [],
    ),
    "switched-off": (
        {"CORS": {"max_age": 24}, "cache_options": {"cache_timeout": 60}, "uptime_tests": {"config": {"x": 1}},
         "hmac_allowed_clock_skew": -1, "session_provider": {"storage_engine": "redis"}, "protocol": "http"},
        {},
        ["CORS.max_age", "cache_options", "hmac_allowed_clock_skew", "protocol", "session_provider.storage_engine",
         "uptime_tests.config"],
    ),
    "analytics": ({"do_not_track": True, "tags": ["eu"]}, {}, ["do_not_track", "tags"]),
    "ours": (
        {"x_aiogate": {"upstream": {"timeouts": {"read": "5s"}}, "auth": ["key"], "labels": {"team": "on"},
                       "plugins": [{"rate_limit": "1/1s"}]}, "use_standard_auth": True},
        {"upstream": {"url": "http://127.0.0.1:9001/", "timeouts": {"read": "5s"}}, "auth": ["key"],
         "labels": {"team": "on"}, "plugins": [{"rate_limit": "1/1s"}]},
        [],
    ),
}  # fmt: skip

REFUSED = {
    "jwt": ({"enable_jwt": True, "jwt_source": "x"}, ["enable_jwt", "jwt_source"]),
    "oidc-none": ({"use_openid": True}, ["openid_options.providers"]),
    "oidc-strange": (
        {"use_openid": True, "openid_options": {"providers": [{"issuer": "https://a", "client_ids": {"%": "gold"}}]}},
        ["openid_options.providers"],
    ),
    "hmac-strange": (
        {"enable_signature_checking": True, "hmac_allowed_algorithms": ["md5"], "hmac_allowed_clock_skew": 3600001,
         "auth_configs": {"hmac": {"use_param": True, "disable_header": True}}},
        ["auth_configs.hmac.disable_header", "auth_configs.hmac.use_param", "hmac_allowed_algorithms",
         "hmac_allowed_clock_skew"],
    ),
    "jwt-short": (
        {"enable_jwt": True, "jwt_source": in_base64("short"), "jwt_default_policies": ["gold"]},
        ["jwt_source"],
    ),
    "jwt-secret-by-url": (
        {"enable_jwt": True, "jwt_source": "https://a/keys", "jwt_default_policies": ["gold"]},
        ["jwt_source"],
    ),
    "jwt-strange": (
        {"enable_jwt": True, "jwt_signing_method": "rsa", "jwt_jwks_uris": [{}], "jwt_scope_to_policy_mapping": ["x"],
         "jwt_expires_at_validation_skew": 301},
        ["enable_jwt", "jwt_expires_at_validation_skew", "jwt_jwks_uris", "jwt_scope_to_policy_mapping"],
    ),
    "jwt-certificates": (
        {"enable_jwt": True, "auth_configs": {"jwt": {"use_certificate": True}}},
        ["auth_configs.jwt.use_certificate"],
    ),
    "unknown": ({"some_new_thing": {"on": True}}, ["some_new_thing"]),
    "cache": ({"cache_options": {"enable_cache": True}}, ["cache_options"]),
    "plugins": ({"custom_middleware": {"pre": [{"name": "x"}]}}, ["custom_middleware.pre"]),
    "events": ({"event_handlers": {"events": {"AuthFailure": [{}]}}}, []),
    "lifetime": ({"session_lifetime": 60}, ["session_lifetime"]),
    "identity": ({"base_identity_provided_by": "jwt_claim"}, ["base_identity_provided_by"]),
    "expiration": ({"expiration": "soon"}, ["expiration"]),
    "kind": ({"use_basic_auth": "yes"}, ["use_basic_auth"]),
    "no-path": ({"proxy": {"target_url": "http://127.0.0.1:1/"}}, ["proxy.listen_path"]),
    "rate": ({"global_rate_limit": {"rate": 1.5, "per": 1}}, ["global_rate_limit.rate"]),
    "window": ({"global_rate_limit": {"rate": 1}}, ["global_rate_limit.rate"]),
    "open-and-ours": ({"use_keyless": True, "x_aiogate": {"auth": ["key"]}}, ["x_aiogate.auth"]),
    "other-auth": ({"use_basic_auth": True, "x_aiogate": {"auth": ["key"]}}, ["x_aiogate.auth"]),
    "ours-of-another-kind": ({"x_aiogate": {"upstream": ["x"]}}, ["x_aiogate.upstream"]),
    "batch": ({"enable_batch_request_support": True, "internal": True}, ["enable_batch_request_support", "internal"]),
    "mtls-of-nobody": ({"use_mutual_tls_auth": True}, ["use_mutual_tls_auth"]),
    "mtls-of-nobody-open": ({"use_keyless": True, "use_mutual_tls_auth": True}, ["use_mutual_tls_auth"]),
    "mtls-strange": (
        {"use_mutual_tls_auth": True, "client_certificates": ["client.pem", PRINT]}, ["client_certificates"],
    ),
    "mtls-and-ours": (
        {"use_mutual_tls_auth": True, "client_certificates": [PRINT], "x_aiogate": {"auth": "key"},
         "use_standard_auth": True},
        ["x_aiogate.auth"],
    ),
}  # fmt: skip


def paths(lines):
    return [line.partition(":")[0] for line in lines]


@pytest.mark.parametrize("name", MAPPED)
async def test_a_definition_is_untouched(name, tmp_path):
    added, expected, ignored = MAPPED[name]
    translation = translate_api({**BASE, **added})
    assert list(translation.refused) == []
    assert translation.native == {**PLAIN, **expected}
    assert paths(translation.ignored) == ignored
    text = yaml_text(translation.native, "a test")
    assert yaml.safe_load(text) == {**PLAIN, **expected}
    (tmp_path / "apis").mkdir()
    (tmp_path / "apis" / "a.yaml").write_text(text)
    flags = {name: str(tmp_path / name) for name in ("apis", "policies", "plugins", "state")}
    generation = await check(load_settings(None, {}, flags))
    assert [definition.id for definition in generation.declared.definitions] == ["a"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_we_do_not_have_is_refused_by_name(name):
    added, refused = REFUSED[name]
    if name == "events":
        added, refused = {"event_handlers": {"events": {"AuthFailure": [{"handler_name": "x"}]}}}, ["event_handlers"]
    assert paths(translate_api({**BASE, **added}).refused) == refused


@pytest.mark.parametrize("field", [name for name, row in API_FIELDS.items() if row.verdict == "refused"])
def test_a_refused_field_is_never_mapped(field):
    body, place = {}, None
    for step in reversed(field.replace("*", "v").split(".")):
        body = {step: body or {"set": "x"}}
        place = step
    assert place
    said = [verdict for verdict in translate_api(body).fields if verdict.field == field.replace("*", "v")]
    assert [one.verdict for one in said if one.verdict == "mapped"] == []
    assert said


@pytest.mark.parametrize("name", [name for name in MAPPED if name.partition("-")[0] in ("jwt", "hmac", "oidc", "mtls")])
def test_what_verifies_signatures_comes_back_as_it_was(name):
    native = {**PLAIN, **MAPPED[name][1]}
    shown = render(make_definition(yaml_text(native, "a test"), "apis.d/a.yaml"))
    again = translate_api(shown)
    assert list(again.refused) == []
    assert again.native["auth"] == native["auth"]


def test_signatures_do_not_become_lenient_on_the_way_back():
    shown = render(make_definition("{id: a, listen: /a/, upstream: 'http://127.0.0.1:9001/', auth: hmac}"))
    assert translate_api(shown).native["auth"] == "hmac"


@pytest.mark.parametrize("auth", [
    "mtls", "{mtls: {session: true}}", "[mtls: {allow: [PRINT]}, key]", "[key, mtls: {allow: [PRINT]}]",
    "{all: [mtls: {allow: [PRINT]}, key]}", "{all: [key, mtls: {allow: [PRINT]}]}",
    "{all: [key, basic]}", "{all: [basic, key]}",
    "{mtls: {allow: [PRINT], policies: [gold]}}", "{mtls: {allow: ['AB:PRINT']}}",
    "{all: [mtls: {allow: [PRINT]}, key: {}, basic: {realm: x}], session_from: key}",
])  # fmt: skip
def test_whose_session_counts_and_which_certificates_come_back(auth):
    """Where Tyk's fields do not say it, ours travel beside them; no API is opened by being shown and put back."""
    auth = auth.replace("AB:PRINT", ":".join(["ab"] * 32)).replace("PRINT", PRINT)
    definition = make_definition(f"{{id: a, listen: /a/, upstream: 'http://127.0.0.1:9001/', auth: {auth}}}")
    shown = render(definition)
    assert shown["use_keyless"] is False
    again = translate_api(shown)
    assert list(again.refused) == []
    back = make_definition(yaml_text(again.native, "a test"))

    def said(one):
        first = one.auth.methods[0].name if one.auth.mode == "all" else None
        methods = sorted((use.name, str(use.config or {})) for use in one.auth.methods)
        return one.auth.mode, methods, one.auth.session_from or first

    assert said(back) == said(definition)


POLICY = {
    "_id": "gold", "name": "Gold", "org_id": "default", "rate": 100, "per": 1, "quota_max": 1000,
    "quota_renewal_rate": 3600, "key_expires_in": 86400, "tags": ["t"], "meta_data": {"a": 1}, "active": True,
    "access_rights": {"a": {"api_id": "a", "api_name": "A", "versions": ["v1"],
                            "allowed_urls": [{"url": "^/u", "methods": ["GET"]}], "limit": {"rate": 5, "per": 60}}},
    "partitions": {"quota": True, "rate_limit": True}, "is_inactive": True,
}  # fmt: skip


def test_a_policy_is_untouched():
    translation = translate_policy(POLICY)
    assert list(translation.refused) == []
    assert paths(translation.ignored) == ["access_rights.a.api_id", "access_rights.a.api_name", "active"]
    assert translation.native == {
        "id": "gold", "name": "Gold", "org": "default", "rate": "100/1s", "quota": "1000/1h", "key_lifetime": "1d",
        "tags": ["t"], "meta": {"a": 1}, "partitions": ["rate", "quota"], "inactive": True,
        "access": {"a": {"versions": ["v1"], "paths": [{"path": "^/u", "methods": ["GET"]}], "rate": "5/1m"}},
    }  # fmt: skip


def test_no_limit_is_said_by_saying_nothing():
    translation = translate_policy({"id": "p", "rate": -1, "quota_max": -1, "access_rights": {"a": {}}})
    assert translation.native == {"id": "p", "access": {"a": {}}}
    assert paths(translation.ignored) == ["quota_max", "rate"]


@pytest.mark.parametrize("field", ["hmac_enabled", "post_expiry_action", "graphql_access_rights", "whatever"])
def test_a_policy_with_more_is_refused(field):
    assert paths(translate_policy({"id": "p", field: True}).refused) == [field]


def run(*words):
    return CliRunner().invoke(main, ["import", "tyk", *map(str, words)])


def test_files_are_written_and_the_operators_are_not(tmp_path):
    source, apis, policies = tmp_path / "in", tmp_path / "apis", tmp_path / "policies"
    source.mkdir()
    (source / "a.json").write_text(json.dumps([{"api_definition": {**BASE, "name": "${HOME}"}}]))
    (source / "p.json").write_text(json.dumps({"gold": {"access_rights": {"a": {}}}}))
    words = (source, "--apis", apis, "--policies", policies)
    assert run(*words, "--dry-run").exit_code == 0
    assert not apis.exists()
    assert run(*words).exit_code == 0
    written = apis / "a.yaml"
    assert is_untouched(written.read_bytes())
    assert written.read_text().startswith("# Translated from Tyk's classic JSON: imported from a.json.\n")
    assert yaml.safe_load(written.read_text())["name"] == "$${HOME}"
    assert yaml.safe_load((policies / "gold.yaml").read_text()) == {"id": "gold", "access": {"a": {}}}
    assert run(*words).exit_code == 0, "what is as it was translated may be written again"
    written.write_text(written.read_text() + "labels: {mine: yes}\n")
    before = written.read_text()
    again = run(*words)
    assert (again.exit_code, written.read_text()) == (1, before)
    assert "written by hand" in again.output
    assert sorted(path.name for path in apis.iterdir()) == ["a.yaml"]


def test_a_link_is_neither_followed_nor_replaced(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(BASE))
    (tmp_path / "apis").mkdir()
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "apis" / "a.yaml").symlink_to(outside)
    assert run(tmp_path / "a.json", "--apis", tmp_path / "apis").exit_code == 1
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("api_id", ["", "../x", "a/b", ".a", "x" * 65, "a\nb"])
def test_an_id_that_is_none_writes_nothing(tmp_path, api_id):
    (tmp_path / "a.json").write_text(json.dumps({**BASE, "api_id": api_id}))
    assert run(tmp_path / "a.json", "--apis", tmp_path / "apis").exit_code == 1
    assert not (tmp_path / "apis").exists()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "gopher://a/", "env://X", "tcp://a:1"])
def test_other_schemes_are_refused(tmp_path, url):
    (tmp_path / "a.json").write_text(json.dumps({**BASE, "proxy": {**PROXY, "target_url": url}}))
    result = run(tmp_path / "a.json", "--apis", tmp_path / "apis", "--json")
    assert result.exit_code == 1
    assert any(line.startswith("upstream") for line in json.loads(result.output)[0]["refused"])


@pytest.mark.parametrize("text", ["", "[1]", "{", "3", '{"a": 1}', "\xff"])
def test_a_file_that_is_neither(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    assert run(tmp_path / "a.json", "--apis", tmp_path / "apis").exit_code == 1


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted({step for table in (API_FIELDS, POLICY_FIELDS) for name in table for step in name.split(".")} - {"*"})
bodies = st.recursive(
    st.dictionaries(st.sampled_from(NAMES), values, max_size=5),
    lambda inner: st.dictionaries(st.sampled_from(NAMES), inner | values, max_size=5),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(bodies)
def test_no_json_is_too_strange(body):
    for translate in (translate_api, translate_policy):
        translation = translate(body)
        if not translation.refused:
            assert is_untouched(yaml_text(translation.native, "a test").encode())


def test_a_bottomless_body_is_refused():
    body: dict[str, object] = {}
    for _ in range(900):
        body = {"x_aiogate": body}
    assert paths(translate_api({**BASE, "x_aiogate": {"labels": body}}).refused) == ["(body)"]
