from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from aiogate.config.listening import Listen
from aiogate.config.settings import Address, Settings, load_settings
from aiogate.errors import DiagnosticsFound

SECRET = "0f9d8c7b6a5e4d3c2b1a"


def written(folder: Path, text: str) -> Path:
    path = folder / "aiogate.yaml"
    path.write_text(text)
    return path


def addresses(settings: Settings) -> list[Address]:
    return [one.address for one in settings.listen]


def refused(file: Path | None, environ: dict[str, str], flags: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(DiagnosticsFound) as caught:
        load_settings(file, environ, flags)
    return [f"{Path(one.file).name}:{one.line}:{one.column} {one.code}" for one in caught.value.diagnostics]


def test_without_anything_said() -> None:
    settings = load_settings(None, {})
    assert settings == Settings()
    assert (addresses(settings), settings.control.listen) == ([Address("127.0.0.1", 8080)], Address("127.0.0.1", 8081))
    assert (settings.store, settings.workers, settings.control.secret, settings.quota_status) == (
        "sqlite",
        1,
        None,
        403,
    )
    assert (settings.apis, settings.state) == (Path("apis.d"), Path("var"))


def test_a_whole_file(tmp_path: Path) -> None:
    text = """
        listen: [127.0.0.1:8080, "[::1]:8080"]
        control: {listen: same, secret: "${SECRET}"}
        state: /srv/state
        store: memory
        apis: my/apis
        policies: ../policies
        plugins: plugins
        workers: 1
        trusted_proxies: [10.0.0.0/8, "::1", 192.168.0.1]
        timeouts: {client_header: 1s, client_body: 2s, keepalive: 3s, drain: 0s, send_stall: 5s}
        limits: {header_bytes: 8KiB, connections: 7}
        quota_status: 429
        passwords: {cost: 4, cache: 0s}
    """
    settings = load_settings(written(tmp_path, text), {"SECRET": SECRET})
    assert addresses(settings) == [Address("127.0.0.1", 8080), Address("::1", 8080)]
    assert (settings.control.listen, settings.control.secret) == ("same", SECRET)
    assert (settings.state, settings.apis, settings.policies) == (
        Path("/srv/state"), tmp_path / "my/apis", tmp_path / "../policies"
    )  # fmt: skip
    assert settings.trusted_proxies == tuple(
        ipaddress.ip_network(text) for text in ("10.0.0.0/8", "::1/128", "192.168.0.1/32")
    )
    assert settings.timeouts.model_dump() == {
        "client_header": 1.0, "client_body": 2.0, "keepalive": 3.0, "drain": 0.0, "send_stall": 5.0
    }  # fmt: skip
    assert (settings.limits.header_bytes, settings.limits.connections) == (8192, 7)
    assert (settings.quota_status, settings.passwords.cost, settings.passwords.cache) == (429, 4, 0.0)
    assert SECRET not in repr(settings)


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert load_settings(written(tmp_path, "# later\n"), {}).workers == 1


def test_flags_beat_the_environment_beats_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "listen: 127.0.0.1:1\nquota_status: 429\ncontrol: {listen: 127.0.0.1:11}\n")
    environ = {"AIOGATE_LISTEN": "127.0.0.1:2", "AIOGATE_CONTROL__LISTEN": "127.0.0.1:12"}
    flags = {"listen": "127.0.0.1:3", "control.listen": None, "store": None}
    settings = load_settings(file, environ, flags)
    assert addresses(settings) == [Address("127.0.0.1", 3)]
    assert settings.control.listen == Address("127.0.0.1", 12)
    assert settings.quota_status == 429


def test_the_environment_sets_every_key(tmp_path: Path) -> None:
    environ = {
        "AIOGATE_LISTEN": "127.0.0.1:0, [::1]:0",
        "AIOGATE_CONTROL__LISTEN": "same",
        "AIOGATE_SECRET": SECRET,
        "AIOGATE_STATE": "${HOME_OF_STATE}/x",
        "AIOGATE_STORE": "memory",
        "AIOGATE_WORKERS": "1",
        "AIOGATE_TRUSTED_PROXIES": "10.0.0.0/8,::1",
        "AIOGATE_TIMEOUTS__DRAIN": "1s",
        "AIOGATE_LIMITS__CONNECTIONS": "5",
        "AIOGATE_QUOTA_STATUS": "429",
        "AIOGATE_PASSWORDS__COST": "4",
        "HOME_OF_STATE": "/srv",
        "OTHER": "x",
    }
    settings = load_settings(None, environ)
    assert len(settings.listen) == 2
    assert (settings.control.listen, settings.control.secret, settings.state) == ("same", SECRET, Path("/srv/x"))
    assert (settings.workers, settings.limits.connections, settings.quota_status, settings.passwords.cost) == (
        1,
        5,
        429,
        4,
    )
    assert len(settings.trusted_proxies) == 2
    assert settings.timeouts.drain == 1.0


