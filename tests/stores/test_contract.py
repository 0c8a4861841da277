"""What every store must do, whatever is behind it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiogate.domain.account import stored_name
from aiogate.domain.limits import Bucket, Counter, Taken, decide
from aiogate.domain.session import Record, parse_document
from aiogate.stores.base import Store
from aiogate.telemetry.decisions import Decision
from aiogate.testing.clock import FakeClock


def record(
    name: str, org: str = "acme", *, label: str = "", apis: Sequence[str] = ("login",), delete_at: float = 0.0
) -> Record:
    document = parse_document({"access_rights": {api: {} for api in apis}, "org_id": org})
    return Record(stored_name(org, name), org, "key", label, document.stored(), delete_at=delete_at)


def bucket(key: str = "rate::a", limit: int = 3, window: float = 10.0, kind: str = "rate") -> Bucket:
    return Bucket(key, limit, window, kind)


async def take(store: Store, buckets: Sequence[Bucket], now: float) -> Taken:
    answer = store.counters.take(buckets, now)
    assert inspect.isawaitable(answer) == store.counters.asks
    return answer if isinstance(answer, Taken) else await answer


async def test_a_record_comes_back_as_it_was_written(store: Store) -> None:
    written = record("first", label="First")
    await store.sessions.put(written)
    found = await store.sessions.get(written.name_hash)
    assert found is not None
    assert (found.org, found.kind, found.label, found.document) == ("acme", "key", "First", written.document)


async def test_each_write_raises_the_revision(store: Store) -> None:
    written = record("first")
    revisions = []
    for _ in range(3):
        await store.sessions.put(written)
        found = await store.sessions.get(written.name_hash)
        assert found is not None
        revisions.append(found.revision)
    assert revisions == sorted(set(revisions))


async def test_an_unknown_record_is_none_and_its_deletion_false(store: Store) -> None:
    assert await store.sessions.get("0" * 64) is None
    assert await store.sessions.delete("0" * 64) is False


async def test_a_deleted_record_is_gone(store: Store) -> None:
    written = record("first")
    await store.sessions.put(written)
    assert await store.sessions.delete(written.name_hash) is True
    assert await store.sessions.get(written.name_hash) is None
    assert await store.sessions.page() == []


async def test_a_record_past_its_end_is_as_good_as_absent(store: Store, clock: FakeClock) -> None:
    written = record("first", delete_at=clock.now() + 10)
    await store.sessions.put(written)
    assert await store.sessions.get(written.name_hash) is not None
    clock.advance(10)
    assert await store.sessions.get(written.name_hash) is None
    assert await store.sessions.page() == []
    assert await store.sessions.count() == 0
    assert await store.sessions.organisations() == []
    assert await store.sessions.delete(written.name_hash) is False


async def test_pages_come_in_the_order_of_stored_names(store: Store) -> None:
    records = [record(f"name{number}") for number in range(7)]
    for one in records:
        await store.sessions.put(one)
    seen: list[str] = []
    while page := await store.sessions.page(after=seen[-1] if seen else "", limit=3):
        seen += [one.name_hash for one in page]
    assert seen == sorted(one.name_hash for one in records)
    assert await store.sessions.count() == 7


async def test_filters_leave_foreign_records_out(store: Store) -> None:
    await store.sessions.put(record("one", "acme", label="ada", apis=("login",)))
    await store.sessions.put(record("two", "acme", label="bob", apis=("login", "portal")))
    await store.sessions.put(record("three", "other", label="ada%_", apis=("portal",)))

    async def labels(**filters: str) -> list[str]:
        page = await store.sessions.page(**filters)  # type: ignore[arg-type]
        assert await store.sessions.count(**filters) == len(page)  # type: ignore[arg-type]
        return sorted(one.label for one in page)

    assert await labels(org="acme") == ["ada", "bob"]
    assert await labels(api="portal") == ["ada%_", "bob"]
    assert await labels(prefix="ada") == ["ada", "ada%_"]
    assert await labels(prefix="ada%") == ["ada%_"]
    assert await labels(prefix="ADA") == []
    assert await labels(org="acme", api="portal", prefix="b") == ["bob"]
    assert await labels(org="nobody") == []
    assert await store.sessions.organisations() == ["acme", "other"]


async def test_a_rewritten_record_is_found_by_its_new_apis_only(store: Store) -> None:
    await store.sessions.put(record("one", apis=("login",)))
    await store.sessions.put(record("one", apis=("portal",)))
    assert await store.sessions.page(api="login") == []
    assert len(await store.sessions.page(api="portal")) == 1


async def test_exactly_the_limit_passes_and_the_window_opens_again(store: Store, clock: FakeClock) -> None:
    one = bucket(limit=3, window=10)
    admitted = [(await take(store, (one,), clock.now())).admitted for _ in range(5)]
    assert admitted == [True, True, True, False, False]
    clock.advance(9.999)
    assert not (await take(store, (one,), clock.now())).admitted
    clock.advance(0.001)
    assert (await take(store, (one,), clock.now())).counters == (Counter(1, clock.now() + 10),)


async def test_a_refused_request_spends_nothing(store: Store, clock: FakeClock) -> None:
    narrow, wide = bucket("rate::n", 1), bucket("quota::w", 10, 100, "quota")
    assert (await take(store, (wide, narrow), clock.now())).admitted
    refused = await take(store, (wide, narrow), clock.now())
    assert refused.refused == 1
    assert [counter.count for counter in refused.counters] == [1, 1]
    read = await store.counters.read((wide.key, narrow.key), clock.now())
    assert [counter and counter.count for counter in read] == [1, 1]


async def test_a_refused_request_does_not_open_the_window_of_another_bucket(store: Store, clock: FakeClock) -> None:
    full, fresh = bucket("quota::f", 1, 100, "quota"), bucket("rate::f", 5, 10)
    await take(store, (full,), clock.now())
    assert (await take(store, (fresh, full), clock.now())).refused == 1
    assert await store.counters.read((fresh.key,), clock.now()) == [None]


async def test_a_quota_without_renewal_never_opens_again(store: Store, clock: FakeClock) -> None:
    once = bucket("quota::once", 2, 0, "quota")
    assert [(await take(store, (once,), clock.now())).admitted for _ in range(3)] == [True, True, False]
    clock.advance(10**9)
    assert not (await take(store, (once,), clock.now())).admitted
    assert await store.counters.read((once.key,), clock.now()) == [Counter(2, 0.0)]


async def test_a_clock_set_back_locks_nobody_out_for_longer_than_a_window(store: Store, clock: FakeClock) -> None:
    one = bucket(limit=1, window=10)
    assert (await take(store, (one,), clock.now())).admitted
    clock.set(clock.now() - 3600)
    assert not (await take(store, (one,), clock.now())).admitted
    clock.advance(10)
    assert (await take(store, (one,), clock.now())).admitted


async def test_reset_forgets_the_named_counters_only(store: Store, clock: FakeClock) -> None:
    one, two = bucket("rate::1"), bucket("rate::2")
    await take(store, (one, two), clock.now())
    await store.counters.reset([one.key, "rate::unknown"])
    read = await store.counters.read([one.key, two.key], clock.now())
    assert read[0] is None
    assert read[1] is not None
    assert read[1].count == 1


async def test_taking_no_bucket_is_admitted(store: Store, clock: FakeClock) -> None:
    assert (await take(store, (), clock.now())) == Taken(-1, ())


async def test_a_thousand_parallel_takers_get_exactly_the_limit(store: Store, clock: FakeClock) -> None:
    for run in range(20):
        buckets = (bucket(f"rate::{run}", 10**6), bucket(f"quota::{run}", 100, 3600, "quota"))

        async def taker(buckets: Sequence[Bucket] = buckets) -> bool:
            await asyncio.sleep(0)
            return (await take(store, buckets, clock.now())).admitted

        assert sum(await asyncio.gather(*(taker() for _ in range(1000)))) == 100


buckets_taken = st.lists(
    st.tuples(
        st.lists(st.integers(0, 3), min_size=0, max_size=4, unique=True),
        st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0, 6.999, 7.0, 40.0, 300.0, 4000.0]),
    ),
    max_size=60,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.5, 7.0, 300.0])), min_size=4, max_size=4),
    steps=buckets_taken,
)
async def test_a_store_answers_as_the_rule_does(
    store: Store, shapes: list[tuple[int, float]], steps: list[tuple[list[int], float]]
) -> None:
    buckets = [bucket(f"rate:{number}", limit, window) for number, (limit, window) in enumerate(shapes)]
    await store.counters.reset([one.key for one in buckets])
    known: dict[str, Counter] = {}
    now = 1_700_000_000.0
    for chosen, step in steps:
        now += step
        asked = [buckets[number] for number in chosen]
        expected = decide(asked, [known.get(one.key) for one in asked], now)
        assert await take(store, asked, now) == expected
        for one, counter in zip(asked, expected.counters, strict=True):
            if counter.count:
                known[one.key] = counter


def decision(number: int, **fields: object) -> Decision:
    return Decision(f"r{number}", 1_700_000_000.0 + number, "GET", "/", **fields)  # type: ignore[arg-type]


async def test_decisions_are_found_by_request_and_listed_newest_first(store: Store) -> None:
    for number in range(5):
        store.decisions.append(decision(number, api="login" if number % 2 else "portal", shadow=number == 3))
    assert await store.decisions.get("r2") == decision(2, api="portal")
    assert await store.decisions.get("r9") is None
    assert [one.request_id for one in await store.decisions.latest(2)] == ["r4", "r3"]
    assert [one.request_id for one in await store.decisions.latest(api="login")] == ["r3", "r1"]
    assert [one.request_id for one in await store.decisions.latest(shadow=True)] == ["r3"]
    assert [one.request_id for one in await store.decisions.latest(api="login", shadow=False)] == ["r1"]
    assert await store.decisions.latest(0) == []
    assert store.decisions.dropped == 0


async def test_the_refusal_of_a_request_goes_before_its_shadows(store: Store) -> None:
    store.decisions.append(decision(1, shadow=True, code="shadowed"))
    store.decisions.append(decision(1, code="rate_limited"))
    store.decisions.append(decision(1, shadow=True, code="shadowed_later"))
    found = await store.decisions.get("r1")
    assert found is not None
    assert found.code == "rate_limited"


async def test_the_oldest_decisions_go_first(store: Store) -> None:
    for number in range(12_000):
        store.decisions.append(decision(number))
        if number % 4_000 == 0:
            await store.decisions.latest(1)
    assert await store.decisions.get("r0") is None
    assert await store.decisions.get("r11999") is not None
    assert len(await store.decisions.latest(20_000)) == 10_000
    assert store.decisions.dropped == 0


async def test_bytes_that_are_not_text_do_not_lose_a_decision(store: Store) -> None:
    store.decisions.append(decision(1, label="caf\udce9"))
    found = await store.decisions.get("r1")
    assert found is not None
    assert found.label.startswith("caf")
