"""Laying policies over sessions (spec/session.md section 5)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiogate.domain.account import stored_name
from aiogate.domain.limits import Bucket
from aiogate.domain.policy import (
    Policy,
    PolicyProblem,
    PolicySet,
    as_written,
    effective_document,
    lay_over,
    merge,
)
from aiogate.domain.session import AccessDefinition, Grant, Record, Session, SessionDocument, parse_document

HASH = stored_name("acme", "ada")


def policy(id: str, apis: Any = ("login",), **fields: Any) -> Policy:
    if not isinstance(apis, dict):
        apis = {api: {} for api in apis}
    access = {api: AccessDefinition.model_validate(value) for api, value in apis.items()}
    return Policy(id, org=fields.pop("org", "acme"), access=access, **fields)


def document(*policies: str, **fields: Any) -> SessionDocument:
    return parse_document({"org_id": "acme", "apply_policies": list(policies), **fields})


def session(document: SessionDocument, *policies: Policy) -> Session:
    laid = lay_over(document, Record(HASH, "acme", "key", "", document.stored()), PolicySet(policies))
    assert isinstance(laid, Session), laid
    return laid


def problem(document: SessionDocument, *policies: Policy) -> str:
    laid = lay_over(document, Record(HASH, "acme", "key", "", document.stored()), PolicySet(policies))
    assert isinstance(laid, PolicyProblem)
    return laid.reason


def buckets(grant: Grant) -> list[tuple[str, int, float]]:
    return [(bucket.key.removesuffix(f":{HASH}"), bucket.limit, bucket.window) for bucket in grant.buckets]


# Sessions without policies


def test_a_session_without_policies_has_its_own_rights_and_limits() -> None:
    laid = session(document(rate=5, per=1, quota_max=100, quota_renewal_rate=3600, access_rights={"a": {}, "b": {}}))
    assert buckets(laid.grants["a"]) == [("rate:", 5, 1.0), ("quota:", 100, 3600.0)]
    assert laid.grants["b"].buckets == laid.grants["a"].buckets
    assert laid.grants["a"].quota == 1


def test_an_api_with_limits_of_its_own_counts_under_its_id() -> None:
    rights = {"a": {"limit": {"rate": 2, "per": 1, "quota_max": -1}}, "b": {}}
    laid = session(document(rate=5, per=1, quota_max=9, access_rights=rights))
    assert buckets(laid.grants["a"]) == [("rate:a", 2, 1.0)]
    assert laid.grants["a"].quota == -1
    assert buckets(laid.grants["b"]) == [("rate:", 5, 1.0), ("quota:", 9, 0.0)]


@pytest.mark.parametrize("value", [0, -1])
def test_nothing_and_less_than_nothing_are_unlimited(value: int) -> None:
    assert session(document(rate=value, quota_max=value, access_rights={"a": {}})).grants["a"].buckets == ()


@pytest.mark.parametrize(
    "rate, per, limit, window", [(5, 1, 5, 1.0), (0.5, 1, 1, 2.0), (2.5, 1, 2, 0.8), (0.001, 60, 1, 60_000.0)]
)
def test_a_fraction_of_a_request_stretches_the_window(rate: float, per: float, limit: int, window: float) -> None:
    (bucket,) = session(document(rate=rate, per=per, access_rights={"a": {}})).grants["a"].buckets
    assert (bucket.limit, bucket.window) == (limit, pytest.approx(window))


def test_a_quota_that_never_renews_has_no_window() -> None:
    laid = session(document(quota_max=5, quota_renewal_rate=-1, access_rights={"a": {}}))
    assert laid.grants["a"].buckets == (Bucket(f"quota::{HASH}", 5, 0.0, "quota"),)


def test_a_session_that_grants_nothing_is_refused() -> None:
    assert "grants no API" in problem(document())


def test_throttling_needs_an_interval_and_retries() -> None:
    def throttle(interval: float, retries: int) -> tuple[float, int]:
        grant = session(
            document(rate=1, per=1, throttle_interval=interval, throttle_retry_limit=retries, access_rights={"a": {}})
        ).grants["a"]
        return grant.throttle_interval, grant.throttle_retries

    assert throttle(0.5, 3) == (0.5, 3)
    assert throttle(-1, -1) == (0.0, 0)
    assert throttle(0, 3) == (0.0, 0)


def test_paths_and_versions_are_compiled() -> None:
    rights = {"a": {"versions": ["v1"], "allowed_urls": [{"url": "/x", "methods": ["get"]}]}}
    grant = session(document(access_rights=rights)).grants["a"]
    assert grant.versions == {"v1"}
    assert grant.paths[0].allows("GET", "/x")
    assert not grant.paths[0].allows("GET", "/x/y")


# Policies that cannot be laid over


def test_every_missing_policy_is_named_even_beside_one_that_exists() -> None:
    assert problem(document("gold", "gone", "lost"), policy("gold")) == "policy not found: gone, lost"


def test_a_policy_of_another_organisation_refuses() -> None:
    assert "belongs to organisation 'other'" in problem(document("gold"), policy("gold", org="other"))


def test_per_api_and_partitions_exclude_each_other() -> None:
    both = policy("both", per_api=True, partitions=frozenset({"quota"}))
    assert "exclude each other" in problem(document("both"), both)
    one, other = policy("one", per_api=True), policy("other", partitions=frozenset({"access"}))
    for order in itertools.permutations(("one", "other")):
        assert "some have per_api set and some are partitioned" in problem(document(*order), one, other)


def test_policies_that_grant_nothing_refuse_whatever_the_session_grants_itself() -> None:
    quota = policy("quota", partitions=frozenset({"quota"}), quota_max=5)
    assert "grants an API" in problem(document("quota", access_rights={"login": {}}), quota)
    assert "grants an API" in problem(document("empty"), policy("empty", ()))


def test_a_rate_without_a_window_refuses() -> None:
    assert "rate without a window" in problem(document("gold"), policy("gold", rate=5))


# One policy


def test_one_policy_takes_the_place_of_the_sessions_rights_and_limits() -> None:
    gold = policy("gold", ("portal",), rate=10, per=1, quota_max=50, quota_renewal_rate=60)
    laid = session(document("gold", rate=1, per=1, quota_max=1, access_rights={"login": {}}), gold)
    assert set(laid.grants) == {"portal"}
    assert buckets(laid.grants["portal"]) == [("rate:", 10, 1.0), ("quota:", 50, 60.0)]
    assert laid.policies == ("gold",)


def test_a_policy_that_is_silent_about_limits_lifts_those_of_the_session() -> None:
    laid = session(document("gold", rate=1, per=1, quota_max=1), policy("gold"))
    assert laid.grants["login"].buckets == ()


def test_a_partition_leaves_the_rest_to_the_session() -> None:
    access = policy("access", rate=99, per=1, quota_max=99, partitions=frozenset({"access"}))
    laid = session(document("access", rate=5, per=1, quota_max=7, quota_renewal_rate=60), access)
    assert buckets(laid.grants["login"]) == [("rate:", 5, 1.0), ("quota:", 7, 60.0)]


def test_the_deprecated_single_policy_works() -> None:
    laid = session(document(apply_policy_id="gold"), policy("gold"))
    assert set(laid.grants) == {"login"}


# Several policies


def test_the_faster_effective_rate_wins_as_a_pair() -> None:
    slow, fast = policy("slow", rate=100, per=60), policy("fast", rate=5, per=1)
    for order in (("slow", "fast"), ("fast", "slow")):
        (bucket,) = session(document(*order), slow, fast).grants["login"].buckets
        assert (bucket.limit, bucket.window) == (5, 1.0)


def test_the_larger_quota_wins_and_minus_one_is_the_largest() -> None:
    small = policy("small", quota_max=10, quota_renewal_rate=3600)
    large = policy("large", quota_max=99, quota_renewal_rate=60)
    none = policy("none", quota_max=-1)
    (bucket,) = session(document("small", "large"), small, large).grants["login"].buckets
    assert (bucket.limit, bucket.window) == (99, 3600.0)
    for order in itertools.permutations(("small", "large", "none")):
        assert session(document(*order), small, large, none).grants["login"].buckets == ()


def test_a_silent_policy_never_lifts_the_limits_of_another() -> None:
    loud, silent = policy("loud", rate=5, per=1, quota_max=10, quota_renewal_rate=60), policy("silent")
    for order in (("loud", "silent"), ("silent", "loud")):
        grant = session(document(*order), loud, silent).grants["login"]
        assert [(bucket.limit, bucket.window) for bucket in grant.buckets] == [(5, 1.0), (10, 60.0)]


def test_an_unlimited_rate_is_the_fastest() -> None:
    laid = session(document("a", "b"), policy("a", rate=-1), policy("b", rate=5, per=1))
    assert laid.grants["login"].buckets == ()


def test_rights_are_united() -> None:
    one = policy("one", {"login": {"versions": ["v1"], "allowed_urls": [{"url": "/a", "methods": ["GET"]}]}})
    two = policy(
        "two",
        {
            "login": {
                "versions": ["v2", "v1"],
                "allowed_urls": [{"url": "/a", "methods": ["POST"]}, {"url": "/b", "methods": []}],
            },
            "portal": {},
        },
    )
    laid = session(document("one", "two"), one, two)
    assert set(laid.grants) == {"login", "portal"}
    assert laid.grants["login"].versions == {"v1", "v2"}
    assert [rule.methods for rule in laid.grants["login"].paths] == [{"GET", "POST"}, frozenset()]


def test_policies_that_grant_count_apart_under_their_ids() -> None:
    one = policy("one", ("a",), quota_max=5, quota_renewal_rate=60)
    two = policy("two", ("b", "c"), quota_max=7, quota_renewal_rate=60)
    laid = session(document("one", "two"), one, two)
    assert buckets(laid.grants["a"]) == [("quota:one", 5, 60.0)]
    assert laid.grants["b"].buckets == laid.grants["c"].buckets
    assert buckets(laid.grants["b"]) == [("quota:two", 7, 60.0)]


def test_windows_of_different_length_never_share_a_counter() -> None:
    access = policy("access", ("a", "b"), partitions=frozenset({"access"}))
    slow = policy("slow", ("a",), rate=60, per=60, partitions=frozenset({"rate"}))
    fast = policy("fast", ("b",), rate=5, per=1, partitions=frozenset({"rate"}))
    laid = session(document("access", "slow", "fast"), access, slow, fast)
    assert buckets(laid.grants["a"]) == [("rate:/a", 60, 60.0)]
    assert buckets(laid.grants["b"]) == [("rate:/b", 5, 1.0)]


def test_an_api_without_a_granting_policy_is_dropped() -> None:
    access = policy("access", ("a",), partitions=frozenset({"access"}))
    quota = policy("quota", ("a", "b"), quota_max=5, partitions=frozenset({"quota"}))
    laid = session(document("access", "quota"), access, quota)
    assert set(laid.grants) == {"a"}
    assert buckets(laid.grants["a"]) == [("quota:", 5, 0.0)]


def test_a_limit_partition_does_not_touch_the_rights_of_another_policy() -> None:
    access = policy("access", {"a": {"versions": ["v1"]}}, partitions=frozenset({"access"}))
    rate = policy("rate", {"a": {"versions": ["v2"]}}, rate=5, per=1, partitions=frozenset({"rate"}))
    for order in (("access", "rate"), ("rate", "access")):
        grant = session(document(*order), access, rate).grants["a"]
        assert grant.versions == {"v1"}
        assert grant.buckets[0].limit == 5


def test_a_policy_without_rights_sets_the_sessions_own_limits() -> None:
    access = policy("access", ("a",), partitions=frozenset({"access"}))
    root = policy("root", (), rate=8, per=2, quota_max=3)
    laid = session(document("access", "root", rate=1, per=1), access, root)
    assert buckets(laid.grants["a"]) == [("rate:", 8, 2.0), ("quota:", 3, 0.0)]


def test_per_api_limits_count_under_the_api_or_else_under_the_policy() -> None:
    mixed = policy(
        "mixed",
        {"a": {"limit": {"rate": 1, "per": 1, "quota_max": 5}}, "b": {}, "c": {}},
        per_api=True,
        rate=9,
        per=1,
    )
    laid = session(document("mixed"), mixed)
    assert buckets(laid.grants["a"]) == [("rate:a", 1, 1.0), ("quota:a", 5, 0.0)]
    assert buckets(laid.grants["b"]) == [("rate:mixed", 9, 1.0)]
    assert laid.grants["c"].buckets == laid.grants["b"].buckets


def test_the_same_api_in_two_per_api_policies_has_the_better_of_each() -> None:
    one = policy("one", {"a": {"limit": {"rate": 1, "per": 1, "quota_max": 50}}}, per_api=True)
    two = policy("two", {"a": {"limit": {"rate": 5, "per": 1, "quota_max": 7}}}, per_api=True)
    for order in (("one", "two"), ("two", "one")):
        assert buckets(session(document(*order), one, two).grants["a"]) == [("rate:a", 5, 1.0), ("quota:a", 50, 0.0)]


def test_throttling_takes_the_larger_values() -> None:
    one = policy("one", rate=1, per=1, throttle_interval=1.0, throttle_retry_limit=2)
    two = policy("two", rate=1, per=1, throttle_interval=0.5, throttle_retry_limit=5)
    grant = session(document("one", "two"), one, two).grants["login"]
    assert (grant.throttle_interval, grant.throttle_retries) == (1.0, 5)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_one_inactive_part_makes_the_session_inactive(own: bool, first: bool, second: bool) -> None:
    laid = session(
        document("one", "two", is_inactive=own), policy("one", inactive=first), policy("two", inactive=second)
    )
    assert laid.inactive is (own or first or second)
    assert bool(laid.inactive_reason) is laid.inactive


def test_the_inactive_policy_is_named() -> None:
    laid = session(document("one", "two"), policy("one"), policy("two", inactive=True))
    assert laid.inactive_reason == "policy two is inactive"


def test_tags_are_united_and_meta_is_overwritten() -> None:
    one = policy("one", tags=("x", "y"), meta={"plan": "one", "a": 1})
    two = policy("two", tags=("y", "z"), meta={"plan": "two"})
    laid = session(document("one", "two", tags=["own", "x"], meta_data={"plan": "own", "b": 2}), one, two)
    assert laid.tags == ("x", "y", "z", "own")
    assert laid.meta == {"plan": "two", "a": 1, "b": 2}


def test_the_last_policy_decides_what_follows_expiry_and_the_latest_change_wins() -> None:
    one = policy("one", post_expiry_action="delete", last_updated="200")
    two = policy("two", post_expiry_action="retain", post_expiry_grace_period=9, last_updated="100")
    merged = merge(document("one", "two", last_updated="150"), "acme", PolicySet([one, two]))
    assert isinstance(merged, SessionDocument)
    assert (merged.post_expiry_action, merged.post_expiry_grace_period) == ("retain", 9)
    assert merged.last_updated == "200"


def test_with_one_api_the_root_shows_its_limits() -> None:
    merged = effective_document(document("gold"), PolicySet([policy("gold", rate=5, per=1, quota_max=10)]))
    assert (merged.rate, merged.per, merged.quota_max, merged.allowance) == (5, 1, 10, 5)
    assert merged.access_rights["login"].limit.rate == 5


def test_a_read_shows_the_document_itself_when_its_policies_cannot_be_laid_over() -> None:
    gone = document("gone", rate=5, per=1)
    assert effective_document(gone, PolicySet()) is gone


# The set


def test_equal_lists_of_paths_are_compiled_once() -> None:
    policies = PolicySet()
    rights = {"a": {"allowed_urls": [{"url": "/x"}], "versions": ["v1"]}}
    first, second = (
        lay_over(document(access_rights=rights), Record(name, "acme", "key", "", b""), policies) for name in "ab"
    )
    assert isinstance(first, Session)
    assert isinstance(second, Session)
    assert first.grants["a"].paths is second.grants["a"].paths
    assert first.grants["a"].versions is second.grants["a"].versions


def test_sets_agree_about_what_did_not_change() -> None:
    old = PolicySet([policy("gold", rate=1, per=1), policy("silver")])
    new = PolicySet([policy("gold", rate=1, per=1), policy("silver", rate=2, per=1)])
    assert new.agrees_with(old, ["gold"])
    assert not new.agrees_with(old, ["gold", "silver"])
    assert not new.agrees_with(PolicySet(), ["gold"])
    assert new.agrees_with(PolicySet(), ["unknown"])


def test_two_policies_of_one_id_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two policies have the id 'gold'"):
        PolicySet([policy("gold"), policy("gold")])


# Writing


def test_a_new_document_gets_its_times() -> None:
    written = as_written(document(quota_renewal_rate=60), None, PolicySet(), 1_700_000_000.5)
    assert written.date_created == "2023-11-14T22:13:20Z"
    assert written.last_updated == "1700000000"
    assert written.quota_renews == 1_700_000_060


def test_a_rewrite_keeps_the_date_of_creation() -> None:
    stored = document(date_created="2020-01-01T00:00:00Z")
    assert as_written(document(), stored, PolicySet(), 1.7e9).date_created == "2020-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "expires, stored, kept",
    [(0, None, 0), (-1, None, -1), (1, None, 1), (50, None, 0), (50, 2000, 2000), (1500, 7, 1500)],
)
def test_an_expiry_that_has_passed_gives_way_to_the_stored_one(expires: int, stored: int | None, kept: int) -> None:
    before = None if stored is None else document(expires=stored)
    assert as_written(document(expires=expires), before, PolicySet(), 1000).expires == kept


def test_a_trial_limits_the_life_of_a_new_key_only() -> None:
    policies = PolicySet([policy("long", key_expires_in=900), policy("short", key_expires_in=60), policy("none")])
    applied = document("long", "short", "none", expires=5000)
    assert as_written(applied, None, policies, 1000).expires == 1060
    assert as_written(applied, document(expires=3000), policies, 1000).expires == 5000


# Whatever the policies, a session is never freer than its freest policy, and never depends on their order

limits = st.fixed_dictionaries(
    {
        "rate": st.sampled_from([0, 1, 5, 7]),
        "per": st.sampled_from([1, 60]),
        "quota_max": st.sampled_from([0, -1, 3, 10]),
        "quota_renewal_rate": st.sampled_from([0, 60, 3600]),
        "partitions": st.sets(st.sampled_from(["rate", "quota", "access"])).map(frozenset),
    }
)


@given(st.lists(limits, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_policies_does_not_change_the_limits(fields: list[dict[str, Any]], random: Any) -> None:
    policies = [policy(f"p{number}", **one) for number, one in enumerate(fields)]
    names = [one.id for one in policies]
    shuffled = list(names)
    random.shuffle(shuffled)
    results = []
    for order in (names, shuffled):
        merged = merge(document(*order, rate=2, per=1, quota_max=4), "acme", PolicySet(policies))
        if isinstance(merged, PolicyProblem):
            results.append(None)
        else:
            limit = merged.access_rights["login"].limit
            # Two pairs of one pace are the same rate: which of them stands is not promised.
            results.append((limit.per / limit.rate if limit.rate else 0, limit.quota_max, limit.quota_renewal_rate))
    assert results[0] == results[1]
    if results[0] is not None:
        told = [one["quota_max"] for one in fields if not one["partitions"] or "quota" in one["partitions"]]
        if any(most > 0 for most in told) and -1 not in told:
            assert results[0][1] == max(told)
