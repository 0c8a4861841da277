"""The limit step: every bucket of a request, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from aiogate import PROBLEMS, Bucket, Grant
from aiogate.chain import limit as limits
from aiogate.chain.exchange import Exchange, Response
from aiogate.config.definition import SessionLimits
from aiogate.domain.limits import Counter, Taken
from aiogate.errors import Position, Problem
from aiogate.stores.base import CounterStore
from aiogate.testing import FakeClock, make_exchange, make_services

RATE = Bucket("rate", 2, 10, "rate")
QUOTA = Bucket("quota", 3, 100, "quota")
API = limits.Contribution(
    Bucket("api", 2, 60, "api_rate"), PROBLEMS["api_rate_limited"], None, Position("a.yaml", 3, 5)
)


class AskingCounters:
    """The same counters, behind an await: as a store on another machine answers."""

    asks = True

    def __init__(self, counters: CounterStore) -> None:
        self.counters = counters

    async def take(self, buckets: Sequence[Bucket], now: float) -> Taken:
        await asyncio.sleep(0)
        taken = self.counters.take(buckets, now)
        assert isinstance(taken, Taken)
        return taken

    async def read(self, keys: Sequence[str], now: float) -> Sequence[Counter | None]:
        return await self.counters.read(keys, now)

    async def reset(self, keys: Sequence[str]) -> None:
        await self.counters.reset(keys)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


@pytest.fixture(params=["at once", "asked"])
def counters(request: pytest.FixtureRequest, clock: FakeClock) -> Any:
    own = make_services(clock).counters
    return own if request.param == "at once" else AskingCounters(own)


class Step:
    def __init__(
        self, counters: Any, clock: FakeClock, *contributions: limits.Contribution, status: int = 403, **session: bool
    ) -> None:
        self.call: Any = limits.limit(contributions, SessionLimits(**session), counters, clock, status)

    async def take(self, grant: Grant | None, **request: Any) -> tuple[Problem | None, Exchange]:
        exchange = make_exchange(**request)
        exchange.grant = grant
        answer = self.call(exchange)
        return (await answer if isinstance(answer, Awaitable) else answer), exchange


BOTH = Grant(buckets=(RATE, QUOTA), quota=1)


async def counts(counters: Any, clock: FakeClock) -> list[int]:
    return [counter.count if counter else 0 for counter in await counters.read(["rate", "quota", "api"], clock.now())]


async def test_a_refusal_takes_nothing(counters: Any, clock: FakeClock) -> None:
    step = Step(counters, clock, API)
    for _ in range(2):
        assert (await step.take(BOTH))[0] is None
    assert await counts(counters, clock) == [2, 2, 2]
    for _ in range(5):
        problem, _ = await step.take(BOTH)
        assert problem is not None
        assert problem.code == "rate_limited"
    assert await counts(counters, clock) == [2, 2, 2]

    clock.advance(10)
    problem, exchange = await step.take(BOTH)
    assert problem is not None
    assert (problem.code, problem.position, dict(problem.headers)) == (
        "api_rate_limited", Position("a.yaml", 3, 5), {"Retry-After": "50"},
    )  # fmt: skip
    assert exchange.quota_shown == (3, 1, 1100)
    assert await counts(counters, clock) == [0, 2, 2]


@pytest.mark.parametrize("status", [403, 429])
async def test_a_quota_refuses_with_the_status_of_the_settings(counters: Any, clock: FakeClock, status: int) -> None:
    step = Step(counters, clock, status=status)
    grant = Grant(buckets=(QUOTA,), quota=0)
    for left in (2, 1, 0):
        problem, exchange = await step.take(grant)
        assert (problem, exchange.quota_shown) == (None, (3, left, 1100))
    clock.advance(99.5)
    problem, exchange = await step.take(grant)
    assert problem is not None
    assert (problem.code, problem.status, dict(problem.headers)) == ("quota_exceeded", status, {"Retry-After": "1"})
    assert exchange.quota_shown == (3, 0, 1100)
    assert problem.detail == "bucket quota: 3 requests per 100 s are used up; it renews at 1100"


async def test_a_quota_without_renewal_has_no_retry_after(counters: Any, clock: FakeClock) -> None:
    step = Step(counters, clock)
    grant = Grant(buckets=(Bucket("quota", 1, 0, "quota"),), quota=0)
    await step.take(grant)
    problem, exchange = await step.take(grant)
    assert problem is not None
    assert (problem.headers, exchange.quota_shown) == ((), (1, 0, 0))
    assert problem.detail.endswith("1 requests per ever are used up; it never renews")


async def test_no_bucket_is_shown_as_unlimited_and_an_open_api_shows_nothing(counters: Any, clock: FakeClock) -> None:
    step = Step(counters, clock)
    assert (await step.take(Grant()))[1].quota_shown == (-1, -1, 0)
    assert (await step.take(None))[1].quota_shown is None
    assert (await Step(counters, clock, API).take(None))[1].quota_shown is None
    assert (await Step(counters, clock).take(Grant(buckets=(RATE,))))[1].quota_shown == (-1, -1, 0)


@pytest.mark.parametrize("dropped, kept", [("rate", "quota"), ("quota", "rate")])
async def test_an_api_may_drop_the_sessions_limits(counters: Any, clock: FakeClock, dropped: str, kept: str) -> None:
    step = Step(counters, clock, **{dropped: False})
    _, exchange = await step.take(BOTH)
    assert dict(zip(["rate", "quota", "api"], await counts(counters, clock), strict=True)) == {
        dropped: 0, kept: 1, "api": 0,
    }  # fmt: skip
    assert exchange.quota_shown == ((3, 2, 1100) if kept == "quota" else (-1, -1, 0))


async def test_a_throttled_session_waits_and_tries_again(
    counters: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float, *_: Any) -> None:
        if seconds:
            slept.append(seconds)
            clock.advance(seconds)

    monkeypatch.setattr(limits.asyncio, "sleep", sleep)
    step = Step(counters, clock)
    grant = Grant(buckets=(RATE,), throttle_interval=4.0, throttle_retries=3)
    for _ in range(2):
        await step.take(grant)
    assert (await step.take(grant))[0] is None
    assert slept == [4.0, 4.0, 4.0], "the window of ten seconds ends during the third wait"

    slept.clear()
    impatient = Grant(buckets=(RATE,), throttle_interval=1.0, throttle_retries=2)
    await step.take(impatient)
    problem, _ = await step.take(impatient)
    assert problem is not None
    assert (problem.code, slept, dict(problem.headers)) == ("rate_limited", [1.0, 1.0], {"Retry-After": "8"})


async def test_a_quota_is_not_waited_for(counters: Any, clock: FakeClock) -> None:
    step = Step(counters, clock)
    grant = Grant(buckets=(Bucket("quota", 1, 100, "quota"),), quota=0, throttle_interval=60, throttle_retries=9)
    await step.take(grant)
    problem, _ = await step.take(grant)
    assert problem is not None
    assert problem.code == "quota_exceeded"


def test_the_headers_carry_the_quota() -> None:
    exchange = make_exchange()
    response = Response()
    limits.show_quota(exchange, response)
    assert dict(response.headers) == {}
    exchange.quota_shown = (10, 3, 1234)
    limits.show_quota(exchange, response)
    assert dict(response.headers) == {
        "X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "1234",
    }  # fmt: skip
