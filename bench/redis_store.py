"""What counting in Redis costs: commands, bytes and script time of a request, and how many are decided in a second.

    python bench/redis_store.py [SECONDS]

Starts a redis-server on a free port and asks it from one process, as a gateway does, with a rate and a quota each time.
"""

from __future__ import annotations

import asyncio
import sys
import time

from aiogate.clock import SystemClock
from aiogate.config.redis_url import parse_redis_url
from aiogate.config.settings import load_settings
from aiogate.domain.limits import Bucket
from aiogate.runtime.worker import loop_factory
from aiogate.stores.redis.store import RedisStore
from tests.servers import RedisServer

NAME = "a" * 64


def buckets(limit: int) -> tuple[Bucket, Bucket]:
    return (Bucket(f"rate::{NAME}", limit, 60, "rate"), Bucket(f"quota::{NAME}", limit, 3600, "quota"))


def counted(server: RedisServer) -> tuple[int, int, int, float]:
    """Commands, bytes in and out, and the time of scripts in microseconds."""
    text = server.say("INFO", "stats").decode() + server.say("INFO", "commandstats").decode()
    values = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    script = dict(part.split("=") for part in values.get("cmdstat_evalsha", "calls=0,usec=0").split(","))
    return (
        int(script["calls"]),
        int(values["total_net_input_bytes"]),
        int(values["total_net_output_bytes"]),
        float(script["usec"]),
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


async def run(seconds: float) -> None:
    server = RedisServer().start()
    try:
        settings = load_settings(None, {}, {"store": server.url, "redis.timeout": "1s"})
        store = RedisStore(parse_redis_url(server.url), settings, SystemClock())
        await store.open()
        print("                    decided/s   p50 us   p99 us   commands   bytes sent   received   script us")
        for tasks, limit, name in ((1, 10**9, "alone, admitted"), (64, 10**9, "64 at once"), (64, 1, "64, refused")):
            calls, sent, received, spent = counted(server)
            count, took = await decide(store, buckets(limit), tasks, seconds)
            more = [now - before for now, before in zip(counted(server), (calls, sent, received, spent), strict=True)]
            each = [value / count for value in more]
            print(
                f"{name:18} {count / seconds:10.0f} {took[count // 2] * 1e6:8.0f} {took[count * 99 // 100] * 1e6:8.0f}"
                f" {each[0]:10.2f} {each[1]:12.0f} {each[2]:10.0f} {each[3]:11.1f}"
            )
        await store.close()
    finally:
        server.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0))
