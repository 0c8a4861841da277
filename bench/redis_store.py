"""What counting in Redis costs: commands, bytes and script time of a request, and how many are decided in a second.

    python bench/redis_store.py [SECONDS]

Starts a redis-server on a free port and asks it from one process, as a gateway does, with a rate and a quota each time.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import astuple, dataclass

from aiogate.clock import SystemClock
from aiogate.config.redis_url import parse_redis_url
from aiogate.config.settings import load_settings
from aiogate.domain.limits import Bucket
from aiogate.domain.session import Record
from aiogate.runtime.worker import loop_factory
from aiogate.stores.redis.store import RedisStore
from tests.servers import RedisServer

NAME = "a" * 64


def buckets(limit: int) -> tuple[Bucket, Bucket]:
    return (Bucket(f"rate::{NAME}", limit, 60, "rate"), Bucket(f"quota::{NAME}", limit, 3600, "quota"))


@dataclass(frozen=True, slots=True)
class Spent:
    """What a server did: scripts run, all commands (those in scripts too), bytes in and out, and microseconds.

    These are of scripts, and of the server's processor.
    """

    scripts: int
    commands: int
    received: int
    sent: int
    script: float
    cpu: float

    def __sub__(self, earlier: Spent) -> Spent:
        return Spent(*(now - then for now, then in zip(astuple(self), astuple(earlier), strict=True)))

    def __str__(self) -> str:
        """Of each script, which is of each request that is counted."""
        each = max(self.scripts, 1)
        return (
            f"{self.commands / each:.2f} commands, those in scripts counted, {self.received / each:.0f} bytes to it, "
            f"{self.sent / each:.0f} back, {self.script / each:.1f} µs in the script, "
            f"{self.cpu / each:.1f} µs of its processor"
        )


def spent(server: RedisServer) -> Spent:
    """Since the server started."""
    text = b"".join(server.say("INFO", section) for section in ("stats", "commandstats", "cpu")).decode()
    values = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    script = dict(part.split("=") for part in values.get("cmdstat_evalsha", "calls=0,usec=0").split(","))
    return Spent(
        int(script["calls"]),
        int(values["total_commands_processed"]),
        int(values["total_net_input_bytes"]),
        int(values["total_net_output_bytes"]),
        float(script["usec"]),
        (float(values["used_cpu_user"]) + float(values["used_cpu_sys"])) * 1e6,
    )


async def decide(store: RedisStore, asked: tuple[Bucket, ...], tasks: int, seconds: float) -> tuple[int, list[float]]:
    """How many were decided, and how long each took."""
    end = time.perf_counter() + seconds
    took: list[float] = []

    async def client() -> None:
        while (began := time.perf_counter()) < end:
            await store.counters.take(asked, time.time())
            took.append(time.perf_counter() - began)

    await asyncio.gather(*(client() for _ in range(tasks)))
    return len(took), sorted(took)


async def read(store: RedisStore, server: RedisServer, tasks: int, seconds: float) -> str:
    """What it costs Redis to read a session of a kilobyte again."""
    await store.sessions.put(Record(NAME, "", "key", "", b'{"alias":"%s"}' % (b"x" * 1000)))
    before, end, count = spent(server), time.perf_counter() + seconds, 0

    async def client() -> None:
        nonlocal count
        while time.perf_counter() < end:
            assert await store.sessions.get(NAME) is not None
            count += 1

    await asyncio.gather(*(client() for _ in range(tasks)))
    more = spent(server) - before
    return (
        f"{more.cpu / count:.1f} µs of its processor, {more.received / count:.0f} bytes, {more.sent / count:.0f} back"
    )


async def run(seconds: float) -> None:
    server = RedisServer().start()
    try:
        settings = load_settings(None, {}, {"store": server.url, "redis.timeout": "1s"})
        store = RedisStore(parse_redis_url(server.url), settings, SystemClock())
        await store.open()
        print("                    decided/s   p50 us   p99 us   commands   bytes sent   received   script us")
        for tasks, limit, name in ((1, 10**9, "alone, admitted"), (64, 10**9, "64 at once"), (64, 1, "64, refused")):
            before = spent(server)
            count, took = await decide(store, buckets(limit), tasks, seconds)
            more = spent(server) - before
            print(
                f"{name:18} {count / seconds:10.0f} {took[count // 2] * 1e6:8.0f} {took[count * 99 // 100] * 1e6:8.0f}"
                f" {more.scripts / count:10.2f} {more.received / count:12.0f} {more.sent / count:10.0f}"
                f" {more.script / count:11.1f}"
            )
        for tasks in (1, 64):
            print(f"a session read, {tasks} at once: {await read(store, server, tasks, seconds)}")
        await store.close()
    finally:
        server.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0))
