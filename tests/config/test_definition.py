from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError

from aiogate.config.addresses import parse_address, parse_host, parse_upstream_url
from aiogate.config.definition import BrokenDefinition, Definition, Match, read_definition
from aiogate.config.diagnose import diagnostics_of
from aiogate.config.model import Model
from aiogate.config.provenance import THROUGH_API, TRANSLATED, signed
from aiogate.config.source import Source, read_source
from aiogate.config.units import Duration, Rate
from aiogate.errors import Position

WHOLE = b"""\
id: login
name: Login API
org: acme
listen: {path: /login-api, host: API.example.com}
upstream:
  url: http://127.0.0.1:9001/base?k=v
  timeouts: {connect: 1s, read: 2m}
  preserve_host: true
strip_listen_path: false
active: false
auth:
  - basic: {realm: Login}
  - key
versions:
  by: header
  name: X-Version
  default: v1
  list:
    v1: {expires: 2027-01-31T00:00:00Z}
    "2": {upstream: http://127.0.0.1:9002/}
expires: 2030-01-01T00:00:00Z
plugins:
  - rate_limit: 1000/1m
  - cors
  - ip_filter: {allow: [10.0.0.0/8]}
    match: {paths: [/catalogue/*], methods: [GET], versions: ["2"]}
    mode: shadow
session_limits: {rate: false}
strip_credentials: true
labels: {team: identity}
"""


def read(text: str | bytes, file: str = "apis.d/login.yaml") -> Definition:
    return read_definition(read_source(file, text if isinstance(text, bytes) else text.encode()))


def refused(text: str) -> list[str]:
    with pytest.raises(BrokenDefinition) as caught:
        read(f"listen: /a/\nupstream: http://up/\n{text}\n")
    return [f"{one.line - 2}:{one.column} {one.code}" for one in caught.value.diagnostics]


def test_a_whole_definition() -> None:
    api = read(WHOLE)
    assert (api.id, api.name, api.org, api.active, api.strip_listen_path) == (
        "login",
        "Login API",
        "acme",
        False,
        False,
    )
    assert (api.listen.path, api.listen.host) == ("/login-api/", "api.example.com")
    assert api.upstream is not None
    url = api.upstream.listed[0].url
    assert (url.scheme, url.host, url.port, url.socket) == ("http", "127.0.0.1", 9001, "")
    assert (url.path, url.query, api.upstream.preserve_host) == ("/base", "k=v", True)
    assert (api.upstream.timeouts.connect, api.upstream.timeouts.read) == (1.0, 120.0)
    assert api.versions is not None
    assert (api.versions.by, api.versions.name, api.versions.default, list(api.versions.list)) == (
        "header", "X-Version", "v1", ["v1", "2"],
    )  # fmt: skip
    assert api.versions.list["v1"].expires == 1801353600
    assert str(api.versions.list["2"].upstream.url) == "http://127.0.0.1:9002/"  # type: ignore[union-attr]
    assert api.expires == 1893456000
    assert (api.session_limits.rate, api.session_limits.quota, api.strip_credentials) == (False, True, True)
    assert api.labels == {"team": "identity"}


def test_entries_keep_what_stands_under_a_plugins_key_and_its_place() -> None:
    api = read(WHOLE)
    basic, key = api.auth.methods
    assert (api.auth.mode, basic.name, basic.config, basic.path) == (
        "any",
        "basic",
        {"realm": "Login"},
        ("auth", 0, "basic"),
    )
    assert basic.position == Position("apis.d/login.yaml", 12, 5)
    assert (key.name, key.config, key.path) == ("key", None, ("auth", 1))
    limit, cors, filtered = api.plugins
    assert (limit.name, limit.config, limit.match, limit.mode) == ("rate_limit", "1000/1m", None, "enforce")
    assert (cors.name, str(cors.position)) == ("cors", "apis.d/login.yaml:24:5")
    assert (filtered.match, filtered.mode) == (Match(["/catalogue/*"], ["GET"], ["2"]), "shadow")


def test_what_a_short_definition_means() -> None:
    api = read("listen: /login\nauth: none\n")
    assert (api.id, api.name, api.org, api.active, api.strip_listen_path) == ("login", "login", "default", True, True)
    assert (api.auth.mode, api.auth.methods, api.upstream, api.versions, api.plugins) == ("none", (), None, None, ())


@pytest.mark.parametrize(
    "text, mode, names, session_from",
    [
        ("none", "none", [], None),
        ("key", "any", ["key"], None),
        ("{key: {header: X-Key}}", "any", ["key"], None),
        ("[key]", "any", ["key"], None),
        ("[basic: {realm: x}, key]", "any", ["basic", "key"], None),
        ("{all: [key, basic: {}]}", "all", ["key", "basic"], None),
        ("{all: [key, basic], session_from: basic}", "all", ["key", "basic"], "basic"),
        ("{jwt: , mode: enforce}", "any", ["jwt"], None),
    ],
)
def test_forms_of_auth(text: str, mode: str, names: list[str], session_from: str | None) -> None:
    auth = read(f"listen: /a/\nauth: {text}\n").auth
    assert (auth.mode, [use.name for use in auth.methods], auth.session_from) == (mode, names, session_from)


