"""Which target takes a request, and when one is left alone."""

from __future__ import annotations

import logging
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiogate.proxy.balance import EjectionRule, Group, Groups, Target
from aiogate.testing import FakeClock

REQUEST = object()


def target(name, weight=1, busy=0):
    return Target(SimpleNamespace(origin=name, busy=busy), "", weight=weight)


def names(targets):
    return "".join(str(one) for one in targets)


def group(*targets, clock=None, **options):
    return Group(targets, clock or FakeClock(), api="shop", **options)


def test_round_robin_is_mixed_evenly():
    one = group(target("a", 5), target("b", 1), target("c", 1))
    assert names(one.choose(REQUEST) for _ in range(14)) == "aabacaa" * 2


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_each_target_gets_its_share_of_every_round(weights):
    targets = [target(str(number), weight) for number, weight in enumerate(weights)]
    one = group(*targets)
    for _ in range(3):
        assert Counter(map(str, (one.choose(REQUEST) for _ in range(sum(weights))))) == {
            str(number): weight for number, weight in enumerate(weights)
        }


def test_fewest_requests_for_the_weight():
    a, b, c = target("a", 1, busy=2), target("b", 4, busy=3), target("c", 1, busy=1)
    one = group(a, b, c, least_requests=True)
    assert one.choose(REQUEST) is b
    b.pool.busy = 8
    assert one.choose(REQUEST) is c
    a.pool.busy = b.pool.busy = c.pool.busy = 0
    assert Counter(map(str, (one.choose(REQUEST) for _ in range(6)))) == {"a": 1, "b": 4, "c": 1}


def fail(one, failing, times=3):
    for _ in range(times):
        one.failed(failing, "refused", REQUEST)


def test_a_target_is_ejected_after_failures_in_a_row(caplog):
    a, b = target("a"), target("b")
    one = group(a, b)
    fail(one, a, 2)
    one.answered(a, 200, REQUEST)
    fail(one, a, 2)
    assert names(one.choose(REQUEST) for _ in range(4)) == "abab"
    with caplog.at_level(logging.WARNING, "aiogate.upstream"):
        fail(one, a, 1)
    assert names(one.choose(REQUEST) for _ in range(4)) == "bbbb"
    assert caplog.messages == ["API shop: the target a is left alone for 10 s: refused"]
    assert [(str(of), left) for of, left in one.states()] == [("a", 10.0), ("b", 0.0)]
    assert a.ejections == 1


def test_one_request_tries_it_when_its_time_is_over(caplog):
    clock = FakeClock()
    a, b = target("a"), target("b")
    one = group(a, b, clock=clock)
    fail(one, a)
    clock.advance(9.9)
    assert one.choose(REQUEST) is b
    clock.advance(0.1)
    assert names(one.choose(REQUEST) for _ in range(3)) == "abb", "one probe at a time"
    one.undecided(a, REQUEST)
    assert names(one.choose(REQUEST) for _ in range(3)) == "abb", "a client that left proved nothing"
    caplog.clear()
    with caplog.at_level(logging.INFO, "aiogate.upstream"):
        one.answered(a, 404, REQUEST)
    assert caplog.messages == ["API shop: the target a answers again and is back"]
    assert Counter(map(str, (one.choose(REQUEST) for _ in range(4)))) == {"a": 2, "b": 2}


def test_what_was_sent_before_the_ejection_is_not_taken_for_the_one_that_tries():
    clock = FakeClock()
    a, b = target("a"), target("b")
    one = group(a, b, clock=clock)
    fail(one, a)
    clock.advance(10)
    assert one.choose(REQUEST) is a
    late = object()
    one.failed(a, "reset", late)
    one.undecided(a, late)
    assert (a.ejections, names(one.choose(late) for _ in range(3))) == (1, "bbb"), "it is still being tried"
    one.failed(a, "reset", REQUEST)
    assert (a.ejections, round(one.states()[0][1])) == (2, 20)