def test_mistakes_in_the_environment_and_flags_are_named() -> None:
    environ = {"AIOGATE_TIMEOUTS__DRAIN": "5", "AIOGATE_LISTN": ":1", "AIOGATE_STORE": "${NONE}"}
    with pytest.raises(DiagnosticsFound) as caught:
        load_settings(None, environ, {"control.listen": "x"})
    told = [str(one) for one in caught.value.diagnostics]
    assert [one.partition(" (")[0] for one in told] == [
        "command line:0:0: control.listen: `x` is not an address",
        "environment:0:0: AIOGATE_TIMEOUTS__DRAIN: `5` has no unit",
        "environment:0:0: AIOGATE_LISTN sets nothing",
        "environment:0:0: AIOGATE_STORE: the variable NONE is not set",
    ]
    assert "did you mean `AIOGATE_LISTEN`?" in told[2]


def test_a_value_that_is_laid_over_hides_the_missing_variable_beneath(tmp_path: Path) -> None:
    file = written(tmp_path, "control: {secret: '${AIOGATE_NOT_SET}'}\n")
    assert refused(file, {}) == ["aiogate.yaml:1:19 variable_missing"]
    assert load_settings(file, {"AIOGATE_SECRET": SECRET}).control.secret == SECRET


def test_two_names_of_one_secret_must_agree() -> None:
    other = SECRET[::-1]
    assert load_settings(None, {"AIOGATE_SECRET": SECRET, "AIOGATE_CONTROL__SECRET": SECRET}).control.secret == SECRET
    environ = {"AIOGATE_SECRET": SECRET, "AIOGATE_CONTROL__SECRET": other}
    assert refused(None, environ) == ["environment:0:0 invalid_value"]


