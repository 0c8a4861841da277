"""The life of keys and users, typed at a shell and tried at the gateway."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from base64 import b64encode
from datetime import datetime
from pathlib import Path

import pytest

from tests.cli.site import Site, typed
from tests.cli.test_passwords import on_a_terminal


def answered(site: Site, authorization: str, version: str = "v1") -> int:
    """The status of a request to the API. 502: it was let through to an upstream that is not there."""
    headers = {"Host": "api.example.com", "Authorization": authorization, "X-Version": version}
    request = urllib.request.Request(f"{site.gateway}/login-api/", headers=headers)
    try:
        with urllib.request.urlopen(request) as response:
            return int(response.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def pairs(text: str) -> dict[str, str]:
    return {name: value.strip() for name, value in (line.split("  ", 1) for line in text.splitlines())}


def test_a_key_from_its_making_to_its_end(site: Site) -> None:
    made = pairs(site.run("keys", "create", "--policy", "gold", "--alias", "Partner 7").stdout)
    assert made["hash"] == hashlib.sha256(f"default\0{made['key']}".encode()).hexdigest()
    assert answered(site, made["key"]) == 502

    for name in (made["key"], made["hash"]):
        shown = pairs(site.run("keys", "get", name).stdout)
        assert (shown["alias"], shown["organisation"], shown["policies"]) == ("Partner 7", "default", "gold")
        assert (shown["state"], shown["expires"], shown["APIs"], shown["rate"]) == (
            "active",
            "never",
            "login",
            "1000/1m",
        )
        assert shown["quota"].startswith("99999 left of 100000, renewed 20")

    listed = site.run("keys", "list", "--filter", "Partner 7").stdout.splitlines()
    assert listed[0].split() == ["HASH", "KIND", "ORGANISATION", "LABEL"]
    assert listed[1].split() == [made["hash"], "key", "default", "Partner", "7"]
    assert made["key"] not in site.run("keys", "list").stdout

    assert site.run("keys", "revoke", made["key"]).stdout == f"revoked {made['hash']}\n"
    assert answered(site, made["key"]) == 403
    assert site.run("keys", "get", made["hash"], code=1).stderr == "Error: Key not found\n"
    assert "no such key" in site.run("keys", "revoke", made["hash"], code=1).stderr


def test_what_a_key_may_do_is_said_by_options(site: Site) -> None:
    made = site.json("keys", "create", "--api", "login:v1", "--api", "hello", "--rate", "5/1m", "--quota", "7/2h",
                     "--expires", "2999-01-31T00:00:00Z", "--org", "default")  # fmt: skip
    session = site.json("keys", "get", made["key"])
    assert session["access_rights"]["login"]["versions"] == ["v1"]
    assert session["access_rights"]["hello"]["versions"] == []
    assert (session["rate"], session["per"]) == (5, 60)
    assert (session["quota_max"], session["quota_renewal_rate"]) == (7, 7200)
    assert session["expires"] == int(datetime.fromisoformat("2999-01-31T00:00:00+00:00").timestamp())
    shown = pairs(site.run("keys", "get", made["key"]).stdout)
    assert (shown["APIs"], shown["rate"], shown["quota"][:11]) == ("login (v1), hello", "5/1m", "7 left of 7")
    assert answered(site, made["key"]) == 502
    assert answered(site, made["key"], "v2") == 403


def test_raw_is_without_the_policies(site: Site) -> None:
    made = site.json("keys", "create", "--policy", "gold")
    assert site.json("keys", "get", made["key"])["rate"] == 1000
    assert site.json("keys", "get", made["key"], "--raw")["rate"] == 0
    assert pairs(site.run("keys", "get", made["key"], "--raw").stdout)["rate"] == "unlimited"


def test_expires_may_be_a_duration(site: Site) -> None:
    made = site.json("keys", "create", "--policy", "gold", "--expires", "90d")
    left = site.json("keys", "get", made["key"])["expires"] - datetime.now().timestamp()
    assert 90 * 86400 - 120 < left <= 90 * 86400


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "it would open nothing: give --api or --policy"),
        (["--api", ":v1"], "should be an API's id"),
        (["--api", "login:"], "should be an API's id"),
        (["--policy", "gold", "--rate", "5"], "has no unit"),
        (["--policy", "gold", "--rate", "5/m"], "did you mean `5/1m`?"),
        (["--policy", "gold", "--rate", "0/1m"], "lets nothing through"),
        (["--policy", "gold", "--quota", "5/1.5s"], "whole seconds"),
        (["--policy", "gold", "--expires", "2027-01-31"], "did you mean `2027-01-31T00:00:00Z`?"),
        (["--policy", "gold", "--expires", "soon"], "is not a time"),
    ],
)
def test_wrong_usage_ends_with_2_whether_or_not_a_gateway_runs(tmp_path: Path, arguments: list[str], says: str) -> None:
    said = typed(tmp_path, "keys", "create", *arguments, code=2).stderr
    assert says in said.replace("\n", " ")


def test_what_the_gateway_refuses_ends_with_1(site: Site) -> None:
    said = site.run("keys", "create", "--policy", "platinum", code=1).stderr
    assert 'policy "platinum" does not exist' in said


def test_an_api_that_is_not_there_is_warned_of(site: Site) -> None:
    result = site.run("keys", "create", "--api", "later")
    assert "key " in result.stdout
    assert result.stderr.startswith("warning: ")
    assert "later" in result.stderr


def test_lists_by_api_and_in_json(site: Site) -> None:
    made = site.json("keys", "create", "--api", "watched", "--alias", "only-watched")
    record = {"key_hash": made["key_hash"], "kind": "key", "org_id": "default", "label": "only-watched"}
    assert site.json("keys", "list", "--api", "watched") == [record]
    assert site.json("keys", "list", "--filter", "nobody") == []
    assert site.run("keys", "list", "--filter", "nobody").stdout == "there are none\n"


def test_a_label_cannot_write_to_the_terminal(site: Site) -> None:
    made = site.json("keys", "create", "--policy", "gold", "--alias", "evil\x1b]0;title\x07")
    assert "\x1b" not in site.run("keys", "get", made["key"]).stdout
    assert "evil\\x1b]0;title\\x07" in site.run("keys", "list", "--filter", "evil").stdout


def test_a_user_from_standard_input(site: Site) -> None:
    added = site.run("users", "add", "test@test.com", "--policy", "gold", "--password-stdin", stdin="test:123\n")
    assert pairs(added.stdout)["user"] == "test@test.com"
    assert "test:123" not in added.output
    assert answered(site, basic("test@test.com", "test:123")) == 502
    assert answered(site, basic("test@test.com", "test:123\n")) == 401
    assert answered(site, "test@test.com") == 403
    listed = site.run("keys", "list", "--filter", "test@").stdout.splitlines()
    assert listed[1].split()[1:] == ["basic", "default", "test@test.com"]
    assert site.run("keys", "revoke", "test@test.com").stdout == "revoked test@test.com\n"
    assert answered(site, basic("test@test.com", "test:123")) == 401


def test_a_user_is_not_overwritten_unless_told_to(site: Site) -> None:
    site.run("users", "add", "walter", "--api", "login", "--password-stdin", stdin="first-1")
    again = ("users", "add", "walter", "--api", "login", "--password-stdin")
    assert "walter is there already; --replace" in site.run(*again, stdin="second-2", code=1).stderr
    assert answered(site, basic("walter", "first-1")) == 502
    site.run(*again, "--replace", stdin="second-2")
    assert answered(site, basic("walter", "first-1")) == 401
    assert answered(site, basic("walter", "second-2")) == 502


@pytest.mark.parametrize(
    ("name", "password", "code", "says"),
    [
        ("al:ice", "test123", 1, "a user name cannot hold a colon"),
        ("al", "test123", 1, "at least 3 are needed"),
        ("alice", "x" * 73, 1, "72"),
        ("alice", "", 2, "standard input is empty"),
    ],
)
def test_users_that_cannot_be(site: Site, name: str, password: str, code: int, says: str) -> None:
    arguments = ("users", "add", name, "--policy", "gold", "--password-stdin")
    assert says in site.run(*arguments, stdin=password, code=code).stderr
    assert site.run("keys", "get", "alice", code=1).stdout == ""


def test_a_password_is_not_taken_from_a_pipe_by_accident(site: Site) -> None:
    said = site.run("users", "add", "pia", "--policy", "gold", stdin="test123\n", code=2).stderr
    assert "say --password-stdin" in said


def test_a_password_is_asked_for_at_a_terminal(site: Site) -> None:
    answers = [b"typed-12", b"typed-12"]
    code, screen = on_a_terminal(site.folder, answers, "users", "add", "theo", "--policy", "gold")
    assert code == 0, screen
    assert "typed-12" not in screen
    assert answered(site, basic("theo", "typed-12")) == 502


def test_the_secrets_of_the_state_folder_are_the_operators_own(site: Site) -> None:
    assert (site.folder / "var" / "control.secret").stat().st_mode & 0o777 == 0o600
