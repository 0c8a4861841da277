"""How limits count: fixed windows that begin with the first admitted request; all buckets of a request, or none.

A store keeps one `Counter` per bucket key. `decide` is the whole rule; a store calls it with the counters it has and
writes back what it answers. Refused requests are not counted (differences.md, "Limits").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Bucket", "Counter", "Taken", "decide"]


@dataclass(frozen=True, slots=True)
class Bucket:
    """At most `limit` admitted requests per `window` seconds, counted under `key`.

    `window <= 0`: never renews. `kind` is `rate`, `quota` or `api_rate`; it chooses the refusal and, for `quota`, the
    durability of the count.
    """

    key: str
    limit: int
    window: float
    kind: str


class Counter(NamedTuple):
    """Admitted requests since the window began, and when it ends (epoch seconds; 0: never)."""

    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody asks a counter for
    ends: float


class Taken(NamedTuple):
    """What became of one request's buckets.

    `refused` is the index of the first bucket that is full, or -1: all were taken. `counters` are the counts after the
    decision, one per bucket, in order; a bucket without an open window shows the one that would open now, with 0.
    """

    refused: int
    counters: tuple[Counter, ...]

    @property
    def admitted(self) -> bool:
        return self.refused < 0


def decide(buckets: Sequence[Bucket], counters: Sequence[Counter | None], now: float) -> Taken:
    """Take every bucket, or none.

    `counters` are the stored counts in the order of `buckets`, None where nothing was counted yet. An ended window is
    as good as none. A window that seems to end later than it could have begun (the clock was set back, or the bucket's
    window got shorter) is cut to its length from now, so that nobody is locked out for longer than one window.

    A store writes back the counters that have a count. One with 0 is only an answer: a window begins with the first
    admitted request, so a refused one must not open it.
    """
    current: list[Counter] = []
    refused = -1
    for index, (bucket, stored) in enumerate(zip(buckets, counters, strict=True)):
        if stored is None or (stored.ends and stored.ends <= now):
            counter = Counter(0, now + bucket.window if bucket.window > 0 else 0.0)
        elif bucket.window > 0 and (stored.ends == 0 or stored.ends > now + bucket.window):
            counter = Counter(stored.count, now + bucket.window)
        else:
            counter = stored
        if counter.count >= bucket.limit and refused < 0:
            refused = index
        current.append(counter)
    if refused < 0:
        current = [Counter(counter.count + 1, counter.ends) for counter in current]
    return Taken(refused, tuple(current))
