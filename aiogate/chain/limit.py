"""Stage LIMIT: one step that takes every bucket of a request at once, or none.

The session brings its own buckets (rate, then quota), plugins contribute theirs while compiling (the API-wide limit).
Whether the store answers from memory or has to be asked is known while compiling, so a request on an embedded store
awaits nothing here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast

from aiogate.chain.exchange import SameNames
from aiogate.domain.limits import Bucket, Taken
from aiogate.errors import PROBLEMS, Position, Problem

if TYPE_CHECKING:
    from aiogate.chain.contracts import OnRequest
    from aiogate.chain.exchange import Exchange, Response
    from aiogate.clock import Clock
    from aiogate.config.definition import Match, SessionLimits
    from aiogate.domain.session import Grant
    from aiogate.stores.base import CounterStore

__all__ = ["Contribution", "limit", "shadow_limit", "show_quota"]

UNLIMITED: Final = (-1, -1, 0)
_QUOTA: Final = SameNames(b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset")


@dataclass(frozen=True, slots=True)
class Contribution:
    """A bucket that a plugin adds to each request that it matches."""

    bucket: Bucket
    problem: Problem
    match: Match | None
    position: Position

    def applies(self, exchange: Exchange) -> bool:
        return self.match is None or self.match.applies(exchange.method, exchange.tail, exchange.version or "")


def limit(
    contributions: Sequence[Contribution],
    session_limits: SessionLimits,
    counters: CounterStore,
    clock: Clock,
    quota_status: int,
    *,
    organisation: Callable[[], tuple[Contribution, ...]] | None = None,
) -> OnRequest:
    """The limit step of one API and version.

    `quota_status` is the status of a refusal by quota: 403 as Tyk, or 429. `organisation` gives the buckets of the
    API's organisation as they are at the moment; None: it has no session.
    """
    return _Limits(contributions, session_limits, counters, clock, quota_status, organisation).take


class _Limits:
    """What the limit step of one API and version needs. One object and no closures: a request touches little of it."""

    __slots__ = (
        "_always",
        "_clock",
        "_counters",
        "_dropped",
        "_organisation",
        "_own_only",
        "_quota_status",
        "_refusals",
        "_sometimes",
    )

    def __init__(
        self,
        contributions: Sequence[Contribution],
        session_limits: SessionLimits,
        counters: CounterStore,
        clock: Clock,
        quota_status: int,
        organisation: Callable[[], tuple[Contribution, ...]] | None,
    ) -> None:
        self._always = tuple(contribution for contribution in contributions if contribution.match is None)
        self._sometimes = tuple(contribution for contribution in contributions if contribution.match is not None)
        self._counters = counters
        self._clock = clock
        self._organisation = organisation
        self._quota_status = quota_status
        self._dropped = frozenset(
            kind for kind, wanted in (("rate", session_limits.rate), ("quota", session_limits.quota)) if not wanted
        )
        self._own_only = not contributions and organisation is None and not self._dropped
        """Whether the buckets of a request are those of its session, as they stand."""
        self._refusals = {"rate": PROBLEMS["rate_limited"], "quota": _quota_exceeded(quota_status)}

    def take(self, exchange: Exchange) -> Problem | None | Awaitable[Problem | None]:
        grant = exchange.grant
        buckets = grant.buckets if grant is not None else ()
        extra: Sequence[Contribution] = ()
        if not self._own_only:
            if self._dropped:
                buckets = tuple(bucket for bucket in buckets if bucket.kind not in self._dropped)
            extra = self._always
            if self._sometimes:
                extra = (*extra, *(contribution for contribution in self._sometimes if contribution.applies(exchange)))
            if self._organisation is not None:
                extra = (*extra, *self._organisation())
            if extra:
                buckets = (*buckets, *[contribution.bucket for contribution in extra])
        if not buckets:
            if grant is not None:
                exchange.quota_shown = UNLIMITED
            return None
        now = self._clock.now()
        answer = self._counters.take(buckets, now)
        if type(answer) is Taken:
            if answer.refused < 0:
                self._note_quota(exchange, grant, buckets, answer)
                return None
            if grant is not None and grant.throttle_retries and buckets[answer.refused].kind == "rate":
                return self._throttle(exchange, grant, buckets, extra, answer)
            return self._refuse(exchange, grant, buckets, extra, answer, now)
        return self._settle(exchange, grant, buckets, extra, cast("Awaitable[Taken]", answer), now)

    async def _settle(
        self,
        exchange: Exchange,
        grant: Grant | None,
        buckets: Sequence[Bucket],
        extra: Sequence[Contribution],
        pending: Awaitable[Taken],
        now: float,
    ) -> Problem | None:
        taken = await pending
        if taken.refused < 0:
            self._note_quota(exchange, grant, buckets, taken)
            return None
        if grant is not None and grant.throttle_retries and buckets[taken.refused].kind == "rate":
            return await self._throttle(exchange, grant, buckets, extra, taken)
        return self._refuse(exchange, grant, buckets, extra, taken, now)

    async def _throttle(
        self, exchange: Exchange, grant: Grant, buckets: Sequence[Bucket], extra: Sequence[Contribution], taken: Taken
    ) -> Problem | None:
        """Wait and try again instead of refusing at once (spec/session.md section 6, throttling)."""
        for _ in range(grant.throttle_retries):
            await asyncio.sleep(grant.throttle_interval)
            asked = self._counters.take(buckets, self._clock.now())
            taken = asked if isinstance(asked, Taken) else await asked
            if taken.refused < 0:
                self._note_quota(exchange, grant, buckets, taken)
                return None
            if buckets[taken.refused].kind != "rate":
                break
        return self._refuse(exchange, grant, buckets, extra, taken, self._clock.now())

    def _refuse(
        self,
        exchange: Exchange,
        grant: Grant | None,
        buckets: Sequence[Bucket],
        extra: Sequence[Contribution],
        taken: Taken,
        now: float,
    ) -> Problem:
        self._note_quota(exchange, grant, buckets, taken)
        bucket = buckets[taken.refused]
        ends = taken.counters[taken.refused].ends
        own = len(buckets) - len(extra)
        if taken.refused < own:
            problem = self._refusals[bucket.kind]
            position = None
        else:
            contribution = extra[taken.refused - own]
            problem, position = contribution.problem, contribution.position
            if bucket.kind == "organisation_quota":
                problem = replace(problem, status=self._quota_status)
        return explain(problem, bucket, ends, now, position)

    def _note_quota(self, exchange: Exchange, grant: Grant | None, buckets: Sequence[Bucket], taken: Taken) -> None:
        if grant is None:
            return
        if self._dropped:
            index = next((number for number, bucket in enumerate(buckets) if bucket.kind == "quota"), -1)
        else:
            index = grant.quota
        if index < 0:
            exchange.quota_shown = UNLIMITED
        else:
            most = buckets[index].limit
            count, ends = taken.counters[index]
            exchange.quota_shown = (most, most - count if count < most else 0, int(ends))


@lru_cache(maxsize=4)
def _quota_exceeded(status: int) -> Problem:
    return replace(PROBLEMS["quota_exceeded"], status=status)


def explain(problem: Problem, bucket: Bucket, ends: float, now: float, position: Position | None) -> Problem:
    """The refusal with Retry-After (where the window renews) and the private reason."""
    renews = f"renews at {ends:.0f}" if ends else "never renews"
    window = f"{bucket.window:g} s" if bucket.window > 0 else "ever"
    detail = f"bucket {bucket.key}: {bucket.limit} requests per {window} are used up; it {renews}"
    headers = problem.headers
    if ends:
        headers = (*headers, ("Retry-After", str(max(1, math.ceil(ends - now)))))
    return replace(problem, detail=detail, headers=headers, position=position or problem.position)


def shadow_limit(contribution: Contribution, counters: CounterStore, clock: Clock) -> OnRequest:
    """A contributed bucket in shadow mode: taken by itself, so that it never holds back the buckets in force."""

    async def take(exchange: Exchange) -> Problem | None:
        if not contribution.applies(exchange):
            return None
        now = clock.now()
        asked = counters.take((contribution.bucket,), now)
        taken = asked if isinstance(asked, Taken) else await asked
        if taken.refused < 0:
            return None
        return explain(contribution.problem, contribution.bucket, taken.counters[0].ends, now, contribution.position)

    return take


def show_quota(exchange: Exchange, response: Response) -> None:
    """`X-RateLimit-*` carry quota values, as in Tyk (spec/session.md section 7). Open APIs send none."""
    shown = exchange.quota_shown
    if shown is not None:
        most, left, ends = shown
        response.put(
            _QUOTA,
            (b"X-RateLimit-Limit", b"%d" % most),
            (b"X-RateLimit-Remaining", b"%d" % left),
            (b"X-RateLimit-Reset", b"%d" % ends),
        )
