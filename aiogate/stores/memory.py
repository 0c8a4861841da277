"""The store that keeps everything in this process and nothing on disk.

Its counters are also those of the SQLite store, which writes them behind: `take` is on the path of every request, so it
answers from a dictionary, synchronously, and leaves the rule itself to `domain.limits.decide` whenever anything is out
of the ordinary (a new window, a full bucket, a clock that was set back).
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from aiogate.clock import Clock
from aiogate.domain.limits import Bucket, Counter, Taken, decide
from aiogate.domain.session import Record, granted_apis
from aiogate.stores.base import CounterStore, DecisionStore, SessionStore, VaultStore
from aiogate.telemetry.decisions import Decision

__all__ = ["MemoryCounters", "MemoryDecisions", "MemorySessions", "MemoryStore", "MemoryVault"]

_SWEPT_PER_TAKE: Final = 32
_LONG: Final = 120.0

# What the generated constructor of a named tuple does, without a call through Python.
_tuple = tuple.__new__


class MemoryStore:
    """Sessions, counters and decisions of one process, gone when it ends."""

    name = "memory"
    trouble = ""
    needed = True
    peers = None

    def __init__(self, clock: Clock) -> None:
        self._sessions = MemorySessions(clock)
        self._counters = MemoryCounters()
        self._decisions = MemoryDecisions()
        self._vault = MemoryVault(clock)

    @property
    def sessions(self) -> SessionStore:
        return self._sessions

    @property
    def counters(self) -> CounterStore:
        return self._counters

    @property
    def decisions(self) -> DecisionStore:
        return self._decisions

    @property
    def vault(self) -> VaultStore:
        return self._vault

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to let go of."""


