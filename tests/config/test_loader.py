from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiogate.config.definition import read_definition
from aiogate.config.loader import Declared, NotLoaded, load
from aiogate.config.policy import read_policy
from aiogate.config.source import examine
from aiogate.config.variables import Variables, expand
from aiogate.errors import DIAGNOSTICS, Diagnostic, DiagnosticsFound

API = "listen: /{0}/\nauth: none\nupstream: http://127.0.0.1:9001/\n"


@dataclass(frozen=True)
class Site:
    """A folder with the folders of a site."""

    root: Path

    @property
    def apis(self) -> Path:
        return self.root / "apis.d"

    @property
    def policies(self) -> Path:
        return self.root / "policies.d"

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    for name in ("login", "portal"):
        made.write(f"apis.d/{name}.yaml", API.format(name))
    made.write("policies.d/gold.yaml", "access: {login: {}}\nrate: 5/1s\n")
    return made


def codes(site: Site, previous: Declared | None = None, **more: object) -> list[str]:
    with pytest.raises(NotLoaded) as caught:
        load(site, previous, environ={}, **more)  # type: ignore[arg-type]
    return [f"{Path(one.file).name}:{one.line}:{one.column} {one.code}" for one in caught.value.diagnostics]


def test_a_site(site: Site) -> None:
    declared = load(site, environ={})
    assert [api.id for api in declared.definitions] == ["login", "portal"]
    assert declared.policies.ids == ("gold",)
    assert declared.warnings == ()


def test_files_that_are_left_alone(site: Site) -> None:
    for name in ("_draft.yaml", ".hidden.yaml", "notes.txt"):
        site.write(f"apis.d/{name}", "{")
    site.write("apis.d/tyk.json", "{}")
    declared = load(site, environ={})
    assert len(declared.definitions) == 2
    assert [(Path(one.file).name, one.code, one.severity) for one in declared.warnings] == [
        ("tyk.json", "file_ignored", "warning")
    ]


def test_policies_need_no_folder_but_apis_do(tmp_path: Path) -> None:
    site = Site(tmp_path)
    assert codes(site) == ["apis.d:0:0 file_unreadable"]
    site.apis.mkdir()
    assert load(site, environ={}).definitions == ()


def test_what_did_not_change_is_taken_over(site: Site) -> None:
    first = load(site, environ={})
    second = load(site, first, environ={})
    assert all(one is other for one, other in zip(first.definitions, second.definitions, strict=True))
    assert second.policies is first.policies

    site.write("apis.d/login.yaml", API.format("login") + "name: New\n")
    third = load(site, second, environ={})
    assert [one is other for one, other in zip(second.definitions, third.definitions, strict=True)] == [False, True]
    assert third.policies is first.policies

    site.write("policies.d/gold.yaml", "access: {login: {}}\nrate: 6/1s\n")
    fourth = load(site, third, environ={})
    assert fourth.policies is not third.policies
    assert fourth.policies.get("gold").rate == 6  # type: ignore[union-attr]


def test_a_variable_that_changed_is_a_change(site: Site) -> None:
    site.write("apis.d/login.yaml", API.format("login") + "name: ${NAME}\n")
    first = load(site, environ={"NAME": "one", "OTHER": "x"})
    same = load(site, first, environ={"NAME": "one", "OTHER": "y"})
    other = load(site, first, environ={"NAME": "two"})
    assert same.definitions[0] is first.definitions[0]
    assert (first.definitions[0].name, other.definitions[0].name) == ("one", "two")
    assert first.definitions[0].digest != other.definitions[0].digest
    assert first.definitions[0].source.written(("name",)) == "${NAME}"
    assert codes(site, first) == ["login.yaml:4:7 variable_missing"]


def test_digests_tell_definitions_apart(site: Site) -> None:
    first = load(site, environ={})
    digests = {api.digest for api in first.definitions}
    assert len(digests) == 2
    assert {api.digest for api in load(site, environ={}).definitions} == digests
    (site.apis / "portal.yaml").rename(site.apis / "renamed.yaml")
    assert {api.digest for api in load(site, environ={}).definitions} != digests


def test_a_broken_file_does_not_hide_what_is_wrong_elsewhere(site: Site) -> None:
    site.write("apis.d/login.yaml", "listen: [\n")
    site.write("apis.d/portal.yaml", "listen: /p/\nauth: none\nplugins: [{mock: {}, mode: on}]\n")
    site.write("policies.d/gold.yaml", "access: {login: {}, portal: {}, gone: {}}\n")
    site.write("policies.d/bad.yaml", "rate: 5\n")
    with pytest.raises(NotLoaded) as caught:
        load(site, environ={})
    found = [f"{Path(one.file).name} {one.code}" for one in caught.value.diagnostics]
    assert found == [
        "login.yaml yaml_syntax", "portal.yaml invalid_value", "bad.yaml missing_unit", "gold.yaml policy_unknown_api"
    ]  # fmt: skip
    assert [use.name for broken in caught.value.broken for use in broken.plugins] == ["mock"]
    assert caught.value.declared.definitions == ()


