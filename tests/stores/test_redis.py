"""The Redis store beyond the contract: one round trip, one write, keys that vanish, and what it does in trouble."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiogate.clock import SystemClock
from aiogate.domain.account import stored_name
from aiogate.domain.limits import Bucket, Counter, Taken, decide
from aiogate.domain.session import Record
from aiogate.stores.base import StoreUnavailable
from aiogate.stores.redis.store import RedisStore
from aiogate.testing.clock import FakeClock
from tests.faults import FaultProxy, fault_proxy
from tests.servers import RedisServer, free_port
from tests.stores.conftest import redis_store
from tests.stores.test_contract import bucket, decision, record


async def take(store: RedisStore, *buckets: Bucket, now: float | None = None) -> Taken:
    answer = store.counters.take(buckets, time.time() if now is None else now)
    assert not isinstance(answer, Taken)
    return await answer


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., object]]:
    """Opens stores that are closed with the test."""
    async with AsyncExitStack() as stack:

        async def open_one(store: RedisStore) -> RedisStore:
            await store.open()
            stack.push_async_callback(store.close)
            return store

        yield open_one


@pytest.fixture
def server() -> AsyncIterator[RedisServer]:
    """A server of the test's own, to harm."""
    server = RedisServer().start()
    yield server
    server.close()


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(redis_server.port) as proxy:
        yield proxy


async def until(done: Callable[[], bool], within: float = 5.0) -> float:
    """Wait for it; the seconds it took."""
    began = time.monotonic()
    async with asyncio.timeout(within):
        while not done():
            await asyncio.sleep(0.005)
    return time.monotonic() - began


moments = st.floats(1e9, 1e9 + 60) | st.sampled_from([1e9, 1e9 + 1, 1e9 + 10.25])
shapes = st.tuples(
    st.integers(0, 2),
    st.integers(0, 3) | st.just(2**53),
    st.sampled_from([-1.0, 0.0, 0.1, 1.0, 1 / 3]) | st.floats(0.001, 100),
)
steps = st.tuples(moments, st.lists(shapes, max_size=3, unique_by=lambda shape: shape[0]))


@pytest.fixture
async def moved(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    """A store whose time is what `take` is given."""
    store = redis_store(redis_server.url, FakeClock())
    await store.open()
    yield store
    await store.close()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=st.lists(steps, max_size=12))
async def test_the_script_is_the_rule(
    moved: RedisStore, steps: list[tuple[float, list[tuple[int, int, float]]]]
) -> None:
    """Against `decide`, with times that go back and windows that change."""
    await moved.counters.reset([f"rate:{number}" for number in range(3)])
    known: dict[str, Counter] = {}
    for now, asked in steps:
        buckets = [bucket(f"rate:{number}", limit, window) for number, limit, window in asked]
        expected = decide(buckets, [known.get(one.key) for one in buckets], now)
        assert await take(moved, *buckets, now=now) == expected
        for one, counter in zip(buckets, expected.counters, strict=True):
            if counter.count:
                known[one.key] = counter


async def test_a_request_costs_one_command_and_one_turn_one_write(
    proxy: FaultProxy, opened: Callable[..., object]
) -> None:
    store = await opened(redis_store(f"redis://127.0.0.1:{proxy.port}", SystemClock()))
    proxy.requests.clear()
    assert (await take(store, bucket(), bucket("quota::q", 9, 60, "quota"))).admitted
    assert [part.count(b"EVALSHA") for part in proxy.requests] == [1]
    proxy.requests.clear()
    taken = await asyncio.gather(*(take(store, bucket("rate::many", 50)) for _ in range(100)))
    assert sum(one.admitted for one in taken) == 50
    assert [part.count(b"EVALSHA") for part in proxy.requests] == [100]


