"""Tyk's targets, transport and certificates as `upstream:`, and back."""

from __future__ import annotations

import pytest

from aiogate.config.definition import read_definition
from aiogate.config.source import read_source
from aiogate.control.operations.classic import render
from aiogate.control.operations.translate import translate_api, yaml_text

URL, ONE, TWO = "https://up.example/", "https://one.example:9443/a", "https://two.example/"
INSECURE = {"ssl_insecure_skip_verify": True}


def classic(*, further=None, **proxy):
    proxy = {"listen_path": "/a/", "target_url": URL, "strip_listen_path": True, **proxy}
    return {"api_id": "a", "version_data": {"not_versioned": True}, "proxy": proxy, **(further or {})}


def balanced(*targets, **further):
    return classic(enable_load_balancing=True, target_list=list(targets), **further)


# name: (the definition, its upstream, the fields that are ignored)
MAPPED = {
    "one": (classic(), URL, []),
    "two": (balanced(ONE, TWO), {"targets": [ONE, TWO]}, ["proxy.target_url"]),
    "weights": (balanced(ONE, TWO, ONE), {"targets": [{"url": ONE, "weight": 2}, TWO]}, ["proxy.target_url"]),
    "off": (classic(target_list=[ONE, TWO]), URL, ["proxy.target_list"]),
    "host": (
        balanced(ONE, TWO, preserve_host_header=True),
        {"targets": [ONE, TWO], "preserve_host": True},
        ["proxy.target_url"],
    ),
    "uptime-off": (classic(check_host_against_uptime_tests=True), URL, ["proxy.check_host_against_uptime_tests"]),
    "unverified": (classic(transport=INSECURE), {"url": URL, "tls": {"verify": False}}, []),
    "unverified-plain": (
        classic(target_url="http://up.example/", transport={**INSECURE, "ssl_min_version": 772}),
        "http://up.example/",
        ["proxy.transport.ssl_insecure_skip_verify", "proxy.transport.ssl_min_version"],
    ),
    "tls-1.3": (classic(transport={"ssl_min_version": 772}), {"url": URL, "tls": {"min_version": "1.3"}}, []),
    "tls-1.2": (classic(transport={"ssl_min_version": 771}), URL, []),
    "tls-1.0": (classic(transport={"ssl_min_version": 769}), URL, ["proxy.transport.ssl_min_version"]),
    "newest": (
        classic(transport={"ssl_max_version": 772, "ssl_force_common_name_check": True}),
        URL,
        ["proxy.transport.ssl_force_common_name_check", "proxy.transport.ssl_max_version"],
    ),
    "certificate": (
        classic(further={"upstream_certificates": {"up.example": "/run/gate.pem"}}),
        {"url": URL, "tls": {"certificate": "/run/gate.pem"}},
        [],
    ),
    "certificate-for-all": (
        balanced(ONE, TWO, further={"upstream_certificates": {"*": "/run/gate.pem"}}, transport=INSECURE),
        {"targets": [ONE, TWO], "tls": {"certificate": "/run/gate.pem", "verify": False}},
        ["proxy.target_url"],
    ),
    "certificate-by-port": (
        balanced(ONE, further={"upstream_certificates": {"one.example:9443": "/run/gate.pem"}}),
        {"targets": [ONE], "tls": {"certificate": "/run/gate.pem"}},
        ["proxy.target_url"],
    ),
    "certificate-off": (
        classic(further={"upstream_certificates": {"*": "/x.pem"}, "upstream_certificates_disabled": True}),
        URL,
        ["upstream_certificates", "upstream_certificates_disabled"],
    ),
    "certificate-plain": (
        classic(target_url="http://up/", further={"upstream_certificates": {"*": "/run/gate.pem"}}),
        "http://up/",
        ["upstream_certificates"],
    ),
    "ours": (
        classic(further={"x_aiogate": {"upstream": {"targets": [{"url": ONE, "weight": 200}, TWO]}}}),
        {"targets": [{"url": ONE, "weight": 200}, TWO]},
        ["proxy.target_url"],
    ),
    "ours-beside": (
        balanced(ONE, TWO, further={"x_aiogate": {"upstream": {"balance": "least_requests"}}}),
        {"targets": [ONE, TWO], "balance": "least_requests"},
        ["proxy.target_url"],
    ),
}

