"""Two gateways on one Redis under load, while Redis is harmed; and what the clients saw.

    make chaos                    every fault for 30 s, then the exact quota
    make chaos SECONDS=3          shorter
    python bench/chaos.py 3 stop kill

Each fault is applied for so many seconds in the middle of a steady load in an open loop: a request is due every few
milliseconds, whether the last one was answered or not. Clients never retry. A line of figures is printed for each
fault, with what was promised for it; the exit code is 1 when something was not kept.

The control run comes first: the same load and a killed Redis, with gateways that may serve nothing without it. It must
fail, or the measurement shows nothing.
"""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from aiogate.testing import GatewayProcess, subprocess_gateway
from aiogate.testing.gateway import write_files
from tests.faults import FaultProxy, fault_proxy
from tests.servers import RedisServer

NODES = 2
LIMIT, WINDOW = 40, 2
EVERY = 0.01
"""Seconds between two requests of one client."""
CALM = 4.0
FILES = {
    "apis.d/api.yaml": "{listen: /api/, auth: key, plugins: [mock: x]}",
    "apis.d/limited.yaml": f"{{listen: /limited/, auth: none, plugins: [rate_limit: {LIMIT}/{WINDOW}s, mock: x]}}",
}
KINDS = ("known", "unknown", "limited")


@dataclass
class Seen:
    """One answer: when it was asked for, by whom, of which node, its status (0: none came) and its seconds."""

    at: float
    kind: str
    node: int
    status: int
    took: float


@dataclass
class Load:
    """Clients that ask in an open loop."""

    gateways: Sequence[GatewayProcess]
    known: str
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
        key = self.known if kind == "known" else f"nobody-{node}-{number}"
        began = time.monotonic()
        try:
            # POST: no client repeats it by itself.
            async with session.post(url + path, headers={"Authorization": key}) as reply:
                await reply.read()
                status = reply.status
        except (aiohttp.ClientError, TimeoutError):
            status = 0
        self.seen.append(Seen(began, kind, node, status, time.monotonic() - began))


@dataclass
class Outcome:
    """What a fault did to the clients."""

    name: str
    figures: dict[str, str]
    broken: list[str]

    def __str__(self) -> str:
        shown = "  ".join(f"{name} {value}" for name, value in self.figures.items())
        return f"{self.name:10} {shown}" + "".join(f"\n           NOT KEPT: {one}" for one in self.broken)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else math.nan


def judge(name: str, seen: Sequence[Seen], harmed: float, healed: float, *, spare: float = 0.0) -> Outcome:
    """Promise G4 in figures. `spare` seconds after the harm are left out of the statuses of unknown keys."""
    idle = [one.took for one in seen if one.kind == "known" and one.at < harmed - 0.5]
    during = [one for one in seen if harmed <= one.at < healed]
    known = [one for one in during if one.kind == "known"]
    first = [one.took for one in known if one.at < harmed + 0.3]
    later = [one.took for one in known if one.at >= harmed + 0.3]
    afterwards = [one for one in seen if one.kind == "known" and one.at >= healed]
    served = sum(one.status == 200 for one in (*known, *afterwards)) / max(1, len(known) + len(afterwards))
    unknown = {one.status for one in during if one.kind == "unknown" and one.at > harmed + spare}
    after = [one for one in seen if one.kind == "unknown" and one.at >= healed]
    first_back = [
        min((one.at - healed for one in after if one.node == node and one.status == 403), default=math.inf)
        for node in range(NODES)
    ]
    returned = max(first_back)
    relapses = sum(one.status != 403 for one in after if one.at > healed + returned)
    share = math.ceil(LIMIT / NODES)
    most = 0
    # The first window began with what Redis counted, and belongs to no node alone.
    for node in range(NODES):
        admitted = sorted(
            one.at for one in during
            if one.kind == "limited" and one.node == node and one.status == 200 and one.at > harmed + WINDOW
        )  # fmt: skip
        most = max(most, *(sum(1 for at in admitted if begin <= at < begin + WINDOW * 0.9) for begin in admitted), 0)
    figures = {
        "served": f"{served:.4%} of {len(known) + len(afterwards)}",
        "idle p99": f"{percentile(idle, 0.99) * 1000:.0f} ms",
        "first p99": f"{percentile(first, 0.99) * 1000:.0f} ms",
        "then p99": f"{percentile(later, 0.99) * 1000:.0f} ms",
        "unknown": ",".join(map(str, sorted(unknown))) or "-",
        "per node": f"{most}/{share} a window" if name != "failover" else "-",
        "back": f"{returned:.2f} s",
        "relapses": str(relapses),
    }
    broken = []
    if served < 1:
        broken.append("a known key was not served")
    if not unknown <= {503, 403} or (spare == 0.0 and 503 not in unknown and name != "failover"):
        broken.append(f"an unknown key got {unknown}")
    if name != "failover" and most > share * 1.05:
        broken.append(f"{most} of {share} were let through in a window by one gateway")
    if returned > 2:
        broken.append(f"in step again only {returned:.2f} s after the end")
    return Outcome(name, figures, broken)


@asynccontextmanager
async def gateways(store: str, **environ: str) -> AsyncIterator[list[GatewayProcess]]:
    variables = {
        "AIOGATE_STORE": store,
        "AIOGATE_LIMITS_WITHOUT_STORE__SHARE": f"1/{NODES}",
        **environ,
    }
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aiogate-chaos-")))
        started = []
        for number in range(NODES):
            home = folder / f"node{number}"
            write_files(home, FILES)
            started.append(await stack.enter_async_context(subprocess_gateway(home, environ=variables)))
        yield started


