from __future__ import annotations

import pytest

from aiogate.config.policy import read_policy
from aiogate.config.source import read_source
from aiogate.domain.policy import Policy
from aiogate.errors import DiagnosticsFound


def read(text: str) -> Policy:
    return read_policy(read_source("policies.d/gold.yaml", text.encode()))


def test_a_whole_policy() -> None:
    policy = read("""
        id: golden
        name: Gold plan
        org: acme
        access:
          login:
            versions: [v1]
            paths: [{path: ^/users/.*, methods: [GET]}]
            rate: 5/1s
            quota: 10/1h
          portal: {}
        rate: 1000/1m
        quota: 100000/30d
        throttle: {interval: 500ms, retries: 3}
        key_lifetime: 90d
        tags: [gold]
        meta: {plan: {colour: yellow}}
        partitions: [rate, quota, access]
        inactive: true
    """)
    assert (policy.id, policy.name, policy.org, policy.file) == ("golden", "Gold plan", "acme", "policies.d/gold.yaml")
    assert (policy.rate, policy.per, policy.quota_max, policy.quota_renewal_rate) == (1000.0, 60.0, 100000, 2592000)
    assert (policy.throttle_interval, policy.throttle_retry_limit, policy.key_expires_in) == (0.5, 3, 7776000)
    assert (policy.tags, policy.meta, policy.inactive) == (("gold",), {"plan": {"colour": "yellow"}}, True)
    assert policy.partitions == {"rate", "quota", "access"}
    login, portal = policy.access["login"], policy.access["portal"]
    assert (login.api_id, login.versions) == ("login", ("v1",))
    assert [(rule.url, rule.methods) for rule in login.allowed_urls] == [("^/users/.*", ("GET",))]
    assert (login.limit.rate, login.limit.per, login.limit.quota_max, login.limit.quota_renewal_rate) == (
        5,
        1,
        10,
        3600,
    )
    assert (portal.versions, portal.allowed_urls, portal.limit.rate) == ((), (), 0)


def test_a_policy_that_says_nothing() -> None:
    policy = read("name: Gold\n")
    assert (policy.id, policy.org, policy.rate, policy.quota_max, policy.key_expires_in) == ("gold", "default", 0, 0, 0)
    assert (policy.partitions, policy.per_api, policy.inactive) == (frozenset(), False, False)


def test_limits_per_api() -> None:
    assert read("per_api: true\naccess: {login: {rate: 5/1s}}\n").per_api


@pytest.mark.parametrize(
    "text, found",
    [
        ("rate: 0/1s", "1:7 invalid_value"),
        ("quota: 5/500ms", "1:8 invalid_value"),
        ("key_lifetime: 0s", "1:15 invalid_value"),
        ("throttle: {interval: 0s, retries: 1}", "1:22 invalid_value"),
        ("throttle: {interval: 1s, retries: 0}", "1:35 invalid_value"),
        ("throttle: {interval: 1s}", "1:11 missing_key"),
        ("partitions: [acl]", "1:14 invalid_value"),
        ("access: [login]", "1:9 wrong_type"),
        ("access: {lo gin: {}}", "1:10 invalid_id"),
        ("access: {a: {paths: [/x]}}", "1:22 wrong_type"),
        ("access: {a: {paths: [{methods: [GET]}]}}", "1:22 missing_key"),
        ("access: {a: {paths: [{path: '('}]}}", "1:29 invalid_pattern"),
        ("access: {a: {paths: [{path: x, methods: [get]}]}}", "1:42 invalid_value"),
        ("access: {a: {limit: 5}}", "1:14 unknown_key"),
        ("tags: gold", "1:7 wrong_type"),
        ("inactive: maybe", "1:11 wrong_type"),
        ("ratte: 5/1s", "1:1 unknown_key"),
    ],
)
def test_what_is_refused_and_where(text: str, found: str) -> None:
    with pytest.raises(DiagnosticsFound) as caught:
        read(text)
    assert [f"{one.line}:{one.column} {one.code}" for one in caught.value.diagnostics] == [found]