class MemorySessions:
    """Records in a dictionary. Each write counts the record's revision up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._records: dict[str, tuple[Record, frozenset[str]]] = {}
        self._names: list[str] | None = None

    async def get(self, name_hash: str) -> Record | None:
        found = self._records.get(name_hash)
        if found is None or self._ended(found[0]):
            return None
        return found[0]

    async def put(self, record: Record) -> None:
        known = self._records.get(record.name_hash)
        if known is None:
            self._names = None
        revision = known[0].revision + 1 if known is not None else 1
        self._records[record.name_hash] = (replace(record, revision=revision), granted_apis(record.document))

    async def delete(self, name_hash: str) -> bool:
        found = self._records.pop(name_hash, None)
        if found is None:
            return False
        self._names = None
        return not self._ended(found[0])

    async def page(
        self, *, org: str | None = None, api: str | None = None, prefix: str = "", after: str = "", limit: int = 100
    ) -> Sequence[Record]:
        return list(islice(self._matching(org, api, prefix, after), max(0, limit)))

    async def count(self, *, org: str | None = None, api: str | None = None, prefix: str = "") -> int:
        return sum(1 for _ in self._matching(org, api, prefix, ""))

    async def organisations(self) -> Sequence[str]:
        return sorted({record.org for record, _ in self._records.values() if not self._ended(record)})

    def _matching(self, org: str | None, api: str | None, prefix: str, after: str) -> Iterable[Record]:
        if self._names is None:
            self._names = sorted(self._records)
        names = self._names
        for index in range(bisect_right(names, after), len(names)):
            record, apis = self._records[names[index]]
            if (
                (org is None or record.org == org)
                and (api is None or api in apis)
                and record.label.startswith(prefix)
                and not self._ended(record)
            ):
                yield record

    def _ended(self, record: Record) -> bool:
        return bool(record.delete_at) and record.delete_at <= self._clock.now()


class _Endings:
    """Which windows end when, so that ended ones can be swept a few at a time.

    Keys stand in slots of a second (of a minute, for long windows); a heap orders the slots. A key that was opened
    again before its slot came up stands in a later slot too, and is left alone by the earlier one.
    """

    __slots__ = ("_heap", "_slots", "next")

    def __init__(self) -> None:
        self._slots: dict[int, list[str]] = {}
        self._heap: list[int] = []
        self.next = float("inf")
        """When the earliest slot has ended."""

    def add(self, key: str, ends: float, now: float) -> None:
        slot = int(ends) + 1
        if ends - now > _LONG:
            slot = (slot // 64 + 1) * 64
        keys = self._slots.get(slot)
        if keys is None:
            self._slots[slot] = [key]
            heapq.heappush(self._heap, slot)
            self.next = self._heap[0]
        else:
            keys.append(key)

    def pop(self, most: int) -> list[str]:
        """At most `most` keys of the earliest slot."""
        if not self._heap:
            return []
        slot = self._heap[0]
        keys = self._slots[slot]
        popped = keys[-most:]
        del keys[-most:]
        if not keys:
            heapq.heappop(self._heap)
            del self._slots[slot]
            self.next = self._heap[0] if self._heap else float("inf")
        return popped


class MemoryCounters:
    """Counters in a dictionary; `take` answers at once.

    Ended windows are swept with the takes that follow, a few each, so that nothing ever stops for a sweep. At most
    `capacity` windows other than quotas are open; past that the one that ends first is forgotten.
    """

    asks = False

    def __init__(self, *, capacity: int = 1_000_000) -> None:
        self._capacity = capacity
        self._live: dict[str, Counter] = {}
        self._rates = _Endings()
        self._quotas = _Endings()
        self._open_rates = 0
        self._sweep_at = float("inf")
        self._dirty: dict[str, Counter] | None = None

    def take(self, buckets: Sequence[Bucket], now: float) -> Taken:
        """Take every bucket or none, by `domain.limits.decide`."""
        if now >= self._sweep_at:
            self._sweep(now)
        # The ordinary case of one and of two buckets, written out: open windows, none of them full.
        live = self._live
        if len(buckets) == 2:
            first, second = buckets
            one, two = live.get(first.key), live.get(second.key)
            if one is not None and two is not None:
                count, ends = one
                other_count, other_ends = two
                if (
                    count < first.limit
                    and now < ends <= now + first.window
                    and other_count < second.limit
                    and now < other_ends <= now + second.window
                ):
                    live[first.key] = one = _tuple(Counter, (count + 1, ends))
                    live[second.key] = two = _tuple(Counter, (other_count + 1, other_ends))
                    if (dirty := self._dirty) is not None:
                        dirty[first.key] = one
                        dirty[second.key] = two
                    return _tuple(Taken, (-1, (one, two)))
        elif len(buckets) == 1:
            (first,) = buckets
            one = live.get(first.key)
            if one is not None:
                count, ends = one
                if count < first.limit and now < ends <= now + first.window:
                    live[first.key] = one = _tuple(Counter, (count + 1, ends))
                    if (dirty := self._dirty) is not None:
                        dirty[first.key] = one
                    return _tuple(Taken, (-1, (one,)))
        return self._take_with_care(buckets, now)

    def begin(self, key: str, counter: Counter, now: float) -> None:
        """Count on from `counter`, unless a window is open here that has counted as much."""
        known = self._open_window(key, now)
        if counter.count > (known.count if known is not None else 0):
            self._keep(key, self._live.get(key), counter, now)

    async def read(self, keys: Sequence[str], now: float) -> Sequence[Counter | None]:
        return [self._open_window(key, now) for key in keys]

    async def reset(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._drop(key)

    def __len__(self) -> int:
        """How many windows are kept, ended ones included that have not been swept."""
        return len(self._live)

    def _take_with_care(self, buckets: Sequence[Bucket], now: float) -> Taken:
        live = self._live
        before = [live.get(bucket.key) for bucket in buckets]
        taken = decide(buckets, before, now)
        for bucket, stored, counter in zip(buckets, before, taken.counters, strict=True):
            if counter.count and counter != stored:
                self._keep(bucket.key, stored, counter, now)
        return taken

    def _keep(self, key: str, stored: Counter | None, counter: Counter, now: float) -> None:
        self._live[key] = counter
        if self._dirty is not None:
            self._dirty[key] = counter
        quota = key.startswith("quota:")
        if stored is None and not quota:
            self._open_rates += 1
            if self._open_rates > self._capacity:
                self._evict()
        if counter.ends and (stored is None or stored.ends != counter.ends):
            (self._quotas if quota else self._rates).add(key, counter.ends, now)
            self._sweep_at = min(self._rates.next, self._quotas.next)

    def _open_window(self, key: str, now: float) -> Counter | None:
        counter = self._live.get(key)
        return None if counter is None or (counter.ends and counter.ends <= now) else counter

    def _sweep(self, now: float) -> None:
        for endings in (self._rates, self._quotas):
            if endings.next <= now:
                for key in endings.pop(_SWEPT_PER_TAKE):
                    counter = self._live.get(key)
                    if counter is not None and counter.ends and counter.ends <= now:
                        self._drop(key)
        self._sweep_at = min(self._rates.next, self._quotas.next)

    def _evict(self) -> None:
        while self._open_rates > self._capacity:
            keys = self._rates.pop(1)
            if not keys:
                return
            self._drop(keys[0])

    def _drop(self, key: str) -> None:
        if self._live.pop(key, None) is not None and not key.startswith("quota:"):
            self._open_rates -= 1
        if self._dirty is not None:
            self._dirty.pop(key, None)


class MemoryDecisions:
    """The last `capacity` decisions."""

    dropped = 0

    def __init__(self, *, capacity: int = 10_000) -> None:
        self._kept: deque[Decision] = deque()
        self._capacity = capacity
        self._by_request: dict[str, Decision] = {}

    def append(self, decision: Decision) -> None:
        if len(self._kept) >= self._capacity:
            oldest = self._kept.popleft()
            if self._by_request.get(oldest.request_id) is oldest:
                del self._by_request[oldest.request_id]
        self._kept.append(decision)
        known = self._by_request.get(decision.request_id)
        # What a shadow rule would have refused is not why the request was refused.
        if known is None or known.shadow or not decision.shadow:
            self._by_request[decision.request_id] = decision

    async def get(self, request_id: str) -> Decision | None:
        return self._by_request.get(request_id)

    async def latest(
        self, limit: int = 100, *, api: str | None = None, shadow: bool | None = None
    ) -> Sequence[Decision]:
        matching = (
            decision
            for decision in reversed(self._kept)
            if (api is None or decision.api == api) and (shadow is None or decision.shadow == shadow)
        )
        return list(islice(matching, max(0, limit)))


class MemoryVault:
    """Documents in a dictionary. Those that ended go with the writes that follow."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._documents: dict[str, tuple[bytes, float, tuple[str, ...]]] = {}
        self._groups: dict[str, set[str]] = {}
        self._ends: list[tuple[float, str]] = []

    async def get(self, name: str) -> bytes | None:
        known = self._live(name)
        return None if known is None else known[0]

    async def put(self, name: str, document: bytes, *, until: float = 0.0, groups: Sequence[str] = ()) -> None:
        self._sweep()
        self._drop(name)
        self._keep(name, document, until, tuple(groups))

    async def swap(self, name: str, document: bytes, *, until: float = 0.0) -> bytes | None:
        known = self._live(name)
        if known is None:
            return None
        self._keep(name, document, until, known[2])
        return known[0]

    async def take(self, name: str) -> bytes | None:
        known = self._live(name)
        self._drop(name)
        return None if known is None else known[0]

    async def page(self, group: str, *, after: str = "", limit: int = 100) -> Sequence[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        for name in sorted(name for name in self._groups.get(group, ()) if name > after):
            known = self._live(name)
            if known is not None and len(found) < limit:
                found.append((name, known[0]))
        return found

    def _live(self, name: str) -> tuple[bytes, float, tuple[str, ...]] | None:
        known = self._documents.get(name)
        return None if known is None or 0 < known[1] <= self._clock.now() else known

    def _keep(self, name: str, document: bytes, until: float, groups: tuple[str, ...]) -> None:
        self._documents[name] = (document, until, groups)
        for group in groups:
            self._groups.setdefault(group, set()).add(name)
        if until > 0:
            heapq.heappush(self._ends, (until, name))

    def _drop(self, name: str) -> None:
        known = self._documents.pop(name, None)
        for group in known[2] if known is not None else ():
            self._groups[group].discard(name)
            if not self._groups[group]:
                del self._groups[group]

    def _sweep(self) -> None:
        now = self._clock.now()
        for _ in range(_SWEPT_PER_TAKE):
            if not self._ends or self._ends[0][0] > now:
                return
            ended, name = heapq.heappop(self._ends)
            known = self._documents.get(name)
            if known is not None and known[1] == ended:
                self._drop(name)
