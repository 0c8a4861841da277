"""The dictionary of counters: what is swept, and what is bounded (rows 58 and 59)."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from aiogate.domain.limits import Bucket, Counter, decide
from aiogate.stores.memory import MemoryCounters


def rate(number: int, window: float = 10.0) -> Bucket:
    return Bucket(f"rate::{number}", 5, window, "rate")


def test_ended_windows_are_swept_by_the_takes_that_follow() -> None:
    counters = MemoryCounters()
    for number in range(1000):
        counters.take((rate(number),), 1000.0)
    busy = (rate(-1, 10_000.0),)
    for step in range(40):
        counters.take(busy, 1020.0 + step / 1000)
    assert len(counters) == 1


def test_a_window_that_was_opened_again_is_not_swept() -> None:
    counters = MemoryCounters()
    counters.take((rate(1),), 1000.0)
    counters.take((rate(1),), 1010.0)
    counters.take((rate(2),), 1012.0)
    assert counters.take((rate(1),), 1015.0).counters[0].count == 2


def test_long_windows_are_swept_as_well() -> None:
    counters = MemoryCounters()
    counters.take((Bucket("quota::1", 5, 3600, "quota"),), 1000.0)
    counters.take((rate(1),), 5000.0)
    counters.take((rate(1),), 5001.0)
    assert len(counters) == 1


def test_past_the_capacity_the_window_that_ends_first_goes_and_quotas_stay() -> None:
    counters = MemoryCounters(capacity=100)
    counters.take((Bucket("quota::1", 1, 5, "quota"),), 1000.0)
    for number in range(300):
        counters.take((rate(number, 10.0 + number),), 1000.0)
    assert len(counters) == 101
    assert not counters.take((Bucket("quota::1", 1, 5, "quota"),), 1000.0).admitted
    assert counters.take((rate(299, 309.0),), 1000.0).counters[0].count == 2


def test_no_take_stops_for_a_storm_of_endings() -> None:
    counters = MemoryCounters()
    for number in range(10_000):
        counters.take((rate(number),), 1000.0)
    longest = 0.0
    for _ in range(400):
        began = time.thread_time()
        counters.take((rate(0),), 1020.0)
        longest = max(longest, time.thread_time() - began)
    assert longest < 0.005


class Unswept(MemoryCounters):
    """Keeps ended windows, as the oracle does: a clock that is set back may find one again."""

    def _sweep(self, now: float) -> None:
        return


@given(
    shapes=st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.5, 7.0, 300.0])), min_size=3, max_size=3),
    steps=st.lists(
        st.tuples(st.lists(st.integers(0, 2), max_size=3), st.floats(-5000, 5000) | st.floats(-1, 1)), max_size=60
    ),
)
def test_the_short_cuts_of_take_answer_as_the_rule_does_whatever_the_clock_does(
    shapes: list[tuple[int, float]], steps: list[tuple[list[int], float]]
) -> None:
    buckets = [Bucket(f"rate:{number}", limit, window, "rate") for number, (limit, window) in enumerate(shapes)]
    counters = Unswept()
    known: dict[str, Counter] = {}
    now = 1_700_000_000.0
    for chosen, step in steps:
        now += step
        asked = [buckets[number] for number in chosen]
        expected = decide(asked, [known.get(one.key) for one in asked], now)
        assert counters.take(asked, now) == expected
        for one, counter in zip(asked, expected.counters, strict=True):
            if counter.count:
                known[one.key] = counter