async def test_windows_follow_the_clock_of_redis(redis_server: RedisServer, opened: Callable[..., object]) -> None:
    """A gateway whose clock is an hour ahead counts in the same window, and tells its end in its own time."""
    store = await opened(redis_store(redis_server.url, SystemClock()))
    one = bucket(limit=2, window=10)
    here = time.time()
    assert (await take(store, one, now=here)).admitted
    second = await take(store, one, now=here + 3600)
    assert second.counters[0].count == 2
    assert abs(second.counters[0].ends - (here + 3600 + 10)) < 1
    assert not (await take(store, one, now=here - 3600)).admitted
    (read,) = await store.counters.read([one.key], here + 3600)
    assert read is not None
    assert abs(read.ends - (here + 3600 + 10)) < 1


async def test_keys_have_a_prefix_and_vanish(redis_server: RedisServer, opened: Callable[..., object]) -> None:
    clock = SystemClock()
    store = await opened(redis_store(redis_server.url, clock, "vanish:"))
    await take(store, bucket("rate::a", 5, 10), bucket("quota::never", 5, 0, "quota"))
    await store.sessions.put(record("short", delete_at=clock.now() + 30))
    assert b":" in (left := redis_server.say("PTTL", "vanish:c:rate::a"))
    assert 0 < int(left[1:]) <= 11_000
    assert redis_server.say("PTTL", "vanish:c:quota::never") == b":-1\r\n"
    assert 30_000 < int(redis_server.say("PTTL", f"vanish:s:{stored_name('acme', 'short')}")[1:]) <= 90_000


async def test_a_record_that_ended_by_itself_leaves_the_indexes(
    redis_server: RedisServer, opened: Callable[..., object]
) -> None:
    store = await opened(redis_store(redis_server.url, SystemClock(), "sweep:"))
    for name in ("one", "two"):
        await store.sessions.put(record(name))
    redis_server.say("DEL", f"sweep:s:{stored_name('acme', 'one')}")
    assert await store.sessions.count(org="acme") == 1
    assert redis_server.say("ZCARD", "sweep:n:org:acme") == b":1\r\n"
    assert await store.sessions.organisations() == ["acme"]


async def test_a_key_of_another_type_is_rebuilt(
    redis_server: RedisServer, opened: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    store = await opened(redis_store(redis_server.url, SystemClock(), "types:"))
    one = record("one")
    for key in ("c:rate::a", f"s:{one.name_hash}", "n:all", "n:org:acme", "n:api:login", "d:list", "d:requests"):
        redis_server.say("SADD", f"types:{key}", "x")
    assert (await take(store, bucket())).counters[0].count == 1
    assert (await take(store, bucket())).counters[0].count == 2
    assert await store.sessions.get(one.name_hash) is None
    assert "is no session record" in caplog.text
    await store.sessions.put(one)
    assert isinstance(await store.sessions.get(one.name_hash), Record)
    assert len(await store.sessions.page(api="login")) == len(await store.sessions.page(org="acme")) == 1
    store.decisions.append(decision(1))
    assert await store.decisions.get("r1") == decision(1)
    redis_server.say("SET", "types:c:rate::a", "neither count nor time")
    assert (await take(store, bucket())).counters[0].count == 1


async def test_scripts_that_were_flushed_are_loaded_again(
    redis_server: RedisServer, opened: Callable[..., object]
) -> None:
    store = await opened(redis_store(redis_server.url, SystemClock()))
    for _ in range(2):
        redis_server.say("SCRIPT", "FLUSH")
        taken = await asyncio.gather(*(take(store, bucket(limit=4)) for _ in range(3)))
        await store.sessions.put(record("one"))
    assert [one.admitted for one in taken] == [True, False, False]


@pytest.mark.slow
async def test_no_answer_in_time_refuses_a_session_and_counts_rates_here(
    proxy: FaultProxy, opened: Callable[..., object]
) -> None:
    store = await opened(redis_store(f"redis://127.0.0.1:{proxy.port}", SystemClock(), redis__timeout="150ms"))
    proxy.blackhole = True
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="150 ms"):
            await store.sessions.get("0" * 64)
        assert 0.145 < time.monotonic() - began < 2
    # Given up: nobody waits any more.
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(StoreUnavailable):
            await store.sessions.get("0" * 64)
    assert [(await take(store, bucket(limit=2))).admitted for _ in range(3)] == [True, True, False]
    with pytest.raises(StoreUnavailable, match="a quota cannot be counted without the store"):
        await take(store, bucket(), bucket("quota::a", 5, 60, "quota"))
    assert time.monotonic() - began < 2
    proxy.heal()
    assert await until(lambda: not store.trouble) < 5
    assert await store.sessions.get("0" * 64) is None


