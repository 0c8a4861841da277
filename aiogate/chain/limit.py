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
from typing import TYPE_CHECKING, cast

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

UNLIMITED = (-1, -1, 0)


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
    always = tuple(contribution for contribution in contributions if contribution.match is None)
    sometimes = tuple(contribution for contribution in contributions if contribution.match is not None)
    dropped = frozenset(
        kind for kind, wanted in (("rate", session_limits.rate), ("quota", session_limits.quota)) if not wanted
    )
    refusals = {"rate": PROBLEMS["rate_limited"], "quota": replace(PROBLEMS["quota_exceeded"], status=quota_status)}

    def take(exchange: Exchange) -> Problem | None | Awaitable[Problem | None]:
        grant = exchange.grant
        buckets = grant.buckets if grant is not None else ()
        if dropped:
            buckets = tuple(bucket for bucket in buckets if bucket.kind not in dropped)
        extra = always
        if sometimes:
            extra = (*always, *(contribution for contribution in sometimes if contribution.applies(exchange)))
        if organisation is not None:
            extra = (*extra, *organisation())
        if extra:
            buckets = (*buckets, *(contribution.bucket for contribution in extra))
        if not buckets:
            if grant is not None:
                exchange.quota_shown = UNLIMITED
            return None
        now = clock.now()
        answer = counters.take(buckets, now)
        if type(answer) is Taken:
            if answer.refused < 0:
                note_quota(exchange, grant, buckets, answer)
                return None
            if grant is not None and grant.throttle_retries and buckets[answer.refused].kind == "rate":
                return throttle(exchange, grant, buckets, extra, answer)
            return refuse(exchange, grant, buckets, extra, answer, now)
        return settle(exchange, grant, buckets, extra, cast("Awaitable[Taken]", answer), now)

    async def settle(
        exchange: Exchange,
        grant: Grant | None,
        buckets: Sequence[Bucket],
        extra: Sequence[Contribution],
        pending: Awaitable[Taken],
        now: float,
    ) -> Problem | None:
        taken = await pending
        if taken.refused < 0:
            note_quota(exchange, grant, buckets, taken)
            return None
        if grant is not None and grant.throttle_retries and buckets[taken.refused].kind == "rate":
            return await throttle(exchange, grant, buckets, extra, taken)
        return refuse(exchange, grant, buckets, extra, taken, now)

    async def throttle(
        exchange: Exchange, grant: Grant, buckets: Sequence[Bucket], extra: Sequence[Contribution], taken: Taken
    ) -> Problem | None:
        """Wait and try again instead of refusing at once (spec/session.md section 6, throttling)."""
        for _ in range(grant.throttle_retries):
            await asyncio.sleep(grant.throttle_interval)
            asked = counters.take(buckets, clock.now())
            taken = asked if isinstance(asked, Taken) else await asked
            if taken.refused < 0:
                note_quota(exchange, grant, buckets, taken)
                return None
            if buckets[taken.refused].kind != "rate":
                break
        return refuse(exchange, grant, buckets, extra, taken, clock.now())

    def refuse(
        exchange: Exchange,
        grant: Grant | None,
        buckets: Sequence[Bucket],
        extra: Sequence[Contribution],
        taken: Taken,
        now: float,
    ) -> Problem:
        note_quota(exchange, grant, buckets, taken)
        bucket = buckets[taken.refused]
        ends = taken.counters[taken.refused].ends
        own = len(buckets) - len(extra)
        if taken.refused < own:
            problem = refusals[bucket.kind]
            position = None
        else:
            contribution = extra[taken.refused - own]
            problem, position = contribution.problem, contribution.position
            if bucket.kind == "organisation_quota":
                problem = replace(problem, status=quota_status)
        return explain(problem, bucket, ends, now, position)

    def note_quota(exchange: Exchange, grant: Grant | None, buckets: Sequence[Bucket], taken: Taken) -> None:
        if grant is None:
            return
        if dropped:
            index = next((number for number, bucket in enumerate(buckets) if bucket.kind == "quota"), -1)
        else:
            index = grant.quota
        if index < 0:
            exchange.quota_shown = UNLIMITED
        else:
            most = buckets[index].limit
            count, ends = taken.counters[index]
            exchange.quota_shown = (most, most - count if count < most else 0, int(ends))

    return take


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
        response.put(
            (
                (b"X-RateLimit-Limit", b"%d" % shown[0]),
                (b"X-RateLimit-Remaining", b"%d" % shown[1]),
                (b"X-RateLimit-Reset", b"%d" % shown[2]),
            )
        )
