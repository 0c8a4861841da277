"""What is served and probably not meant: each warning, and what gives none."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiogate.config.advice import SOON, advice
from aiogate.config.listening import Listen
from aiogate.config.loader import load
from aiogate.config.units import parse_timestamp
from tests.config.test_loader import Site

NOW = parse_timestamp("2026-06-01T00:00:00Z")
KEYED = "{{listen: {0}, auth: key, upstream: 'http://127.0.0.1:9/'{1}}}"


PLAIN = Listen.model_validate("127.0.0.1:8080")
FILES = {"certificate": "a.pem", "key": "a.key"}
ASKING = Listen.model_validate({"address": "127.0.0.1:8443", "tls": {**FILES, "client_ca": "ca.pem"}})
ENCRYPTED = Listen.model_validate({"address": "127.0.0.1:8443", "tls": FILES})


def told(folder: Path, files: dict[str, str], listens: tuple[Listen, ...] = (PLAIN, ASKING)) -> list[str]:
    site = Site(folder)
    site.apis.mkdir(exist_ok=True)
    for name, text in files.items():
        site.write(name, text)
    found = advice(load(site, environ={}), listens, NOW)
    assert all(one.severity == "warning" for one in found)
    return [f"{Path(one.file).name}:{one.line}:{one.column} {one.code}: {one.message}" for one in found]


def keyed(listen: str, more: str = "") -> str:
    return KEYED.format(listen, more)


@pytest.mark.parametrize(
    "text, place",
    [
        ("listen: /a/\nauth: none\nupstream: http://127.0.0.1:9/\n", ["a.yaml:2:7 api_open"]),
        (
            "listen: /a/\nauth: none\nversions: {by: path, list: {v1: {upstream: 'http://127.0.0.1:9/'}}}\n",
            ["a.yaml:2:7 api_open"],
        ),
        ("listen: /a/\nauth: none\nplugins: [mock: hi]\n", []),
        ("listen: /a/\nauth: none\nupstream: http://127.0.0.1:9/\nactive: false\n", []),
        (keyed("/a/"), []),
    ],
)
def test_open_apis(tmp_path: Path, text: str, place: list[str]) -> None:
    assert [one.rpartition(":")[0] for one in told(tmp_path, {"apis.d/a.yaml": text})] == place


@pytest.mark.parametrize(
    "moment, message",
    [
        ("2026-06-01T00:00:00Z", "expired: API a has expired"),
        ("2026-06-02T12:00:00Z", "expires_soon: API a expires in 1 day, at 2026-06-02T12:00:00Z"),
        ("2026-07-01T00:00:00Z", "expires_soon: API a expires in 30 days, at 2026-07-01T00:00:00Z"),
        ("2026-07-01T00:00:01Z", ""),
    ],
)
def test_an_expiry(tmp_path: Path, moment: str, message: str) -> None:
    assert SOON == 30 * 86400
    place = ["a.yaml:1:68 " + message] if message else []
    assert told(tmp_path, {"apis.d/a.yaml": keyed("/a/", f", expires: {moment}")}) == place


def test_the_expiry_of_a_version(tmp_path: Path) -> None:
    versions = "\nversions:\n  by: path\n  list:\n    v1: {expires: 2026-05-01T00:00:00Z}\n    v2: {}\n"
    text = "listen: /a/\nauth: key\nupstream: http://127.0.0.1:9/" + versions
    assert told(tmp_path, {"apis.d/a.yaml": text}) == ["a.yaml:7:19 expired: version v1 has expired"]


def test_what_another_api_is_asked_before(tmp_path: Path) -> None:
    hosted = "{path: /, host: one.example}"
    files = {"apis.d/a.yaml": keyed(hosted), "apis.d/b.yaml": keyed("/b/")}
    [found] = told(tmp_path, files)
    assert found.startswith("b.yaml:1:10 listen_shadows: `/b/` is never reached at the host one.example: `/` of ")
    # The same path at that host is another API on purpose, and a path beside it takes nothing.
    files["apis.d/c.yaml"] = keyed("{path: /b/, host: one.example}")
    assert told(tmp_path, files) == []
    other = {"apis.d/a.yaml": keyed("{path: /bb/, host: one.example}"), "apis.d/c.yaml": keyed("/c/, active: false")}
    assert told(tmp_path, other) == []


@pytest.mark.parametrize(
    "policy, place",
    [
        ("rate: 5/1s\n", ["1:1"]),
        ("rate: 5/1s\naccess: {off: {}}\n", ["2:1"]),
        ("access: {on: {}, off: {}}\n", []),
        ("rate: 5/1s\npartitions: [rate]\n", []),
    ],
)
def test_policies_that_open_nothing(tmp_path: Path, policy: str, place: list[str]) -> None:
    files = {"apis.d/on.yaml": keyed("/on/"), "apis.d/off.yaml": keyed("/off/", ", active: false")}
    found = told(tmp_path, {**files, "policies.d/gold.yaml": policy})
    assert [one.partition(" policy_unused: the policy gold opens ")[0] for one in found] == [
        f"gold.yaml:{at}" for at in place
    ]


@pytest.mark.parametrize("auth, place, message", [
    ("mtls", "7", "`mtls` lets nobody in: no listener asks for a client certificate"),
    ("{mtls: {session: true}}", "8", "`mtls` lets nobody in: no listener"),
    ("[key, mtls]", "13", "`mtls` lets nobody in by itself: no listener"),
    ("{all: [key, mtls: {}]}", "19", "`mtls` lets nobody in: no listener"),
])  # fmt: skip
def test_certificates_that_nobody_is_asked_for(tmp_path: Path, auth: str, place: str, message: str) -> None:
    files = {"apis.d/a.yaml": f"listen: /a/\nauth: {auth}\nplugins: [mock: hi]\n"}
    for listens in ((PLAIN,), (PLAIN, ENCRYPTED)):
        (line,) = told(tmp_path, files, listens)
        assert line.startswith(f"a.yaml:2:{place} certificate_unasked: {message}")
    assert told(tmp_path, files) == []
    assert told(tmp_path, {"apis.d/a.yaml": files["apis.d/a.yaml"] + "active: false\n"}, (PLAIN,)) == []
