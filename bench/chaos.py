"""Two gateways on one Redis under load, while Redis is harmed; and whether clients got what they are promised.

    make chaos                       every fault for 30 s, then workers replaced and killed
    make chaos SECONDS=5             shorter
    python -m bench.chaos 5 stop kill

Each fault is applied for so many seconds in the middle of a steady load, and judged by `promise`. Then comes its
control run: the same fault for a shorter time on gateways whose settings take one protection away. It must miss the
promise that the protection is for, or the measurement shows nothing. The exit code is 1 when a promise was not kept, or
a control run missed none.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiogate.testing import GatewayProcess, subprocess_gateway
from aiogate.testing.gateway import write_files
from bench.promise import COLUMNS, LIMIT, NODES, WINDOW, Load, Verdict, judge
from tests.faults import fault_proxy
from tests.servers import RedisServer, free_port

CALM = 4.0
"""Seconds of load before and after a fault."""
CONTROL = 6.0
"""Seconds of the fault in a control run, at most."""
FILES = {
    "apis.d/api.yaml": "{listen: /api/, auth: key, plugins: [mock: x]}",
    "apis.d/limited.yaml": f"{{listen: /limited/, auth: none, plugins: [rate_limit: {LIMIT}/{WINDOW}s, mock: x]}}",
}

Step = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Harm:
    """A Redis that can be harmed: where gateways find it, and what begins and ends the fault.

    `self_healing`: the fault ends when `end` returns, however long that takes.
    """

    url: str
    begin: Step
    end: Step
    self_healing: bool = False


@asynccontextmanager
async def gateways(store: str, **environ: str) -> AsyncIterator[list[GatewayProcess]]:
    """Gateways on one Redis."""
    variables = {"AIOGATE_STORE": store, "AIOGATE_LIMITS_WITHOUT_STORE__SHARE": f"1/{NODES}", **environ}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aiogate-chaos-")))
        homes = [folder / f"node{number}" for number in range(NODES)]
        yield [await stack.enter_async_context(_gateway(home, variables)) for home in homes]


@asynccontextmanager
async def _gateway(home: Path, variables: Mapping[str, str]) -> AsyncIterator[GatewayProcess]:
    write_files(home, FILES)
    # One client asks for hundreds of keys that nobody has, which would be refused for that alone.
    variables = {"AIOGATE_FAILURES__ADDRESS": "off", **variables}
    async with subprocess_gateway(home, environ=variables) as gateway:
        yield gateway


@asynccontextmanager
async def unharmed() -> AsyncIterator[GatewayProcess]:
    """A gateway with a Redis of its own."""
    server = RedisServer().start()
    try:
        with tempfile.TemporaryDirectory(prefix="aiogate-chaos-") as folder:
            async with _gateway(Path(folder), {"AIOGATE_STORE": server.url}) as gateway:
                yield gateway
    finally:
        server.close()


async def under_load(fault: Fault, seconds: float, settings: Mapping[str, str]) -> Verdict:
    """Load before, during and after a fault, and what clients saw."""
    async with fault.harm() as harm, gateways(harm.url, **settings) as nodes, unharmed() as reference:
        # With a rate that nobody reaches: each of its requests is to be counted in Redis.
        keys = [await gateway.create_key("api", rate=1_000_000, per=60) for gateway in (nodes[0], reference)]
        load = Load([*nodes, reference], [*[keys[0]] * NODES, keys[1]])
        done = False
        running = asyncio.create_task(load.run(lambda: done))
        try:
            await asyncio.sleep(CALM)
            await harm.begin()
            harmed = time.monotonic()
            if not harm.self_healing:
                await asyncio.sleep(seconds)
            await harm.end()
            healed = time.monotonic()
            # A fault that heals itself is short: what follows it is looked at as well.
            until = max(healed, harmed + seconds) if harm.self_healing else healed
            await asyncio.sleep(max(CALM, until - healed))
            done = True
            await running
        finally:
            running.cancel()
        return judge(load.seen, harmed, healed, until=until, shares=not harm.self_healing)


# What can be done to a Redis


@asynccontextmanager
async def redis_server() -> AsyncIterator[RedisServer]:
    """One that holds keys keeps them on disk."""
    server = RedisServer("appendonly yes", "appendfsync always").start()
    try:
        yield server
    finally:
        server.close()


@asynccontextmanager
async def behind_proxy(**faults: object) -> AsyncIterator[Harm]:
    async with redis_server() as server, fault_proxy(server.port) as proxy:

        async def begin() -> None:
            for name, value in faults.items():
                setattr(proxy, name, value)
            if proxy.refuse:
                proxy.reset()

        async def end() -> None:
            proxy.heal()

        yield Harm(f"redis://127.0.0.1:{proxy.port}", begin, end)


@asynccontextmanager
async def itself(begin: Callable[[RedisServer], object], end: Callable[[RedisServer], object]) -> AsyncIterator[Harm]:
    async with redis_server() as server:
        yield Harm(server.url, partial(_in_thread, begin, server), partial(_in_thread, end, server))


async def _in_thread(what: Callable[[RedisServer], object], server: RedisServer) -> None:
    await asyncio.to_thread(what, server)


@asynccontextmanager
async def sentinels() -> AsyncIterator[Harm]:
    """The master is killed, and sentinels make a replica the master."""
    master = RedisServer().start()
    servers = [master, *(RedisServer(f"replicaof 127.0.0.1 {master.port}").start() for _ in range(2))]
    watching = [
        RedisServer(
            f"sentinel monitor main 127.0.0.1 {master.port} 2",
            "sentinel down-after-milliseconds main 1000",
            "sentinel failover-timeout main 3000",
            sentinel=True,
        ).start()
        for _ in range(3)
    ]

    def named(sentinel: RedisServer) -> bytes:
        return sentinel.say("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")

    async def promoted() -> None:
        async with asyncio.timeout(60):
            while any(str(master.port).encode() in named(one) for one in watching):
                await asyncio.sleep(0.02)

    async def kill() -> None:
        master.kill()

    try:
        async with asyncio.timeout(60):
            while any(
                b"num-other-sentinels\r\n$1\r\n2" not in one.say("SENTINEL", "MASTER", "main") for one in watching
            ):
                await asyncio.sleep(0.2)
            while master.say("INFO", "replication").count(b"state=online") != 2:
                await asyncio.sleep(0.2)
        url = "redis+sentinel://" + ",".join(f"127.0.0.1:{one.port}" for one in watching) + "/main"
        yield Harm(url, kill, promoted, self_healing=True)
    finally:
        for one in (*watching, *servers):
            one.close()


def fill(server: RedisServer) -> None:
    server.say("CONFIG", "SET", "maxmemory", 1)


def make_room(server: RedisServer) -> None:
    server.say("CONFIG", "SET", "maxmemory", 0)


def demote(server: RedisServer) -> None:
    server.say("REPLICAOF", "127.0.0.1", free_port())


def promote(server: RedisServer) -> None:
    server.say("REPLICAOF", "NO", "ONE")


# The faults, each with the protection that its control run does without

FORGETFUL = {"AIOGATE_SESSIONS__CACHE": "0s", "AIOGATE_SESSIONS__STALE": "0s"}
PATIENT = {"AIOGATE_REDIS__TIMEOUT": "5s"}
GENEROUS = {"AIOGATE_LIMITS_WITHOUT_STORE__SHARE": "1"}
STRICT = {"AIOGATE_LIMITS_WITHOUT_STORE__RATE": "deny"}
NONSENSE = b"\x00\xff\x00 not RESP\r\n"
UNCOUNTED = {"AIOGATE_LIMITS_WITHOUT_STORE__RATE": "allow"}


@dataclass(frozen=True, slots=True)
class Fault:
    """`without` are the settings of the control run, `lacks` says what they take away, `misses` which promise goes."""

    name: str
    harm: Callable[[], AbstractAsyncContextManager[Harm]]
    without: Mapping[str, str]
    lacks: str
    misses: str


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("kill", partial(itself, RedisServer.kill, RedisServer.start), FORGETFUL, "no cached sessions", "served"),
        Fault("stop", partial(itself, RedisServer.pause, RedisServer.resume), PATIENT, "a timeout of 5 s", "then"),
        Fault("reset", partial(behind_proxy, refuse=True), GENEROUS, "a share of 1/1", "limit"),
        Fault("slow", partial(behind_proxy, delay=0.5), PATIENT, "a timeout of 5 s", "then"),
        Fault("oom", partial(itself, fill, make_room), UNCOUNTED, "rates uncounted", "limit"),
        Fault("readonly", partial(itself, demote, promote), STRICT, "rates denied", "served"),
        Fault("failover", sentinels, FORGETFUL, "no cached sessions", "served"),
        Fault("blackhole", partial(behind_proxy, blackhole=True), PATIENT, "a timeout of 5 s", "then"),
        Fault("garbage", partial(behind_proxy, garbage=NONSENSE), FORGETFUL, "no cached sessions", "served"),
    )
}  # fmt: skip


def row(name: str, cells: Sequence[str], end: str) -> str:
    widths = (18, 10, 9, 10, 10, 11, 11, 9, 7)
    return f"{name:27} " + " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)) + f"  {end}"


async def run(seconds: float, names: Sequence[str]) -> int:
    failed = False
    print(row("fault, control run", COLUMNS, ""), flush=True)
    for name in names:
        fault = FAULTS[name]
        verdict = await under_load(fault, seconds, {})
        failed = failed or bool(verdict.missed)
        print(row(name, verdict.figures, "kept" if not verdict.missed else "NOT KEPT"), flush=True)
        for one in verdict.missed:
            print(f"  not kept: {one}", flush=True)
        control = await under_load(fault, min(seconds, CONTROL), fault.without)
        shown = fault.misses in control.words
        failed = failed or not shown
        said = f"misses {', '.join(sorted(control.words))}, as it must" if shown else f"DOES NOT MISS {fault.misses}"
        print(row(f"  with {fault.lacks}", control.figures, said), flush=True)
    print("not all was kept, or shown" if failed else "all was kept, and each control run misses its promise")
    return int(failed)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    given = sys.argv[1:]
    length = float(given.pop(0)) if given and given[0].replace(".", "", 1).isdigit() else 30.0
    if unknown := [name for name in given if name not in FAULTS]:
        sys.exit(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    sys.exit(asyncio.run(run(length, given or list(FAULTS))))