@pytest.mark.parametrize(
    "text, found",
    [
        ("", ["-1:1 auth_missing"]),
        ("auth: {}", ["1:7 auth_missing"]),
        ("auth: 5", ["1:7 wrong_type"]),
        ("auth: ''", ["1:7 wrong_type"]),
        ("auth: [none, key]", ["1:8 invalid_value"]),
        ("auth: {none: {}}", ["1:7 invalid_value"]),
        ("auth: {key: , basic: }", ["1:15 invalid_value"]),
        ("auth: {all: []}", ["1:13 invalid_value"]),
        ("auth: {all: key}", ["1:13 invalid_value"]),
        ("auth: {session_from: key}", ["1:7 invalid_value"]),
        ("auth: {all: [key], basic: {}}", ["1:20 unknown_key"]),
        ("auth: {all: [key, key], session_from: key}", ["1:39 invalid_value"]),
        ("auth: [{key: , match: {}}]", ["1:16 unknown_key"]),
        ("auth: [[key]]", ["1:8 wrong_type"]),
        ("auth: {mode: shadow}", ["1:7 missing_key"]),
    ],
)
def test_auth_that_is_refused(text: str, found: list[str]) -> None:
    assert refused(text) == found


@pytest.mark.parametrize(
    "text, found",
    [
        ("plugins: {cors: }", ["1:10 wrong_type"]),
        ("plugins: [5]", ["1:11 wrong_type"]),
        ("plugins: [{}]", ["1:11 missing_key"]),
        ("plugins: [{a: , b: }]", ["1:17 invalid_value"]),
        ("plugins: [{a: , mtch: }]", ["1:17 unknown_key"]),
        ("plugins: [{a: , match: }]", ["1:24 invalid_value"]),
        ("plugins: [{a: , match: {paths: []}}]", ["1:32 invalid_value"]),
        ("plugins: [{a: , match: {path: /x}}]", ["1:25 unknown_key"]),
        ("plugins: [{a: , match: [GET]}]", ["1:24 wrong_type"]),
        ("plugins: [{a: , match: {versions: [v1]}}]", ["1:36 invalid_value"]),
        ("plugins: [{a: , mode: off}]", ["1:23 invalid_value"]),
        ("plugins: [{a: , mode: [x]}]", ["1:23 invalid_value"]),
    ],
)
def test_entries_that_are_refused(text: str, found: list[str]) -> None:
    assert refused(f"{text}\nauth: none") == found


@pytest.mark.parametrize(
    "text, found",
    [
        ("{by: header, list: {v1: }, name: 'a b'}", ["1:44 invalid_value"]),
        ("{by: query, list: {v1: }}", ["1:11 missing_key"]),
        ("{by: path, name: x, list: {v1: }}", ["1:28 invalid_value"]),
        ("{by: header, strip: true, list: {v1: }}", ["1:31 invalid_value"]),
        ("{by: header, list: {}}", ["1:30 invalid_value"]),
        ("{by: header, list: {v1: }, default: v2}", ["1:47 version_default_unknown"]),
        ("{by: header, list: {'v 1': }}", ["1:31 invalid_id"]),
        ("{by: header, list: [v1]}", ["1:30 wrong_type"]),
    ],
)
def test_versions_that_are_refused(text: str, found: list[str]) -> None:
    assert refused(f"versions: {text}\nauth: none") == found


def test_the_name_of_the_version() -> None:
    for text, name in (("by: header", "X-Api-Version"), ("by: query, name: v", "v"), ("by: path", "")):
        versions = read(f"listen: /a/\nauth: none\nversions: {{{text}, list: {{v1: }}}}\n").versions
        assert versions is not None
        assert versions.name == name


def test_one_part_does_not_hide_another() -> None:
    with pytest.raises(BrokenDefinition) as caught:
        read("listen: nowhere\nauth: [{key: , mode: shadow}]\nplugins: [cors, 5]\nversions: {by: moon, list: {v1: }}\n")
    broken = caught.value
    assert [one.line for one in broken.diagnostics] == [1, 2, 3, 4]
    assert [use.name for use in broken.plugins] == ["cors"]


@pytest.mark.parametrize(
    "text, url",
    [
        ("http://up", "http://up/"),
        ("HTTPS://Up.Example:443/a", "https://up.example/a"),
        ("http://[::1]:9001/", "http://[::1]:9001/"),
        ("http://[0:0:0::1]", "http://[::1]/"),
        ("http://my_service:80/x?y=1", "http://my_service/x?y=1"),
        ("http://127.0.0.1:8080/a%2Fb", "http://127.0.0.1:8080/a%2Fb"),
        ("unix:/run/app.sock", "http://unix:/run/app.sock:/"),
        ("http://unix:/run/app.sock", "http://unix:/run/app.sock:/"),
        ("https://unix:/run/app.sock:/base/?k=1", "https://unix:/run/app.sock:/base/?k=1"),
    ],
)
def test_upstream_urls(text: str, url: str) -> None:
    assert str(parse_upstream_url(text)) == url


