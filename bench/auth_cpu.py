"""What a flood of wrong passwords costs the other APIs of the same gateway.

    python bench/auth_cpu.py [ROUNDS] [SECONDS]

200 clients guess passwords of one user with bcrypt at cost 12 while one API without authentication is asked as fast as
it answers. Each of ROUNDS rounds (5 unless given) measures SECONDS (3 unless given) with the flood, between two without
it, so that the ratio depends little on what else the machine does. Once with the failure limits off, where the bounded
queue and the low priority of its threads have to do, and once with the default limits. A client that is told `Retry-
After` waits so long. The gateway is bound to one core, the clients to another where there is one.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import sys
import tempfile
import time
from base64 import b64encode
from pathlib import Path

from aiogate.testing import subprocess_gateway
from aiogate.testing.gateway import write_files

GUESSERS = 200
CLIENTS = 16
FILES = {
    "apis.d/login.yaml": "{id: login, listen: /login/, auth: basic, plugins: [mock: hi]}",
    "apis.d/open.yaml": "{id: open, listen: /open/, auth: none, plugins: [mock: hi]}",
}
LIMITED = "passwords: {cost: 12}\n"
UNLIMITED = LIMITED + "failures: {user: off, address: off}\n"


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """One request on an open connection; the head of its response."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))  # type: ignore[index]
    return head


async def guess(host: str, port: int, number: int, statuses: dict[int, int]) -> None:
    """Guess for ever."""
    reader, writer = await asyncio.open_connection(host, port)
    tries = 0
    while True:
        tries += 1
        credential = b64encode(b"ann:guess-%d-%d" % (number, tries)).decode()
        request = f"GET /login/ HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {credential}\r\n\r\n".encode()
        head = await ask(reader, writer, request)
        status = int(head.split()[1])
        statuses[status] = statuses.get(status, 0) + 1
        if found := re.search(rb"(?i)retry-after: (\d+)", head):
            await asyncio.sleep(int(found[1]))


async def throughput(host: str, port: int, seconds: float) -> tuple[float, float]:
    """Requests per second of the open API, and the 99th percentile of their time in milliseconds."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        began = time.perf_counter()
        while began < end:
            await ask(reader, writer, b"GET /open/ HTTP/1.1\r\nHost: a\r\n\r\n")
            now = time.perf_counter()
            times.append(now - began)
            began = now
        writer.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return len(times) / seconds, statistics.quantiles(times, n=100)[98] * 1000


async def flooded(host: str, port: int, seconds: float) -> tuple[float, float, dict[int, int]]:
    """The same, with the guessers in a process of their own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        "guess",
        host,
        str(port),
        stdout=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()
    rate, slowest = await throughput(host, port, seconds)
    process.stdin.close()
    statuses = json.loads(await process.stdout.readline())
    await process.wait()
    return rate, slowest, {int(status): count for status, count in statuses.items()}


async def guessers(host: str, port: int) -> None:
    """The other process: guess until standard input ends."""
    statuses: dict[int, int] = {}
    tasks = [asyncio.ensure_future(guess(host, port, number, statuses)) for number in range(GUESSERS)]
    await asyncio.sleep(0.5)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps(statuses), flush=True)


async def measure(name: str, settings: str, rounds: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="aiogate-bench-") as made:
        write_files(Path(made), {**FILES, "aiogate.yaml": settings})
        cores = sorted(os.sched_getaffinity(0))
        async with subprocess_gateway(Path(made), within=60) as gateway:
            os.sched_setaffinity(gateway.pid, {cores[0]})
            os.sched_setaffinity(0, set(cores[1:]) or {cores[0]})
            try:
                await gateway.create_user("ann", "the right one", "login")
                host, _, port = gateway.url.removeprefix("http://").partition(":")
                await throughput(host, int(port), 1)
                ratios = []
                before, idle_slowest = await throughput(host, int(port), seconds)
                for _ in range(rounds):
                    busy, busy_slowest, statuses = await flooded(host, int(port), seconds)
                    after, next_slowest = await throughput(host, int(port), seconds)
                    idle = (before + after) / 2
                    ratios.append(busy / idle)
                    print(
                        f"{name}: {idle:.0f}/s, flooded {busy:.0f}/s ({busy / idle:.2f}); "
                        f"p99 {idle_slowest:.1f} ms, flooded {busy_slowest:.1f} ms; guesses by status {statuses}"
                    )
                    before, idle_slowest = after, next_slowest
                print(f"{name}: the other API keeps {statistics.median(ratios):.2f} of its throughput (median)")
            finally:
                os.sched_setaffinity(0, set(cores))


async def main(rounds: int, seconds: float) -> None:
    await measure("failure limits off", UNLIMITED, rounds, seconds)
    await measure("default limits", LIMITED, rounds, seconds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["guess"]:
        asyncio.run(guessers(sys.argv[2], int(sys.argv[3])))
    else:
        rounds, seconds, *_ = [*map(float, sys.argv[1:]), *[5.0, 3.0][len(sys.argv) - 1 :]]
        asyncio.run(main(int(rounds), seconds))