@pytest.mark.parametrize(
    "secret",
    ["", "secret", "changeme", "CHANGEME", "12345", "352d20ee67be67f6340b4c0605b044b7", "only15character", "a" * 40,
     "1234567890123456"],
)  # fmt: skip
def test_a_weak_secret_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(DiagnosticsFound) as caught:
        load_settings(None, {"AIOGATE_SECRET": secret})
    assert [one.code for one in caught.value.diagnostics] == ["secret_weak"]
    if secret not in ("", "secret"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("secret", ["0f9d8c7b 6a5e4d3c2b1a", "0f9d8c7b6a5e4d3c2bü", "0f9d8c7b6a5e4d3\n2b1a"])
def test_a_secret_that_no_header_carries_is_refused(secret: str) -> None:
    assert refused(None, {"AIOGATE_SECRET": secret}) == ["environment:0:0 invalid_value"]


@pytest.mark.parametrize(
    "store", ["redis://:canary@host:port/0", "redis://a,b", "redis+sentinel://host", "mongodb://canary", "Sqlite"]
)
def test_a_store_that_does_not_exist(store: str) -> None:
    with pytest.raises(DiagnosticsFound) as caught:
        load_settings(None, {"AIOGATE_STORE": store})
    assert [one.code for one in caught.value.diagnostics] == ["store_unknown"]
    assert "canary" not in str(caught.value)


def test_workers_need_a_store_that_they_can_share(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(None, {"AIOGATE_WORKERS": "2"}) == ["environment:0:0 store_workers"]
    monkeypatch.setattr("aiogate.config.settings._cores", lambda: 1)
    assert load_settings(None, {"AIOGATE_WORKERS": "auto"}).workers == 1
    monkeypatch.setattr("aiogate.config.settings._cores", lambda: 8)
    assert refused(None, {}, {"workers": "auto"}) == ["command line:0:0 store_workers"]


def test_one_address_is_not_listened_on_twice(tmp_path: Path) -> None:
    file = written(tmp_path, "listen: [127.0.0.1:1, 127.0.0.1:1]\ncontrol: {listen: 127.0.0.1:1}\n")
    assert refused(file, {}) == ["aiogate.yaml:1:23 invalid_value", "aiogate.yaml:2:19 invalid_value"]
    assert load_settings(written(tmp_path, "listen: 127.0.0.1:0\ncontrol: {listen: 127.0.0.1:0}\n"), {}).workers == 1


@pytest.mark.parametrize(
    "text, found",
    [
        ("listen: 8080", "1:9 wrong_type"),
        ("listen: []", "1:9 invalid_value"),
        ("listen: {address: x}", "1:19 invalid_value"),
        ("listen: {}", "1:9 missing_key"),
        ("listen: [{adress: ':1', address: ':1'}]", "1:11 unknown_key"),
        ("listen: {address: ':1', tls: }", "1:30 wrong_type"),
        ("listen: {address: ':1', tls: {}}", "1:30 missing_key"),
        ("listen: {address: ':1', tls: []}", "1:30 invalid_value"),
        ("listen: {address: ':1', tls: {certificate: a}}", "1:30 missing_key"),
        ("listen: {address: ':1', tls: [{key: a}]}", "1:31 missing_key"),
        ("listen: {address: ':1', tls: {certificate: 5, key: b}}", "1:44 wrong_type"),
        ("listen: {address: ':1', tls: {certificate: a, key: b, certificates: [{certificate: a, key: b}]}}",
         "1:30 invalid_value"),
        ("listen: {address: ':1', tls: {certificate: a, key: b, client_certificates: optional}}", "1:30 missing_key"),
        ("listen: {address: ':1', tls: {certificate: a, key: b, client_ca: c, client_certificates: no}}",
         "1:90 invalid_value"),
        ("listen: {address: ':1', proxy_protocol: true}", "1:41 invalid_value"),
        ("listen: [':1', {address: ':1'}]", "1:26 invalid_value"),
        ("workers: true", "1:10 wrong_type"),
        ("workers: 0", "1:10 invalid_value"),
        ("limits: {connections: 1.5}", "1:23 wrong_type"),
        ("limits: {header_bytes: 65536}", "1:24 missing_unit"),
        ("timeouts: {keepalive: 0s}", "1:23 invalid_value"),
        ("timeouts: 5s", "1:11 wrong_type"),
        ("trusted_proxies: [everyone]", "1:19 invalid_value"),
        ("trusted_proxies: {a: b}", "1:18 wrong_type"),
        ("passwords: {cost: 17}", "1:19 invalid_value"),
        ("apis: 5", "1:7 wrong_type"),
        ("control: {secret: 12345678901234567890}", "1:19 secret_weak"),
        ("tls: {}", "1:1 unknown_key"),
        ("a: [", "2:1 yaml_syntax"),
    ],
)  # fmt: skip
def test_what_is_refused_and_where(tmp_path: Path, text: str, found: str) -> None:
    assert refused(written(tmp_path, f"{text}\n"), {}) == [f"aiogate.yaml:{found}"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone.yaml", {}) == ["gone.yaml:0:0 file_unreadable"]


def test_listeners_in_all_their_forms(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
listen:
  - ":1"
  - {address: ":2", tls: [{certificate: a.pem, key: a.key}, {certificate: b.pem, key: /b.key}]}
  - {address: ":3", proxy_protocol: true, tls: {certificate: c.pem, key: c.key, client_ca: ca.pem}}
trusted_proxies: 127.0.0.1
""",
    )
    plain, two, one = load_settings(file, {}).listen
    assert (plain.scheme, plain.tls, plain.proxy_protocol) == ("http", None, False)
    assert two.tls is not None
    assert [(pair.certificate, pair.key) for pair in two.tls.pairs] == [
        (tmp_path / "a.pem", tmp_path / "a.key"),
        (tmp_path / "b.pem", Path("/b.key")),
    ]
    assert one.tls is not None
    assert (one.scheme, one.proxy_protocol, one.tls.client_ca) == ("https", True, tmp_path / "ca.pem")
    assert (one.tls.client_certificates, len(one.tls.pairs)) == ("required", 1)
    (alone,) = load_settings(written(tmp_path, "listen: {address: '[::1]:4'}\n"), {}).listen
    assert alone == Listen(address=Address("::1", 4))