def test_each_further_ejection_is_twice_as_long():
    clock = FakeClock()
    a, b = target("a"), target("b")
    one = group(a, b, clock=clock, rule=EjectionRule(period=10, at_most=60))
    fail(one, a)
    waited = []
    for _ in range(5):
        left = one.states()[0][1]
        waited.append(round(left))
        clock.advance(left)
        assert one.choose(REQUEST) is a
        one.failed(a, "refused", REQUEST)
    assert waited == [10, 20, 40, 60, 60]
    clock.advance(60)
    assert one.choose(REQUEST) is a
    one.answered(a, 200, REQUEST)
    fail(one, a)
    assert round(one.states()[0][1]) == 60, "back for no time at all"
    clock.advance(60)
    one.choose(REQUEST)
    one.answered(a, 200, REQUEST)
    clock.advance(61)
    fail(one, a)
    assert round(one.states()[0][1]) == 10, "it was well for longer than it had been away"


def test_what_was_sent_before_the_ejection_does_not_prolong_it():
    a, b = target("a"), target("b")
    one = group(a, b)
    fail(one, a, 20)
    assert (a.ejections, round(one.states()[0][1])) == (1, 10)
    one.answered(a, 200, REQUEST)
    assert one.states()[0][1] == 0, "a late answer is an answer"


def test_the_last_one_is_never_ejected(caplog):
    a, b, c = target("a"), target("b"), target("c")
    one = group(a, b, c)
    with caplog.at_level(logging.INFO, "aiogate.upstream"):
        for failing in (a, b, c):
            fail(one, failing)
        assert names(one.choose(REQUEST) for _ in range(6)) == "abcabc"
        for _ in range(100):
            one.failed(one.choose(REQUEST), "refused", REQUEST)
        one.answered(b, 200, REQUEST)
    assert caplog.messages == [
        "API shop: the target a is left alone for 10 s: refused",
        "API shop: the target b is left alone for 10 s: refused",
        "API shop: no target answers, all 3 are tried again: refused",
        "API shop: the target b answers again",
    ]
    assert names(one.choose(REQUEST) for _ in range(4)) == "acbb", "the others are tried, one request each"
    one.answered(a, 200, REQUEST)
    one.failed(c, "refused", REQUEST)
    assert Counter(map(str, (one.choose(REQUEST) for _ in range(4)))) == {"a": 2, "b": 2}


def test_statuses_that_are_failures():
    a, b = target("a"), target("b")
    one = group(a, b, rule=EjectionRule(statuses=frozenset({503})))
    for _ in range(3):
        one.answered(a, 503, REQUEST)
    assert one.choose(REQUEST) is b
    fresh = group(target("a"), target("b"))
    for _ in range(9):
        fresh.answered(fresh.targets[0], 503, REQUEST)
    assert names(fresh.choose(REQUEST) for _ in range(2)) == "ab"


def test_zero_failures_never_eject():
    a, b = target("a"), target("b")
    one = group(a, b, rule=EjectionRule(failures=0))
    fail(one, a, 50)
    assert names(one.choose(REQUEST) for _ in range(4)) == "abab"


def test_another_one_for_the_second_attempt():
    a, b, c = target("a"), target("b"), target("c")
    one = group(a, b, c)
    assert {str(one.another(a)) for _ in range(4)} == {"b", "c"}
    fail(one, b)
    fail(one, c)
    assert one.another(a) is None


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["fail", "answer", "leave", "wait"])), max_size=80))
def test_there_is_always_one_to_choose(steps):
    clock = FakeClock()
    targets = [target(name) for name in "abc"]
    one = group(*targets, clock=clock)
    for number, what in steps:
        chosen = one.choose(REQUEST)
        assert chosen in targets
        if what == "fail":
            one.failed(targets[number], "refused", REQUEST)
        elif what == "answer":
            one.answered(targets[number], 200, REQUEST)
        elif what == "wait":
            clock.advance(7.0)
        one.undecided(chosen, REQUEST)
    for each in targets:
        one.answered(each, 200, REQUEST)
    assert Counter(map(str, (one.choose(REQUEST) for _ in range(3)))) == {"a": 1, "b": 1, "c": 1}


def test_a_group_is_shared_until_its_last_lease():
    groups = Groups()
    first = groups.lease("key", lambda: group(target("a")))
    assert groups.lease("key", lambda: pytest.fail("it is there already")) is first
    groups.release("key")
    assert groups.listed() == [first]
    groups.release("key")
    assert groups.listed() == []