async def under_load(
    name: str,
    store: str,
    seconds: float,
    harm: Callable[[], Awaitable[None]],
    heal: Callable[[], Awaitable[None]],
    **environ: str,
) -> Outcome:
    """Load before, during and after a fault."""
    async with gateways(store, **environ) as nodes:
        # With a rate that nobody reaches: each of its requests is counted in Redis.
        known = await nodes[0].create_key("api", rate=1_000_000, per=60)
        load = Load(nodes, known)
        done = False
        running = asyncio.create_task(load.run(lambda: done))
        await asyncio.sleep(CALM)
        await harm()
        harmed = time.monotonic()
        await asyncio.sleep(seconds)
        await heal()
        healed = time.monotonic()
        await asyncio.sleep(CALM)
        done = True
        await running
        return judge(name, load.seen, harmed, healed, spare=0.0 if name != "failover" else seconds)


def through(proxy: FaultProxy, **faults: object) -> tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]:
    async def harm() -> None:
        for fault, value in faults.items():
            setattr(proxy, fault, value)
        if proxy.refuse:
            proxy.reset()

    async def heal() -> None:
        proxy.heal()

    return harm, heal


PROXIED: dict[str, dict[str, object]] = {
    "reset": {"refuse": True},
    "slow": {"delay": 0.5},
    "blackhole": {"blackhole": True},
    "garbage": {"garbage": b"\x00\xff\x00 not RESP\r\n"},
}


async def one_fault(name: str, seconds: float, **environ: str) -> Outcome:
    # A Redis that holds keys keeps them on disk.
    server = RedisServer("appendonly yes", "appendfsync always").start()
    try:
        if name in PROXIED:
            async with fault_proxy(server.port) as proxy:
                harm, heal = through(proxy, **PROXIED[name])
                return await under_load(name, f"redis://127.0.0.1:{proxy.port}", seconds, harm, heal, **environ)

        async def stop() -> None:
            (server.pause if name == "stop" else server.kill)()

        async def go_on() -> None:
            await asyncio.to_thread(server.resume if name == "stop" else server.start)

        return await under_load(name, server.url, seconds, stop, go_on, **environ)
    finally:
        server.close()


async def failover(seconds: float) -> Outcome:
    """Sentinels make a replica the master; the clients of known keys see nothing of it."""
    master = RedisServer().start()
    servers = [master, *(RedisServer(f"replicaof 127.0.0.1 {master.port}").start() for _ in range(2))]
    sentinels = [
        RedisServer(
            f"sentinel monitor main 127.0.0.1 {master.port} 2",
            "sentinel down-after-milliseconds main 1000",
            "sentinel failover-timeout main 3000",
            sentinel=True,
        ).start()
        for _ in range(3)
    ]
    try:
        while any(b"num-other-sentinels\r\n$1\r\n2" not in one.say("SENTINEL", "MASTER", "main") for one in sentinels):
            await asyncio.sleep(0.2)
        while master.say("INFO", "replication").count(b"state=online") != 2:
            await asyncio.sleep(0.2)
        url = "redis+sentinel://" + ",".join(f"127.0.0.1:{one.port}" for one in sentinels) + "/main"

        async def kill() -> None:
            master.kill()

        async def nothing() -> None:
            """The sentinels heal it."""

        return await under_load("failover", url, max(seconds, 6.0), kill, nothing)
    finally:
        for one in (*sentinels, *servers):
            one.close()


async def exact(runs: int) -> Outcome:
    """20,000 attempts at two gateways on a quota of 1,000, so many times."""
    server = RedisServer().start()
    counts = []
    try:
        async with (
            gateways(server.url, AIOGATE_REDIS__TIMEOUT="5s") as nodes,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=128)) as session,
        ):

            async def attempt(node: GatewayProcess, key: str) -> int:
                async with session.post(f"{node.url}/api/", headers={"Authorization": key}) as reply:
                    return reply.status

            for _ in range(runs):
                key = await nodes[0].create_key("api", quota_max=1000, quota_renewal_rate=3600)
                found = await asyncio.gather(*(attempt(nodes[n % NODES], key) for n in range(20_000)))
                counts.append((found.count(200), found.count(403)))
    finally:
        server.close()
    wrong = [one for one in counts if one != (1000, 19_000)]
    figures = {"runs": str(runs), "admitted": ",".join(str(one) for one, _ in counts)}
    return Outcome("exact", figures, [f"{one} admitted and refused" for one in wrong])


FAULTS = (*PROXIED, "stop", "kill", "failover", "exact")


async def run(seconds: float, names: Sequence[str]) -> int:
    control = await one_fault(
        "kill", min(seconds, 3.0), AIOGATE_SESSIONS__CACHE="0s", AIOGATE_SESSIONS__STALE="0s",
        AIOGATE_LIMITS_WITHOUT_STORE__RATE="allow",
    )  # fmt: skip
    print(f"control    {'fails, as it must' if len(control.broken) >= 2 else 'does not fail: nothing is shown'}")
    failed = len(control.broken) < 2
    for name in names:
        if name == "exact":
            outcome = await exact(10 if seconds >= 10 else 2)
        elif name == "failover":
            outcome = await failover(seconds)
        else:
            outcome = await one_fault(name, seconds)
        print(outcome, flush=True)
        failed = failed or bool(outcome.broken)
    return int(failed)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    given = sys.argv[1:]
    length = float(given.pop(0)) if given and given[0].replace(".", "", 1).isdigit() else 30.0
    sys.exit(asyncio.run(run(length, given or FAULTS)))
