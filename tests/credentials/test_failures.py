"""Failed credentials: who has to wait, who never has to, and how much is remembered."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiogate.credentials.failures import Failures, Limit
from aiogate.testing.clock import FakeClock

HOME, OFFICE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def failures(clock: FakeClock) -> Failures:
    return Failures(clock, user=Limit(3, 60), address=Limit(10, 60))


def fail(failures: Failures, address: str, name: str, times: int = 1, *, secret: bool = False) -> None:
    for _ in range(times):
        failures.failed(address, name, secret=secret)


def test_the_limit_is_of_one_user_at_one_address(clock: FakeClock, failures: Failures) -> None:
    assert failures.quiet
    fail(failures, HOME, "ann", 2)
    assert failures.wait(HOME, "ann") == 0
    fail(failures, HOME, "ann")
    assert failures.wait(HOME, "ann") == 60
    assert failures.wait(HOME, "bob") == 0
    assert failures.wait(OFFICE, "ann") == 0
    clock.advance(59)
    assert failures.wait(HOME, "ann") == 1
    clock.advance(1)
    assert failures.wait(HOME, "ann") == 0


def test_a_window_begins_with_its_first_failure(clock: FakeClock, failures: Failures) -> None:
    fail(failures, HOME, "ann", 2)
    clock.advance(60)
    fail(failures, HOME, "ann", 2)
    assert failures.wait(HOME, "ann") == 0


def test_the_limit_of_an_address_is_of_all_its_users(failures: Failures) -> None:
    for number in range(10):
        assert failures.wait(HOME, f"user-{number}") == 0
        fail(failures, HOME, f"user-{number}")
    assert failures.wait(HOME, "another") == 60
    assert failures.wait(OFFICE, "another") == 0


def test_who_came_in_while_it_was_counted_is_spared_but_not_from_its_own_failures(failures: Failures) -> None:
    fail(failures, OFFICE, "x")
    failures.passed(OFFICE, "ann")
    for number in range(10):
        fail(failures, OFFICE, f"user-{number}")
    assert failures.wait(OFFICE, "bob") > 0
    assert failures.wait(OFFICE, "ann") == 0
    fail(failures, OFFICE, "ann", 3)
    assert failures.wait(OFFICE, "ann") > 0


def test_one_dead_key_counts_once_and_a_search_counts_each(failures: Failures) -> None:
    fail(failures, HOME, "dead-key", 50, secret=True)
    assert failures.wait(HOME, "dead-key", secret=True) == 0
    for number in range(9):
        fail(failures, HOME, f"guess-{number}", secret=True)
    assert failures.wait(HOME, "good-key", secret=True) == 60
    assert failures.wait(OFFICE, "good-key", secret=True) == 0


def test_one_client_has_a_whole_network_of_ipv6(failures: Failures) -> None:
    for number in range(3):
        fail(failures, f"2001:db8::{number}", "ann")
    assert failures.wait("2001:db8::ffff", "ann") > 0
    assert failures.wait("2001:db8:0:1::1", "ann") == 0
    assert failures.wait("not an address: at all", "ann") == 0


def test_without_limits_nothing_is_counted(clock: FakeClock) -> None:
    failures = Failures(clock)
    fail(failures, HOME, "ann", 1000)
    assert (failures.quiet, failures.wait(HOME, "ann")) == (True, 0)


def test_it_gets_quiet_again(clock: FakeClock, failures: Failures) -> None:
    fail(failures, HOME, "ann")
    failures.passed(HOME, "bob")
    clock.advance(61)
    failures.wait(HOME, "ann")
    assert failures.quiet
    failures.wait(HOME, "ann")


def test_58_a_flood_of_names_and_addresses_stays_in_its_bounds(clock: FakeClock) -> None:
    failures = Failures(clock, user=Limit(3, 60), address=Limit(10, 60), capacity=1000)
    fail(failures, HOME, "ann", 3)
    tracemalloc.start()
    try:
        for number in range(20_000):
            failures.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "n" * 4000 + str(number))
            failures.passed(f"10.0.0.{number & 255}", str(number))
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(failures) <= 2000
    assert size < 1_000_000


@given(st.lists(st.tuples(st.sampled_from(["fail", "pass", "tick"]), st.sampled_from("ab"), st.sampled_from("xy"))))
def test_nobody_waits_longer_than_a_window_and_nobody_who_never_failed(steps: list[tuple[str, str, str]]) -> None:
    clock = FakeClock()
    failures = Failures(clock, user=Limit(2, 60), address=Limit(5, 30))
    failed: dict[str, int] = {}
    for what, address, name in steps:
        if what == "fail":
            failures.failed(address, name)
            failed[address] = failed.get(address, 0) + 1
        elif what == "pass":
            failures.passed(address, name)
        else:
            clock.advance(7)
        for one in "ab":
            wait = failures.wait(one, "z")
            assert 0 <= wait <= 30
            assert not wait or failed.get(one, 0) >= 5
            assert 0 <= failures.wait(one, "x") <= 60