def test_plugins_are_not_asked_about_values_that_are_missing(site: Site) -> None:
    site.write("apis.d/login.yaml", API.format("login") + "plugins: [mock: {body: '${NONE}'}]\nexpires: soon\n")
    with pytest.raises(NotLoaded) as caught:
        load(site, environ={})
    assert sorted(one.code for one in caught.value.diagnostics) == ["invalid_timestamp", "variable_missing"]
    assert caught.value.broken == ()


def test_a_policy_may_open_an_api_that_is_not_active(site: Site) -> None:
    site.write("apis.d/login.yaml", API.format("login") + "active: false\n")
    assert load(site, environ={}).definitions[0].active is False


def test_a_policy_opens_versions_that_exist(site: Site) -> None:
    site.write("apis.d/login.yaml", API.format("login") + "versions: {by: path, list: {v1: }}\n")
    site.write("policies.d/gold.yaml", "access:\n  login: {versions: [v1, v2]}\n  portal: {versions: [Default]}\n")
    assert codes(site) == ["gold.yaml:2:26 invalid_value"]


def test_the_set_as_it_would_be_after_a_write(site: Site) -> None:
    first = load(site, environ={})
    new = site.apis / "new.yaml"
    assert codes(site, first, instead={new: API.format("login").encode()}) == ["new.yaml:1:9 listen_conflict"]
    declared = load(site, first, environ={}, instead={new: API.format("new").encode()})
    assert [api.id for api in declared.definitions] == ["login", "new", "portal"]
    assert codes(site, first, instead={site.apis / "login.yaml": None}) == ["gold.yaml:1:10 policy_unknown_api"]
    assert not new.exists()
    without = load(site, first, environ={}, instead={site.apis / "login.yaml": None, site.policies / "gold.yaml": None})
    assert [api.id for api in without.definitions] == ["portal"]


def test_secrets_are_in_no_diagnostic(site: Site, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("canary-1\n")
    site.write(
        "apis.d/login.yaml",
        f"listen: ${{A}}\nauth: [key, 5]\nupstream: http://u:${{A}}@x/\nname: ['${{file:{tmp_path}/secret}}']\n"
        "expires: ${A}\nlabels: {a: '${A}'}\nplugins: [{mock: '${A}', mode: '${A}', match: {versions: ['${A}']}}]\n",
    )
    site.write("apis.d/portal.yaml", "listen: /p/\nauth: none\nversions: {by: header, list: {v1: }, default: '${A}'}\n")
    site.write("policies.d/gold.yaml", "rate: '${B}'\nquota: '${B}/60'\nkey_lifetime: '${B}'\n")
    with pytest.raises(NotLoaded) as caught:
        load(site, environ={"A": "canary 2", "B": "7355608"})
    assert len(caught.value.diagnostics) == 11
    assert "canary" not in str(caught.value)
    assert "7355608" not in str(caught.value)
    assert "`${B}` has no unit (the value comes from a variable)" in str(caught.value)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_source_or_a_diagnostic(data: bytes) -> None:
    read_anything(data)


@given(st.text(st.sampled_from("abl:-[]{},&*!|>'\"#%@`?\n \t0.$~é\x85\u2028"), max_size=60))
def test_random_yaml_is_a_source_or_a_diagnostic(text: str) -> None:
    read_anything(text.encode())


KEYS = st.sampled_from(
    ["id", "listen", "auth", "upstream", "plugins", "versions", "by", "list", "match", "mode", "all", "path", "host",
     "name", "access", "rate", "quota", "partitions", "labels", "expires", "org", "paths",
     "methods", "x"]
)  # fmt: skip
SCALARS = st.sampled_from(
    ["1", "-1", "true", "~", ".inf", ".nan", "text", "/p/", "'/a/*'", "5s", "100/1s", "key", "none", "header", "v1",
     "'${X}'",     "http://a/", "2027-01-31T00:00:00Z", "''", "1e999", "\"\\0\""]
)  # fmt: skip
YAML = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(KEYS, inner, max_size=4).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.dictionaries(KEYS, YAML, max_size=6))
def test_random_declarations_are_read_or_diagnosed(pairs: dict[str, str]) -> None:
    read_anything("".join(f"{key}: {value}\n" for key, value in pairs.items()).encode())


def read_anything(data: bytes) -> None:
    """Nothing but `DiagnosticsFound` may leave, and every mistake in what YAML allows has a place."""
    found = mistakes(lambda: examine("a.yaml", data))
    if found:
        return
    source, _ = expand(examine("a.yaml", data)[0], Variables({"X": "x"}, lambda _: b""))
    found = [*mistakes(lambda: read_definition(source)), *mistakes(lambda: read_policy(source))]
    assert all(one.line > 0 and one.column > 0 and one.code in DIAGNOSTICS for one in found)


def mistakes(read: Callable[[], object]) -> tuple[Diagnostic, ...]:
    try:
        read()
    except DiagnosticsFound as refused:
        return refused.diagnostics
    return ()
