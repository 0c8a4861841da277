"""What clients of two gateways are promised while their Redis is harmed, and whether it was kept.

A third gateway with a Redis of its own, which nothing happens to, is asked by the same clients at the same moments.
What a request takes there is what one takes without the fault, whatever else the machine does meanwhile; so the latency
is compared with that, and what it was before the fault is shown beside it.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import aiohttp

from aiogate.testing import GatewayProcess

__all__ = ["COLUMNS", "LIMIT", "NODES", "WINDOW", "Load", "Seen", "Verdict", "judge"]

NODES = 2
"""Gateways that share the Redis that is harmed."""
LIMIT, WINDOW = 40, 1
"""Of the API that everybody may call: so many requests in so many seconds."""
EVERY = 0.01
"""Seconds between two requests of one client."""
KINDS = ("known", "unknown", "limited")
FIRST = 0.3
"""Seconds in which the first three calls are late, one after the other."""
SLICE = 3.0
"""Seconds of which a 99th percentile is taken; the figure is the median of these."""
FIRST_LATE, SLOWER, OVER_NODE, OVER_ALL, BACK = 0.060, 1.2, 1.05, 1.1, 2.0
COLUMNS = ("served", "p99 before", "unharmed", "at first", "then", "unknown key", "node/window", "all/limit", "in step")


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer: when it was asked for, by whom, of which node, its status (0: none came), its seconds."""

    at: float
    kind: str
    node: int
    status: int
    took: float
    retry_after: bool = False


@dataclass
class Load:
    """Clients that ask in an open loop: a request is due every few milliseconds, whatever became of the last one.

    The last of `gateways` is the one that nothing happens to. `known` are keys, one for each.
    """

    gateways: Sequence[GatewayProcess]
    known: Sequence[str]
    seen: list[Seen] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, until: Callable[[], bool]) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            due = time.monotonic()
            number = 0
            while not until():
                for node, gateway in enumerate(self.gateways):
                    for kind in KINDS:
                        if kind != "unknown" or number % 10 == 0:
                            task = asyncio.create_task(self._ask(session, gateway.url, node, kind, number))
                            self._tasks.add(task)
                            task.add_done_callback(self._tasks.discard)
                number += 1
                due += EVERY
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.gather(*self._tasks)

    async def _ask(self, session: aiohttp.ClientSession, url: str, node: int, kind: str, number: int) -> None:
        path = "/limited/" if kind == "limited" else "/api/"
        key = self.known[node] if kind == "known" else f"nobody-{node}-{number}"
        began = time.monotonic()
        retry_after = False
        try:
            # POST: no client repeats it by itself.
            async with session.post(url + path, headers={"Authorization": key}) as reply:
                await reply.read()
                status, retry_after = reply.status, "Retry-After" in reply.headers
        except (aiohttp.ClientError, TimeoutError):
            status = 0
        self.seen.append(Seen(began, kind, node, status, time.monotonic() - began, retry_after))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Figures in the order of `COLUMNS`, and what was not kept, each with the promise's first word in front."""

    figures: tuple[str, ...]
    missed: tuple[str, ...]

    @property
    def words(self) -> set[str]:
        return {one.partition(":")[0] for one in self.missed}


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else math.nan


def sliced(seen: Iterable[Seen], begin: float, end: float) -> float:
    """The median of the 99th percentiles of slices of this time."""
    slices: dict[int, list[float]] = {}
    for one in seen:
        if begin <= one.at < end:
            slices.setdefault(int((one.at - begin) / SLICE), []).append(one.took)
    # What is left at the end, and too short for a percentile, is no slice of its own.
    most = max(map(len, slices.values()), default=0)
    return statistics.median(percentile(each, 0.99) for each in slices.values() if len(each) >= most / 2) if most else 0


def windows(admitted: Iterable[float]) -> list[int]:
    """How many were let through in each window, from when they were asked for."""
    found: list[int] = []
    begin = -math.inf
    for at in sorted(admitted):
        if at >= begin + WINDOW * 0.9:
            begin = at
            found.append(0)
        found[-1] += 1
    return found


def judge(seen: Sequence[Seen], harmed: float, healed: float, *, until: float = 0.0, shares: bool = True) -> Verdict:
    """The promise in figures. The latency of known keys is looked at from `harmed` to `until`, otherwise to `healed`.

    `shares`: gateways count by themselves meanwhile, so that no single one may let through more than its share.
    """
    ours = [one for one in seen if one.node < NODES]
    reference = [one for one in seen if one.node == NODES and one.kind == "known"]
    known = [one for one in ours if one.kind == "known"]
    missed: list[str] = []

    asked = [one for one in known if one.at >= harmed]
    served = sum(one.status == 200 for one in asked) / max(1, len(asked))
    if served < 1 or not asked:
        others = {one.status for one in asked} - {200}
        missed.append(f"served: a known key got {', '.join(map(str, sorted(others))) or 'nothing'}")

    soon = (harmed, harmed + FIRST)
    usual = max(sliced(reference, *soon), sliced(reference, soon[1], max(healed, until)))
    first = percentile([one.took for one in known if soon[0] <= one.at < soon[1]], 0.99)
    if not first <= usual + FIRST_LATE:
        missed.append(f"first: {ms(first)} at first, and {ms(usual)} without the fault")
    later = soon[1], max(healed, until)
    usual, then = sliced(reference, *later), sliced(known, *later)
    if not 0 < then <= usual * SLOWER:
        missed.append(f"then: {ms(then)}, and {ms(usual)} without the fault")

    unknown = [one for one in ours if one.kind == "unknown"]
    early = {one.status for one in unknown if soon[0] <= one.at < soon[1]}
    during = {one.status for one in unknown if soon[1] <= one.at < healed - 0.1}
    if not early <= {403, 503} or during != {503}:
        missed.append(f"unknown: an unknown key got {sorted(early | during)}")
    if any(one.status == 503 and not one.retry_after for one in unknown):
        missed.append("unknown: a 503 had no Retry-After")

    let_in = [one for one in ours if one.kind == "limited" and one.status == 200]
    share = math.ceil(LIMIT / NODES)
    # The first window began with what Redis had counted.
    of_nodes = [
        windows(one.at for one in let_in if one.node == node and harmed + WINDOW < one.at < healed)
        for node in range(NODES)
    ]
    most = max((count for counts in of_nodes for count in counts), default=0)
    if shares and not most <= share * OVER_NODE:
        missed.append(f"limit: a gateway let {most} of its {share} through in a window")
    total = sum(harmed <= one.at < healed + BACK for one in let_in)
    # So many windows may have a part in that time.
    allowed = LIMIT * ((healed + BACK - harmed) / WINDOW + 1)
    if not total <= allowed * OVER_ALL:
        missed.append(f"limit: {total} were let through, and the limit is {allowed:.0f}")

    after = [one for one in unknown if one.at >= healed]
    returned = max(
        min((one.at - healed for one in after if one.node == node and one.status == 403), default=math.inf)
        for node in range(NODES)
    )
    relapses = [one.status for one in after if one.at > healed + BACK and one.status != 403]
    if returned > BACK or relapses:
        missed.append(f"back: in step after {returned:.1f} s, relapses {relapses}")

    told = ",".join(map(str, sorted(early | during))) or "-"
    alone = f"{most}/{share}" if shares else "-"
    counted = (told, alone, f"{total / allowed:.2f}", f"{returned:.1f} s")
    before = sliced(known, harmed - SLICE, harmed)
    figures = (f"{served:.2%} of {len(asked)}", ms(before), ms(usual), ms(first), ms(then), *counted)
    return Verdict(figures, tuple(missed))


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
