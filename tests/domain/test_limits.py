"""How limits count, against an oracle that remembers every request."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from aiogate.domain.limits import Bucket, Counter, Taken, decide


@dataclass
class Oracle:
    """Keeps the times of the admitted requests of the open window, and nothing cleverer."""

    bucket: Bucket
    began: float | None = None
    admitted: list[float] = field(default_factory=list)

    def roll(self, now: float) -> None:
        if self.began is not None and self.bucket.window > 0 and now >= self.began + self.bucket.window:
            self.began, self.admitted = None, []

    def full(self) -> bool:
        return len(self.admitted) >= self.bucket.limit

    def admit(self, now: float) -> None:
        if self.began is None:
            self.began = now
        self.admitted.append(now)


# Quarters of a second are exact in binary: the oracle adds what the rule adds.
quarters = st.integers(0, 80).map(lambda number: number / 4)
shapes = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.25, 1.0, 5.0])), min_size=1, max_size=3)


@given(shapes=shapes, steps=st.lists(quarters, max_size=80))
def test_the_rule_admits_what_the_oracle_admits(shapes: list[tuple[int, float]], steps: list[float]) -> None:
    buckets = [Bucket(str(number), limit, window, "rate") for number, (limit, window) in enumerate(shapes)]
    oracles = [Oracle(bucket) for bucket in buckets]
    counters: list[Counter | None] = [None] * len(buckets)
    now = 1000.0
    for step in steps:
        now += step
        taken = decide(buckets, counters, now)
        for oracle in oracles:
            oracle.roll(now)
        full = [index for index, oracle in enumerate(oracles) if oracle.full()]
        assert taken.refused == (full[0] if full else -1)
        if taken.admitted:
            for oracle in oracles:
                oracle.admit(now)
        assert [counter.count for counter in taken.counters] == [len(oracle.admitted) for oracle in oracles]
        counters = [
            counter if counter.count else known for counter, known in zip(taken.counters, counters, strict=True)
        ]


@given(
    limit=st.integers(0, 5), window=st.floats(0.01, 1e6), steps=st.lists(st.floats(0, 1e6), min_size=1, max_size=100)
)
def test_no_window_admits_more_than_its_limit(limit: int, window: float, steps: list[float]) -> None:
    bucket = Bucket("a", limit, window, "rate")
    counter: Counter | None = None
    admitted: dict[float, int] = {}
    now = 0.0
    for step in steps:
        now += step
        taken = decide((bucket,), (counter,), now)
        if taken.counters[0].count:
            counter = taken.counters[0]
        if taken.admitted:
            admitted[taken.counters[0].ends] = admitted.get(taken.counters[0].ends, 0) + 1
    assert all(count <= limit for count in admitted.values())


@given(limit=st.integers(1, 5), steps=st.lists(quarters.map(lambda step: step / 8), min_size=1, max_size=120))
def test_56_no_ten_seconds_hold_more_than_twice_a_limit_of_ten_seconds(limit: int, steps: list[float]) -> None:
    bucket = Bucket("a", limit, 10.0, "rate")
    counter: Counter | None = None
    admitted: list[float] = []
    now = 1000.0
    for step in steps:
        now += step
        taken = decide((bucket,), (counter,), now)
        if taken.admitted:
            counter = taken.counters[0]
            admitted.append(now)
    for began in admitted:
        assert sum(began <= moment < began + 10.0 for moment in admitted) <= 2 * limit


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=6))
def test_all_buckets_are_taken_or_none(pairs: list[tuple[int, int]]) -> None:
    buckets = [Bucket(str(number), limit, 10, "rate") for number, (limit, _) in enumerate(pairs)]
    before = [Counter(count, 5.0) if count else None for _, count in pairs]
    taken = decide(buckets, before, 1.0)
    grown = [
        counter.count - (known.count if known else 0) for counter, known in zip(taken.counters, before, strict=True)
    ]
    assert set(grown) == ({1} if taken.admitted else {0})
    assert taken.admitted == all(count < limit for limit, count in pairs)


def test_a_window_ends_at_its_end_and_not_before() -> None:
    bucket = Bucket("a", 1, 10, "rate")
    (opened,) = decide((bucket,), (None,), 100.0).counters
    assert opened == Counter(1, 110.0)
    assert not decide((bucket,), (opened,), 109.999).admitted
    assert decide((bucket,), (opened,), 110.0) == Taken(-1, (Counter(1, 120.0),))


def test_a_limit_of_nothing_refuses_everything() -> None:
    bucket = Bucket("a", 0, 10, "rate")
    assert decide((bucket,), (None,), 100.0) == Taken(0, (Counter(0, 110.0),))


def test_no_buckets_are_always_taken() -> None:
    assert decide((), (), 0.0) == Taken(-1, ())


def test_without_a_window_the_count_is_for_good() -> None:
    bucket = Bucket("a", 1, 0, "quota")
    (counter,) = decide((bucket,), (None,), 100.0).counters
    assert counter == Counter(1, 0.0)
    assert not decide((bucket,), (counter,), 1e12).admitted


def test_a_window_that_got_shorter_ends_within_its_new_length() -> None:
    bucket = Bucket("a", 5, 10, "rate")
    assert decide((bucket,), (Counter(5, 1e9),), 100.0) == Taken(0, (Counter(5, 110.0),))
    assert decide((bucket,), (Counter(5, 0.0),), 100.0) == Taken(0, (Counter(5, 110.0),))


@given(back=st.floats(0.001, 1e7), window=st.floats(0.1, 1e5))
def test_a_clock_set_back_locks_out_for_one_window_at_most(back: float, window: float) -> None:
    bucket = Bucket("a", 1, window, "rate")
    now = 1e8
    (counter,) = decide((bucket,), (None,), now).counters
    now -= back
    refused = decide((bucket,), (counter,), now)
    counter = refused.counters[0] if refused.counters[0].count else counter
    assert decide((bucket,), (counter,), now + window).admitted
