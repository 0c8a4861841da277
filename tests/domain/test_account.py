"""Names, keys and kinds."""

from __future__ import annotations

import base64
import hashlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiogate.domain.account import (
    counter_keys,
    generate_key,
    is_name_hash,
    kind_of,
    name_mistake,
    org_mistake,
    org_of_key,
    stored_name,
    without_org,
)
from aiogate.domain.limits import Bucket
from aiogate.domain.session import Grant, Session, parse_document


def test_a_stored_name_is_the_sha256_of_organisation_and_name() -> None:
    assert stored_name("acme", "ada") == hashlib.sha256(b"acme\0ada").hexdigest()
    assert is_name_hash(stored_name("acme", "ada"))
    assert not is_name_hash("ada")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.text(), st.text(min_size=1))
def test_characters_appended_to_a_name_make_another_one(org: str, name: str, more: str) -> None:
    assert stored_name(org, name) != stored_name(org, name + more)


def test_bytes_that_are_not_text_have_a_stored_name() -> None:
    assert is_name_hash(stored_name("acme", "caf\udce9"))


def test_a_generated_key_names_its_organisation_and_never_repeats() -> None:
    key = generate_key("acme")
    value = orjson.loads(base64.b64decode(key))
    assert list(value) == ["org", "id", "h"]
    assert (value["org"], value["h"], len(value["id"])) == ("acme", "sha256", 32)
    assert org_of_key(key) == "acme"
    assert key != generate_key("acme")


@pytest.mark.parametrize(
    "key, org",
    [
        ("5e9d9544a1dcd60001d0ed20" + "a" * 32, "5e9d9544a1dcd60001d0ed20"),
        ("ada", None),
        ("eyJub3QganNvbg==", None),
        ("ey!", None),
        (base64.b64encode(b'{"org":7}').decode(), None),
        (base64.b64encode(b"[1]").decode(), None),
        ("", None),
    ],
)
def test_the_organisation_of_a_key(key: str, org: str | None) -> None:
    assert org_of_key(key) == org


def test_the_organisation_in_front_of_a_name_is_stripped_once() -> None:
    assert without_org("acme", "acmeada") == "ada"
    assert without_org("acme", "acmeacme") == "acme"
    assert without_org("acme", "acme") == "acme"
    assert without_org("", "ada") == "ada"


@pytest.mark.parametrize(
    "document, kind",
    [
        ({"basic_auth_data": {"password": "x"}}, "basic"),
        ({"hmac_enabled": True}, "hmac"),
        ({"enable_http_signature_validation": True}, "hmac"),
        ({"jwt_data": {"secret": "x"}}, "jwt"),
        ({"oauth_client_id": "client"}, "oauth"),
        ({}, "key"),
    ],
)
def test_the_kind_of_a_document(document: dict[str, object], kind: str) -> None:
    assert kind_of(parse_document(document)) == kind


@pytest.mark.parametrize(
    "name, mistake",
    [
        ("ada", ""),
        ("ada@example.com", ""),
        ("ad", "at least 3"),
        ("a:b", "colon"),
        ("ada ", "blank"),
        ("ada\n", "blank"),
        ("a\0da", "control"),
        ("caf\udce9", "control"),
        ("a" * 64, "key hash"),
        ("x" * 1025, "at most"),
    ],
)
def test_user_names(name: str, mistake: str) -> None:
    assert mistake in name_mistake(name, "basic")
    assert bool(mistake) == bool(name_mistake(name, "basic"))


def test_a_key_may_hold_a_colon() -> None:
    assert name_mistake("a:b:c", "key") == ""


@pytest.mark.parametrize("org, good", [("acme", True), ("", False), ("a b", False), ("a\n", False), ("x" * 129, False)])
def test_organisations(org: str, good: bool) -> None:
    assert (org_mistake(org) == "") is good


def test_the_counters_of_a_session_are_named_once_each() -> None:
    shared, own = Bucket("rate::h", 1, 1, "rate"), Bucket("quota:login:h", 1, 1, "quota")
    grants = {"login": Grant(buckets=(shared, own)), "portal": Grant(buckets=(shared,))}
    assert counter_keys(Session("h", "acme", "key", "", grants)) == ("rate::h", "quota:login:h")
