"""Reading and writing session documents."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from aiogate.domain.session import (
    DocumentError,
    PathRule,
    SessionDocument,
    compile_path,
    granted_apis,
    parse_document,
    parse_stored,
    storage_deadline,
)

THREAD: dict[str, Any] = {
    "last_check": 0,
    "allowance": 1000,
    "rate": 1000,
    "per": 60,
    "expires": 0,
    "quota_max": 10000,
    "quota_renews": 1460000000,
    "quota_remaining": 10000,
    "quota_renewal_rate": 3600,
    "access_rights": {"login": {"api_name": "Login", "api_id": "login", "versions": ["v1"], "allowed_urls": None}},
    "org_id": "acme",
    "oauth_client_id": "",
    "basic_auth_data": {"password": "test123", "hash_type": "bcrypt"},
    "jwt_data": {"secret": ""},
    "hmac_enabled": False,
    "hmac_string": "",
    "is_inactive": False,
    "apply_policy_id": "",
    "data_expires": 0,
    "monitor": {"trigger_limits": None},
    "meta_data": {},
    "tags": [],
}


def test_the_threads_document_comes_back_in_its_order_without_the_password() -> None:
    shown = parse_document(orjson.dumps(THREAD)).as_json()
    assert [name for name in shown if name in THREAD] == list(THREAD)
    assert {name: shown[name] for name in THREAD} == {
        **THREAD,
        "basic_auth_data": {"password": "", "hash_type": "bcrypt"},
    }
    assert list(shown["access_rights"]["login"]) == ["api_name", "api_id", "versions", "allowed_urls"]


def test_an_empty_document_emits_every_field_of_the_thread() -> None:
    shown = parse_document(b"{}").as_json()
    assert set(THREAD) <= set(shown)
    assert shown["monitor"] == {"trigger_limits": None}
    assert isinstance(shown["rate"], int)


def test_what_is_shown_is_accepted_again() -> None:
    document = parse_document(orjson.dumps(THREAD))
    assert parse_document(orjson.dumps(document.as_json())).as_json() == document.as_json()


def test_no_secret_is_shown_and_every_secret_is_stored() -> None:
    document = parse_document(
        {
            "basic_auth_data": {"password": "secret1"},
            "jwt_data": {"secret": "secret2"},
            "hmac_string": "secret3",
            "oauth_keys": {"client": "secret4"},
        }
    )
    assert b"secret" not in orjson.dumps(document.as_json()).replace(b'"secret":', b"")
    assert "secret1" not in repr(document)
    assert "secret2" not in repr(document)
    assert all(f"secret{number}".encode() in document.stored() for number in range(1, 5))
    assert parse_stored(document.stored()) == document


@pytest.mark.parametrize("wrapper", [{"api_model": {}, "key_id": "x", "data": THREAD}, {"data": THREAD}])
def test_the_wrapper_of_a_key_request_is_accepted(wrapper: dict[str, Any]) -> None:
    assert parse_document(wrapper) == parse_document(THREAD)


def test_old_spellings_are_accepted() -> None:
    document = parse_document(
        {
            "access_rights": {"login": {"apiid": "login", "apiname": "Login"}},
            "enable_detail_recording": True,
            "apply_policy_id": "gold",
        }
    )
    assert document.access_rights["login"].api_name == "Login"
    assert document.access_rights["login"].api_id == "login"
    assert document.enable_detailed_recording is True
    assert document.policy_ids == ("gold",)


def test_a_list_of_policies_goes_before_the_single_one() -> None:
    document = parse_document({"apply_policy_id": "old", "apply_policies": ["a", "b"]})
    assert document.policy_ids == ("a", "b")


def test_unknown_fields_are_left_out_and_null_means_absent() -> None:
    document = parse_document({"nonsense": {"deep": 1}, "rate": None, "tags": None, "access_rights": None})
    assert document == SessionDocument()


@pytest.mark.parametrize(
    "fields, path",
    [
        ({"rate": "5"}, "rate:"),
        ({"rate": True}, "rate:"),
        ({"rate": math.nan}, "rate:"),
        ({"rate": math.inf}, "rate:"),
        ({"rate": 1e300}, "rate:"),
        ({"per": -1}, "per:"),
        ({"rate": 5}, "per:"),
        ({"quota_max": 2**63}, "quota_max:"),
        ({"quota_max": 1.5}, "quota_max:"),
        ({"quota_max": -(2**63) - 1}, "quota_max:"),
        ({"expires": "tomorrow"}, "expires:"),
        ({"is_inactive": 1}, "is_inactive:"),
        ({"tags": "gold"}, "tags:"),
        ({"tags": [1]}, "tags.0:"),
        ({"meta_data": []}, "meta_data:"),
        ({"access_rights": []}, "access_rights:"),
        ({"access_rights": {"login": 7}}, "access_rights.login:"),
        ({"access_rights": {"login": {"versions": "v1"}}}, "access_rights.login.versions:"),
        ({"access_rights": {"login": {"limit": {"per": -1}}}}, "access_rights.login.limit.per:"),
        ({"access_rights": {"login": {"limit": {"rate": 5}}}}, "access_rights.login.limit.per:"),
        ({"access_rights": {"login": {"allowed_urls": [{"url": "(?=a)"}]}}}, "access_rights.login.allowed_urls.0.url:"),
        ({"access_rights": {"login": {"allowed_urls": [{"url": ""}]}}}, "access_rights.login.allowed_urls.0.url:"),
        ({"access_rights": {"a": {"allowed_urls": [{"url": "x" * 3000}]}}}, "access_rights.a.allowed_urls.0.url:"),
        ({"date_created": "yesterday"}, "date_created:"),
        ({"post_expiry_action": "explode"}, "post_expiry_action:"),
        ({"certificate": "abc", "hmac_enabled": True}, "certificate:"),
        ({"mtls_static_certificate_bindings": ["abc"]}, "mtls_static_certificate_bindings:"),
        ({"max_query_depth": 3}, "max_query_depth:"),
        ({"smoothing": {"enabled": True}}, "smoothing:"),
        ({"meta_data": {"rate_limit_pattern": "$tyk_meta.x"}}, "meta_data.rate_limit_pattern:"),
        ({"access_rights": {"a": {"limit": {"max_query_depth": 3}}}}, "access_rights.a.limit.max_query_depth:"),
        ({"access_rights": {"a": {"endpoints": [{"path": "/"}]}}}, "access_rights.a.endpoints:"),
        ({"access_rights": {"a": {"restricted_types": [{}]}}}, "access_rights.a.restricted_types:"),
        ({"access_rights": {"a": {"allowed_types": [{}]}}}, "access_rights.a.allowed_types:"),
        ({"access_rights": {"a": {"field_access_rights": [{}]}}}, "access_rights.a.field_access_rights:"),
        ({"access_rights": {"a": {"disable_introspection": True}}}, "access_rights.a.disable_introspection:"),
        ({"access_rights": {"a": {"mcp_primitives": [{}]}}}, "access_rights.a.mcp_primitives:"),
    ],
)
def test_a_mistake_is_named_by_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(DocumentError) as found:
        parse_document(fields)
    assert [problem for problem in found.value.problems if problem.startswith(path)]


def test_all_mistakes_are_told_together() -> None:
    with pytest.raises(DocumentError) as found:
        parse_document({"rate": "5", "per": -1, "tags": 3})
    assert len(found.value.problems) == 3


def test_restrictions_that_are_switched_off_are_accepted() -> None:
    document = parse_document(
        {
            "max_query_depth": -1,
            "certificate": "",
            "smoothing": {"enabled": False},
            "throttle_interval": -1,
            "throttle_retry_limit": -1,
            "access_rights": {"a": {"restricted_types": [], "endpoints": None, "limit": {"rate": -1, "quota_max": -1}}},
        }
    )
    assert document.throttle_interval == -1


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"7", b"null", b'"x"', b'{"rate": NaN}', b'{"rate": 1e999}', b"\xff"]
)
def test_a_body_that_is_no_object_is_one_error(body: bytes) -> None:
    with pytest.raises(DocumentError):
        parse_document(body)


def test_nesting_that_could_not_be_written_back_is_refused() -> None:
    deep = b'{"meta_data":{"a":' + b"[" * 400 + b"]" * 400 + b"}}"
    with pytest.raises(DocumentError, match="nested too deeply"):
        parse_document(deep)
    with pytest.raises(DocumentError, match="nested too deeply"):
        parse_document(deep.replace(b"meta_data", b"smoothing"))
    fine = parse_document(b'{"meta_data":{"a":' + b"[" * 200 + b"]" * 200 + b"}}")
    assert orjson.dumps({"data": fine.as_json()})


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from([*SessionDocument.model_fields, "api_id", "data", "limit", "other"])


@settings(max_examples=300)
@given(st.dictionaries(field_names, json_values, max_size=6))
def test_whatever_is_sent_is_a_document_or_the_one_error(fields: dict[str, Any]) -> None:
    try:
        document = parse_document(fields)
    except DocumentError:
        return
    assert parse_stored(document.stored()).as_json() == document.as_json()


def test_a_stored_document_that_is_damaged_is_the_same_error() -> None:
    with pytest.raises(DocumentError):
        parse_stored(b"{")


def test_blank_secrets_are_kept_from_what_was_stored() -> None:
    stored = parse_document({"hmac_string": "s", "jwt_data": {"secret": "j"}, "date_created": "2026-01-01T00:00:00Z"})
    stored = stored.with_password("$2b$hash")
    kept = parse_document({"rate": 1, "per": 1}).keeping(stored)
    assert (kept.hmac_string, kept.jwt_data.secret, kept.basic_auth_data) == ("s", "j", stored.basic_auth_data)
    assert kept.date_created == "2026-01-01T00:00:00Z"
    assert parse_document({"basic_auth_data": {"password": "new"}}).keeping(stored).basic_auth_data.password == "new"


def test_the_apis_that_a_stored_document_grants() -> None:
    assert granted_apis(parse_document(THREAD).stored()) == {"login"}
    assert granted_apis(b"{}") == frozenset()


@pytest.mark.parametrize(
    "url, path, allowed",
    [
        ("/users/.*", "/users/1", True),
        ("/users/.*", "/v1/users/1", False),
        ("/users", "/users/1", False),
        ("^/users", "/users/1", True),
        ("^/users", "/v1/users", False),
        ("/edit$", "/users/edit", True),
        ("/edit$", "/users/edit/1", False),
        ("/a|/b", "/a/secret", False),
        ("/a|/b", "/b", True),
        ("/price\\$", "/price$/more", False),
    ],
)
def test_a_pattern_covers_the_path_unless_it_says_otherwise(url: str, path: str, allowed: bool) -> None:
    rule = PathRule(compile_path(url), frozenset({"GET"}))
    assert rule.allows("GET", path) is allowed
    assert not rule.allows("POST", path)


NOW = 1_000_000.0


@pytest.mark.parametrize(
    "fields, deadline",
    [
        ({}, 0.0),
        ({"expires": 1_000_100}, 0.0),
        ({"session_lifetime": 50}, NOW + 50),
        ({"session_lifetime": 50, "expires": 1_000_100}, 1_000_100.0),
        ({"session_lifetime": 500, "expires": 1_000_100}, NOW + 500),
        ({"post_expiry_action": "delete", "expires": 1_000_100}, 1_000_100.0),
        ({"post_expiry_action": "delete", "expires": 5}, NOW + 1),
        ({"post_expiry_action": "delete"}, 0.0),
        ({"post_expiry_action": "retain", "post_expiry_grace_period": 60, "expires": 1_000_100}, 1_000_160.0),
        ({"post_expiry_action": "retain", "post_expiry_grace_period": -1, "expires": 1_000_100}, 0.0),
    ],
)
def test_how_long_a_store_keeps_a_session(fields: dict[str, Any], deadline: float) -> None:
    assert storage_deadline(parse_document(fields), NOW) == deadline


def test_a_pattern_cannot_break_out_of_the_brackets_that_anchor_it() -> None:
    with pytest.raises(re2.error):
        compile_path("a)|(?:b")