async def test_a_late_reply_is_nobody_elses(proxy: FaultProxy, opened: Callable[..., object]) -> None:
    store = await opened(redis_store(f"redis://127.0.0.1:{proxy.port}", SystemClock(), redis__timeout="400ms"))
    written = record("one")
    await store.sessions.put(written)
    proxy.delay = 0.5
    with pytest.raises(StoreUnavailable):
        await store.sessions.get(written.name_hash)
    proxy.heal()
    # The reply to the first question comes first; this one gets its own.
    assert await store.sessions.get("0" * 64) is None


@pytest.mark.slow
@pytest.mark.parametrize("how", ["reset", "refuse", "garbage", "nonsense", "unasked"])
async def test_a_broken_connection_fails_all_who_wait_and_comes_back(
    proxy: FaultProxy, opened: Callable[..., object], how: str
) -> None:
    store = await opened(redis_store(f"redis://127.0.0.1:{proxy.port}", SystemClock()))
    proxy.delay = 0.05
    asked = asyncio.gather(*(store.sessions.get("0" * 64) for _ in range(20)), return_exceptions=True)
    await asyncio.sleep(0.01)
    if how in ("reset", "refuse"):
        proxy.refuse = how == "refuse"
        proxy.reset()
    else:
        proxy.garbage = {
            "garbage": b"\x00\xffHTTP/1.1 400\r\n\r\n",
            "nonsense": b"$-7\r\n",
            "unasked": b"+OK\r\n" * 99,
        }[how]
    outcomes = await asyncio.wait_for(asked, 2)
    assert {type(one) for one in outcomes} == {StoreUnavailable}
    proxy.heal()
    await until(lambda: not store.trouble)
    assert await store.sessions.get("0" * 64) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "heal", "reason"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "out of memory"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "read-only replica"),
    ],
)
async def test_a_server_of_no_use_is_told_once_and_used_again(
    server: RedisServer,
    opened: Callable[..., object],
    caplog: pytest.LogCaptureFixture,
    fault: tuple[str, ...],
    heal: tuple[str, ...],
    reason: str,
) -> None:
    store = await opened(redis_store(server.url, SystemClock()))
    await take(store, bucket(limit=1000))
    caplog.clear()
    server.say(*fault)
    for _ in range(50):
        assert (await take(store, bucket(limit=1000))).admitted
    assert reason in store.trouble
    await asyncio.sleep(1.5)
    assert [one.levelname for one in caplog.records] == ["ERROR"]
    assert reason in caplog.text
    server.say(*heal)
    await until(lambda: not store.trouble)
    assert [one.levelname for one in caplog.records] == ["ERROR", "WARNING"]
    assert (await take(store, bucket(limit=1000))).counters[0].count == 2


async def test_a_wrong_password_and_a_right_one(server: RedisServer, opened: Callable[..., object]) -> None:
    server.say("CONFIG", "SET", "requirepass", "right")
    wrong = await opened(redis_store(f"redis://:canary@127.0.0.1:{server.port}", SystemClock()))
    assert "refuses our user or password" in wrong.trouble
    assert "canary" not in wrong.trouble
    assert wrong.needed
    none = await opened(redis_store(server.url, SystemClock()))
    assert "wants a password" in none.trouble
    right = await opened(redis_store(f"redis://:right@127.0.0.1:{server.port}/3", SystemClock()))
    assert right.trouble == ""
    assert (await take(right, bucket())).admitted