REFUSED = {
    "no-list": (classic(enable_load_balancing=True), ["proxy.target_list"]),
    "empty": (balanced(ONE, ""), ["proxy.target_list"]),
    "heavy": (balanced(*[ONE] * 257, TWO), ["proxy.target_list"]),
    "numbers": (balanced(1), ["proxy.target_list"]),
    "flag": (classic(enable_load_balancing="yes", target_list=[ONE]), ["proxy.enable_load_balancing"]),
    "uptime": (
        classic(further={"uptime_tests": {"check_list": [{"url": ONE}]}}, check_host_against_uptime_tests=True),
        ["proxy.check_host_against_uptime_tests", "uptime_tests.check_list"],
    ),
    "overridden": (
        {**balanced(ONE), "version_data": {"not_versioned": True, "versions": {"D": {"override_target": TWO}}}},
        ["proxy.enable_load_balancing"],
    ),
    "ciphers": (classic(transport={"ssl_ciphers": ["X"]}), ["proxy.transport.ssl_ciphers"]),
    "proxy": (classic(transport={"proxy_url": "http://p/"}), ["proxy.transport.proxy_url"]),
    "oldest-is-newest": (classic(transport={"ssl_max_version": 771}), ["proxy.transport.ssl_max_version"]),
    "new-field": (classic(transport={"something": 1}), ["proxy.transport.something"]),
    "stored-certificate": (classic(further={"upstream_certificates": {"*": "5e9d"}}), ["upstream_certificates"]),
    "two-certificates": (
        classic(further={"upstream_certificates": {"*": "/a.pem", "up.example": "/b.pem"}}),
        ["upstream_certificates"],
    ),
    "other-host": (classic(further={"upstream_certificates": {"x.example": "/a.pem"}}), ["upstream_certificates"]),
    "no-object": (classic(further={"upstream_certificates": ["/a.pem"]}), ["upstream_certificates"]),
    "ours-too": (balanced(ONE, further={"x_aiogate": {"upstream": {"targets": [TWO]}}}), ["x_aiogate.upstream"]),
    "our-tls-too": (
        classic(transport=INSECURE, further={"x_aiogate": {"upstream": {"tls": {"ca": "a.pem"}}}}),
        ["x_aiogate.upstream"],
    ),
}


def paths(lines):
    return [line.partition(":")[0] for line in lines]


@pytest.mark.parametrize("name", MAPPED)
def test_mapped(name):
    body, upstream, ignored = MAPPED[name]
    translation = translate_api(body)
    assert (list(translation.refused), paths(translation.ignored)) == ([], ignored)
    assert translation.native["upstream"] == upstream


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    body, fields = REFUSED[name]
    assert paths(translate_api(body).refused) == fields


@pytest.mark.parametrize(
    "name", [name for name, (_, upstream, _) in MAPPED.items() if "certificate" not in str(upstream)]
)
def test_what_is_shown_as_tyks_is_read_back(name):
    native = translate_api(MAPPED[name][0]).native
    definition = read_definition(read_source("apis.d/a.yaml", yaml_text(native, "a test").encode()))
    shown = render(definition)
    again = translate_api(shown)
    assert list(again.refused) == []
    assert again.native["upstream"] == native["upstream"]


def test_targets_are_shown_where_tyk_has_them():
    text = f"{{listen: /a/, auth: key, upstream: {{targets: [{{url: '{ONE}', weight: 2}}, '{TWO}']}}}}"
    shown = render(read_definition(read_source("apis.d/a.yaml", text.encode())))
    assert shown["proxy"]["target_url"] == ONE
    assert shown["proxy"]["enable_load_balancing"] is True
    assert shown["proxy"]["target_list"] == [ONE, ONE, TWO]
    assert "upstream" not in shown["x_aiogate"]


def test_one_target_twice_and_long_lists_are_ours():
    for targets in (f"['{ONE}', '{ONE}']", f"[{{url: '{ONE}', weight: 200}}, '{TWO}']"):
        text = f"{{listen: /a/, auth: key, upstream: {{targets: {targets}, tls: {{server_name: a.example}}}}}}"
        shown = render(read_definition(read_source("apis.d/a.yaml", text.encode())))
        assert set(shown["x_aiogate"]["upstream"]) == {"targets", "tls"}
        assert "enable_load_balancing" not in shown["proxy"]
        assert not translate_api(shown).refused
