"""Per-API rates for `/tyk/health`, worked out when somebody asks: nothing runs for them in the meantime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aiogate.chain.compile import CompiledApi
    from aiogate.clock import Clock

__all__ = ["ApiHealth", "HealthSampler"]

SHORTEST_SPAN: Final = 10.0
"""Seconds that a rate is averaged over at least, once the API has been asked about for that long."""


@dataclass(frozen=True, slots=True)
class ApiHealth:
    """Averages since the sample before. Rates are per second, latency is in milliseconds."""

    throttled_per_second: float
    quota_violations_per_second: float
    key_failures_per_second: float
    average_upstream_latency: float
    requests_per_second: float


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    requests: int = 0
    rate_refused: int = 0
    quota_refused: int = 0
    key_failures: int = 0
    upstream_calls: int = 0
    upstream_seconds: float = 0.0


class HealthSampler:
    """Remembers, per API, the counts at the beginning of the span that is averaged over."""

    __slots__ = ("_clock", "_spans", "_started")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started = clock.monotonic()
        self._spans: dict[str, tuple[_Sample, _Sample]] = {}

    def of(self, api: CompiledApi) -> ApiHealth:
        """The averages over the current span. A new span begins at the first question after `SHORTEST_SPAN`."""
        counts = api.counts
        now = _Sample(
            self._clock.monotonic(), counts.requests, counts.rate_refused, counts.quota_refused,
            counts.key_failures, counts.upstream_calls, counts.upstream_seconds,
        )  # fmt: skip
        known = self._spans.get(api.id)
        since, middle = known or (_Sample(self._started), _Sample(self._started))
        if now.at - middle.at >= SHORTEST_SPAN:
            since, middle = middle, now
        self._spans[api.id] = (since, middle)
        return _averages(since, now)


def _averages(since: _Sample, now: _Sample) -> ApiHealth:
    span = max(now.at - since.at, 0.001)
    calls = now.upstream_calls - since.upstream_calls
    seconds = now.upstream_seconds - since.upstream_seconds
    return ApiHealth(
        throttled_per_second=(now.rate_refused - since.rate_refused) / span,
        quota_violations_per_second=(now.quota_refused - since.quota_refused) / span,
        key_failures_per_second=(now.key_failures - since.key_failures) / span,
        average_upstream_latency=seconds / calls * 1000 if calls else 0.0,
        requests_per_second=(now.requests - since.requests) / span,
    )