async def test_a_user_with_few_rights_is_enough(redis_server: RedisServer, opened: Callable[..., object]) -> None:
    """What docs/stores.md says that a user needs."""
    rights = ("on", ">pw", "+@all", "-@dangerous", "~few:*", "&few:*")
    assert redis_server.say("ACL", "SETUSER", "gateway", *rights) == b"+OK\r\n"
    url = f"redis://gateway:pw@127.0.0.1:{redis_server.port}"
    store = await opened(redis_store(url, SystemClock(), "few:"))
    assert (await take(store, bucket())).admitted
    await store.sessions.put(record("one"))
    assert await store.sessions.count() == 1
    assert await store.sessions.organisations() == ["acme"]
    store.decisions.append(decision(1))
    assert await store.decisions.get("r1") == decision(1)
    other = await opened(redis_store(url, SystemClock(), "other:"))
    assert "does not permit our user" in other.trouble


@pytest.mark.parametrize(
    "word",
    ["LOADING Redis is loading the dataset in memory", "MASTERDOWN Link with MASTER is down", "BUSY Redis is busy"],
)
async def test_a_server_that_is_not_ready(proxy: FaultProxy, opened: Callable[..., object], word: str) -> None:
    proxy.garbage = f"-{word}\r\n".encode()
    store = await opened(redis_store(f"redis://127.0.0.1:{proxy.port}", SystemClock()))
    assert store.trouble.startswith("Redis ")
    assert store.needed
    proxy.heal()
    await until(lambda: not store.trouble)
    assert not store.needed


async def test_a_start_without_redis_and_its_coming(opened: Callable[..., object]) -> None:
    server = RedisServer()
    try:
        store = await opened(redis_store(server.url, SystemClock()))
        assert store.needed
        with pytest.raises(StoreUnavailable):
            await store.sessions.get("0" * 64)
        store.decisions.append(decision(1))
        assert await store.decisions.get("r1") == decision(1)
        assert await store.decisions.latest() == [decision(1)]
        server.start()
        await until(lambda: not store.trouble)
        assert await store.decisions.get("r1") == decision(1)
    finally:
        server.close()


async def test_a_share_of_what_was_left_is_let_through_without_redis(
    server: RedisServer, opened: Callable[..., object]
) -> None:
    store = await opened(
        redis_store(server.url, SystemClock(), limits_without_store__share="1/2", limits_without_store__quota="local")
    )
    buckets = (bucket("rate::a", 10, 60), bucket("quota::a", 100, 3600, "quota"))
    for _ in range(4):
        assert (await take(store, *buckets)).admitted
    server.kill()
    await until(lambda: bool(store.trouble))
    taken = [await take(store, *buckets) for _ in range(5)]
    assert [one.admitted for one in taken] == [True, True, True, False, False]
    assert taken[-1].refused == 0


async def test_limits_may_be_let_go_or_refused_without_redis(opened: Callable[..., object]) -> None:
    server = RedisServer()
    lax = await opened(
        redis_store(server.url, SystemClock(), limits_without_store__rate="allow", limits_without_store__quota="local")
    )
    once = bucket("quota::once", 1, 60, "quota")
    assert [(await take(lax, bucket(limit=1), once)).refused for _ in range(2)] == [-1, 1]
    strict = await opened(redis_store(server.url, SystemClock(), limits_without_store__rate="deny"))
    with pytest.raises(StoreUnavailable, match="a rate cannot be counted"):
        await take(strict, bucket())
    server.close()


@pytest.mark.slow
async def test_a_server_that_stands_still_and_one_that_is_killed(
    server: RedisServer, opened: Callable[..., object]
) -> None:
    store = await opened(redis_store(server.url, SystemClock(), redis__timeout="50ms"))
    for harm, mend in ((server.pause, server.resume), (server.kill, server.start)):
        await until(lambda: not store.trouble)
        assert (await take(store, bucket(limit=10**6))).admitted
        harm()
        slowest = 0.0
        for _ in range(300):
            began = time.monotonic()
            assert (await take(store, bucket(limit=10**6))).admitted
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 1
        assert store.trouble
        await asyncio.to_thread(mend)
        assert await until(lambda: not store.trouble) < 5


async def test_who_goes_away_takes_no_reply_from_the_others(
    redis_server: RedisServer, opened: Callable[..., object]
) -> None:
    store = await opened(redis_store(redis_server.url, SystemClock()))
    written = record("one")
    await store.sessions.put(written)
    tasks = [asyncio.ensure_future(store.sessions.get(written.name_hash)) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, Record) for one in outcomes[1::2])
    assert await store.sessions.get("0" * 64) is None


