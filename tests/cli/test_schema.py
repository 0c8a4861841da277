"""`aiogate schema`: it takes what the gateway takes, and refuses what one file can show to be wrong."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from aiogate.config.source import examine
from aiogate.errors import DiagnosticsFound
from tests.cli.site import typed
from tests.house.manual import PAGES, Block, blocks

ROOT = Path(__file__).parent.parent.parent
BROKEN = ROOT / "tests/broken"

CANNOT = {
    "build_failed": "a plugin's own word",
    "certificate_invalid": "about another file",
    "id_conflict": "about two files",
    "invalid_pattern": "only RE2 can say",
    "listen_conflict": "about two files",
    "plugin_broken": "about another file",
    "policy_org_mismatch": "about two files",
    "policy_partitions": "about two keys",
    "policy_unknown_api": "about two files",
    "store_unknown": "stores are not listed",
    "store_workers": "about two keys",
    "upstream_missing": "about several keys",
    "variable_missing": "about the environment",
    "version_default_unknown": "about two keys",
    "file_unreadable": "about another file",
}
"""Codes that no schema of one file can find, and why."""
BEYOND = {
    "invalid_id/apis.d/b ad.yaml": "the file's name",
    "invalid_url/apis.d/c.yaml": "a port is a number up to 65535",
    "invalid_value-session-from/apis.d/login.yaml": "a name that stands elsewhere in the file",
    "invalid_value-upstream/apis.d/b.yaml": "a key that only fits a certain URL",
    "invalid_value-upstream/apis.d/c.yaml": "keys that belong together",
    "secret_weak/aiogate.yaml": "a list of well-known secrets",
}
"""Single files whose mistake is beyond a schema, though it is of a code that others show."""


@cache
def validator(kind: str, plugins: Path | None = None) -> Draft202012Validator:
    """The schema of `apis.d`, `policies.d` or `aiogate.yaml`, as the command prints it."""
    flags = {"policies.d": ["--policy"], "aiogate.yaml": ["--settings"]}.get(kind, [])
    folder = ["--plugins", str(plugins)] if plugins is not None else []
    shape = json.loads(typed(ROOT, "schema", *flags, *folder).stdout)
    Draft202012Validator.check_schema(shape)
    return Draft202012Validator(shape)


def mistakes(kind: str, value: Any, plugins: Path | None = None) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator(kind, plugins).iter_errors(value)]


def value_of(path: Path) -> Any:
    return examine(path.name, path.read_bytes(), may_be_empty=True)[0].value


def kind_of(name: str) -> str:
    return name.partition("/")[0]


@pytest.mark.parametrize(
    "path", sorted([*ROOT.glob("apis.d/*.yaml"), *ROOT.glob("policies.d/*.yaml")]), ids=lambda path: path.name
)
def test_the_samples(path: Path) -> None:
    assert mistakes(path.parent.name, value_of(path)) == []


SHOWN = [block for page in PAGES for block in blocks(page) if block.kind == "yaml"]


@pytest.mark.parametrize("block", SHOWN, ids=str)
def test_what_the_pages_show(block: Block, tmp_path: Path) -> None:
    for other in blocks(ROOT / block.page):
        if other.kind == "python" and other.file.startswith("plugins/"):
            (tmp_path / Path(other.file).name).write_text(other.text)
    value = examine(block.file, block.text.encode())[0].value
    if block.part and kind_of(block.file) == "apis.d":
        value = {"listen": "/part/", "auth": "none"} | value
    assert mistakes(kind_of(block.file), value, tmp_path if any(tmp_path.iterdir()) else ROOT / "plugins") == []


def files() -> list[str]:
    """The declarations and settings files of the broken sites that are YAML and have no plugins of their own."""
    found = []
    for case in sorted(case for case in BROKEN.iterdir() if not (case / "plugins").exists()):
        for name in ("apis.d", "policies.d", "aiogate.yaml"):
            paths = [case / name] if name.endswith(".yaml") else sorted((case / name).glob("*.y*ml"))
            found.extend(str(path.relative_to(BROKEN)) for path in paths if path.is_file() and readable(path))
    return found


def readable(path: Path) -> bool:
    try:
        return not examine(path.name, path.read_bytes(), may_be_empty=True)[1]
    except DiagnosticsFound:
        return False


@pytest.mark.parametrize("name", files())
def test_broken_files(name: str) -> None:
    """Refused for a mistake that a schema can find, and for nothing else."""
    case, _, file = name.partition("/")
    lines = (BROKEN / case / "expected").read_text().splitlines()
    codes = {line.rpartition(" ")[2] for line in lines if line.startswith(f"{file}:")}
    found = mistakes(kind_of(file), value_of(BROKEN / name))
    if name in BEYOND or codes <= set(CANNOT):
        assert found == []
    else:
        assert found, f"a schema should find {codes}, or CANNOT and BEYOND say why not"


@pytest.mark.parametrize(
    "text",
    [
        "{listen: {path: /a/, host: a.example}, auth: none, upstream: {url: 'http://127.0.0.1:9/'}}",
        "{listen: /a/, auth: {all: [basic, key: {}], session_from: key}, upstream: 'http://127.0.0.1:9/'}",
        "{listen: /a/, auth: {key: {header: X-Key}}, plugins: [mock, {rate_limit: 1/1s, mode: shadow}]}",
        "{listen: /a/, auth: key, plugins: [{mock: hi, match: {paths: [/x/*], methods: [GET]}}], labels: {}}",
        "{listen: '${A}', auth: none, active: '${B}', expires: '${C}', upstream: '${D}', plugins: [mock: '${E}']}",
        "{listen: /a/, auth: none, versions: {by: path, list: {v1: , v2: {expires: 2027-01-31T00:00:00Z}}}}",
    ],
)
def test_short_forms_and_variables(text: str) -> None:
    value = examine("a.yaml", text.encode())[0].value
    assert mistakes("apis.d", value) == []


@pytest.mark.parametrize(
    "text",
    [
        "{listen: /a/}",
        "{listen: /a/, auth: }",
        "{listen: /a/, auth: [none]}",
        "{listen: /a/, auth: rate_limit}",
        "{listen: /a/, auth: [key: {}, basic: {}, match: {}]}",
        "{listen: /a/, auth: none, plugins: [key]}",
        "{listen: /a/, auth: none, plugins: [{mock: hi, rate_limit: 1/1s}]}",
        "{listen: /a/, auth: none, plugins: [{mock: hi, mode: shadow}]}",
        "{listen: /a/, auth: none, plugins: [mode: shadow]}",
        "{listen: /a/, auth: none, plugins: [rate_limit: 5]}",
        "{listen: a, auth: none}",
        "{listen: /a/, auth: none, versions: {by: path, list: {}}}",
        "{listen: /a/, auth: none, versions: {by: path, list: {'a b': }}}",
    ],
)
def test_what_is_refused(text: str) -> None:
    assert mistakes("apis.d", examine("a.yaml", text.encode())[0].value)


def test_drop_in_plugins_are_in_it(tmp_path: Path) -> None:
    entry = {"listen": "/a/", "auth": "none", "plugins": [{"maintenance_window": {"wrong": 1}}]}
    shape = json.loads(typed(ROOT, "schema").stdout)
    [mapping] = [form for form in shape["$defs"]["plugin"]["anyOf"] if "properties" in form]
    assert "maintenance_window" in mapping["properties"]
    assert "partner_token" in str(shape["$defs"]["method"])
    assert mistakes("apis.d", entry, ROOT / "plugins")
    (tmp_path / "bad.py").write_text("1 / 0\n")
    assert "ZeroDivisionError" in typed(ROOT, "schema", "--plugins", str(tmp_path), code=1).stderr


def test_an_editor_learns_what_keys_mean() -> None:
    shape = json.loads(typed(ROOT, "schema").stdout)
    listen = shape["$defs"]["Listen"]
    assert listen["description"].startswith("Where an API is found.")
    assert listen["anyOf"][0]["properties"]["path"]["description"] == "Canonical, begins and ends with `/`."
    settings = json.loads(typed(ROOT, "schema", "--settings").stdout)
    assert "Whether a change" in str(settings)