@pytest.mark.parametrize(
    "text",
    ["", "up:80", "//up/", "http://", "http:///a", "http://up:0", "http://up:65536", "http://up:", "http://up:8a",
     "ftp://up/", "file:///etc/passwd", "http://u@up/", "http://u:p@up/", "http://up/#x", "http://up/a b",
     "http://up/\nx", "http://ü/", "http://[::1", "http://[::g]/", "http://a..b/", "http://up/%", "http://up/a/../b",
     "http://up/%2e%2e/", "http://up/?a b", "http://up\\@evil/", "unix:run/a", "unix:",
     "unix:/a:b", "javascript:alert(1)", "http://-a/", 5, None],
)  # fmt: skip
def test_what_is_no_upstream_url(text: Any) -> None:
    with pytest.raises(ValueError):
        parse_upstream_url(text)


@pytest.mark.parametrize(
    "text, address",
    [
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("[::]:8080", "[::]:8080"),
        (":8080", "0.0.0.0:8080"),
        ("localhost:0", "localhost:0"),
    ],
)
def test_addresses(text: str, address: str) -> None:
    assert str(parse_address(text)) == address
    assert parse_address(address) == parse_address(text)


@pytest.mark.parametrize(
    "value", ["8080", "localhost", "::1:8080", "a:b", "a:-1", "a:65536", "http://a:1", "a b:1", 8080, None]
)
def test_what_is_no_address(value: Any) -> None:
    with pytest.raises(ValueError):
        parse_address(value)


def test_hosts() -> None:
    assert [parse_host(text) for text in ("API.Example.com", "a.b.", "[::1]", "10.0.0.1")] == [
        "api.example.com", "a.b", "[::1]", "10.0.0.1"
    ]  # fmt: skip
    for text in ("a:80", "", "*.a", "a b", "::1", "http://a", ".", "ä.de"):
        with pytest.raises(ValueError):
            parse_host(text)


class Wait(Model):
    shorthand = "for_"
    for_: Duration


class Config(Model):
    """As a plugin has one."""

    rate: Rate
    wait: Wait
    either: Wait | list[Wait] | None = None


def test_places_of_mistakes_in_a_plugins_configuration() -> None:
    text = b"plugins:\n  - mine: {rate: 5, wait: 3, either: [1s, {fro: 1s}]}\n"
    source = read_source("f", text)
    path = ("plugins", 0, "mine")
    with pytest.raises(ValueError) as caught:
        Config.model_validate(source.value["plugins"][0]["mine"])
    found = diagnostics_of(caught.value, source, path)  # type: ignore[arg-type]
    places = {(f"{one.line}:{one.column}", one.code, one.message) for one in found}
    assert ("2:18", "missing_unit", "`5` has no unit") in places
    assert ("2:27", "missing_unit", "`3` has no unit") in places
    assert ("2:44", "unknown_key", "`fro` is not a known key") in places
    unknown = next(one for one in found if one.code == "unknown_key")
    assert unknown.hint == "known: for_"
    assert unknown.path == "plugins.0.mine.either.1.fro"


def test_a_file_that_the_control_api_wrote_is_known_until_somebody_edits_it():
    text = signed("id: a\nlisten: /a/\nauth: none\nupstream: http://127.0.0.1:1/\n", THROUGH_API, "POST")
    assert read_definition(read_source("a.yaml", text.encode())).written_by_api
    assert not read_definition(read_source("a.yaml", f"{text}labels: {{x: y}}\n".encode())).written_by_api
    imported = text.replace(THROUGH_API, TRANSLATED)
    assert not read_definition(read_source("a.yaml", imported.encode())).written_by_api


class Sized(Model):
    words: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = ("a",)
    name: Annotated[str, Field(min_length=1, max_length=3, pattern="^[a-z]*$")] = "a"


@pytest.mark.parametrize(
    "value, message",
    [
        ({"words": []}, "`words` is empty"),
        ({"words": ["a", "b", "c"]}, "`words` should have at most 2 entries"),
        ({"name": ""}, "`name` is empty"),
        ({"name": "abcd"}, "`name` should have at most 3 characters"),
        ({"name": "A"}, "`name` should match pattern '^[a-z]*$'"),
    ],
)
def test_sizes_are_told_in_words_of_the_file(value: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Sized.model_validate(value)
    (found,) = diagnostics_of(caught.value, Source("a.yaml", value, raw=value))
    assert (found.code, found.message) == ("invalid_value", message)