async def test_tls_is_spoken_to_whom_the_certificate_names(tmp_path: Path, opened: Callable[..., object]) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    port = free_port()
    server = RedisServer(
        f"tls-port {port}", "tls-auth-clients no", f"tls-cert-file {tmp_path}/cert.pem",
        f"tls-key-file {tmp_path}/key.pem",
    ).start()  # fmt: skip
    try:
        trusted = await opened(
            redis_store(f"rediss://127.0.0.1:{port}", SystemClock(), redis__ca=str(tmp_path / "ca.pem"))
        )
        assert trusted.trouble == ""
        assert (await take(trusted, bucket())).admitted
        stranger = await opened(redis_store(f"rediss://127.0.0.1:{port}", SystemClock()))
        assert "certificate verify failed" in stranger.trouble.lower()
        elsewhere = await opened(
            redis_store(f"rediss://localhost:{port}", SystemClock(), redis__ca=str(tmp_path / "ca.pem"))
        )
        assert elsewhere.trouble
    finally:
        server.close()


@pytest.mark.slow
async def test_a_cluster_has_all_keys_of_a_prefix_in_one_slot(opened: Callable[..., object]) -> None:
    server = RedisServer("cluster-enabled yes").start()
    try:
        store = await opened(redis_store(f"redis+cluster://127.0.0.1:{server.port}", SystemClock(), "clustered:"))
        assert "nobody owns slot" in store.trouble
        server.say("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await until(lambda: not store.trouble, 10)
        taken = await take(store, bucket(), bucket("quota::a", 5, 60, "quota"), bucket("api:login", 9))
        assert [counter.count for counter in taken.counters] == [1, 1, 1]
        await store.sessions.put(record("one", apis=("login", "portal")))
        await store.sessions.put(record("one", "other"))
        assert await store.sessions.count() == 2
        assert await store.sessions.organisations() == ["acme", "other"]
        store.decisions.append(decision(1))
        assert await store.decisions.get("r1") == decision(1)
        assert b"{clustered}:" in server.say("KEYS", "*")
        slots = {await store._side.ask("CLUSTER", "KEYSLOT", key) for key in await store._side.ask("KEYS", "*")}
        assert len(slots) == 1
    finally:
        server.close()


@pytest.mark.slow
async def test_sentinels_name_the_master_and_the_next_one(opened: Callable[..., object]) -> None:
    master = RedisServer().start()
    replica = RedisServer(f"replicaof 127.0.0.1 {master.port}").start()
    sentinel = RedisServer(
        f"sentinel monitor main 127.0.0.1 {master.port} 1", "sentinel down-after-milliseconds main 60000", sentinel=True
    ).start()
    try:
        places = f"127.0.0.1:1,127.0.0.1:{sentinel.port}"
        unknown = await opened(redis_store(f"redis+sentinel://{places}/nobody", SystemClock()))
        assert "knows no master of nobody" in unknown.trouble
        store = await opened(redis_store(f"redis+sentinel://{places}/main", SystemClock()))
        assert (await take(store, bucket())).admitted
        async with asyncio.timeout(20):
            while b"slave" not in sentinel.say("SENTINEL", "REPLICAS", "main"):
                await asyncio.sleep(0.1)
            while sentinel.say("SENTINEL", "FAILOVER", "main") != b"+OK\r\n":
                await asyncio.sleep(0.2)
        # The old master becomes a replica, says so, and the next one is asked for.
        await until(lambda: replica.say("ROLE").startswith(b"*3\r\n$6\r\nmaster"), 20)
        async with asyncio.timeout(20):
            while b":1\r\n" not in replica.say("EXISTS", f"{store._sessions._records}{record('one').name_hash}"):
                try:
                    await store.sessions.put(record("one"))
                except StoreUnavailable:
                    await asyncio.sleep(0.1)
    finally:
        for one in (sentinel, replica, master):
            one.close()
