"""What a flood of wrong passwords costs the other APIs of the same gateway.

    python -m bench.auth_cpu [ROUNDS] [SECONDS]

200 clients guess passwords of one user with bcrypt at cost 12 while 16 connections ask an API without authentication as
fast as it answers. Compared are that API's requests per second, with the flood and without: each of ROUNDS rounds (9
unless given) measures SECONDS (2 unless given) with the flood between two as long without it, and the median of the
rounds counts. The slowest request tells whether something held the event loop up.

The gateway is bound to one core with all its processes, so that hashing and serving compete for it; the clients are
bound to another where there is one. A client that is told `Retry-After` waits so long.

Three measurements: with the failure limits off, where the bounded queue and the low priority of hashing have to do; the
same with another program that is busy on the gateway's core; and with the default limits, which soon leave nothing to
hash.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiogate.testing import subprocess_gateway
from aiogate.testing.gateway import write_files
from bench.machine import GATEWAY_CORE, LOAD_CORE, pinned

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
    """Requests per second of the open API, and the time of the slowest in milliseconds."""
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
    return len(times) / seconds, max(times) * 1000


async def flooded(host: str, port: int, seconds: float) -> tuple[float, float, dict[int, int]]:
    """The same, with the guessers in a process of their own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.auth_cpu",
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


@contextmanager
def neighbour(*, busy: bool) -> Iterator[None]:
    """Another program on the gateway's core that wants all of it."""
    if not busy:
        yield
        return
    process = subprocess.Popen(pinned(GATEWAY_CORE, sys.executable, "-c", "while True: pass"))
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def measure(name: str, settings: str, rounds: int, seconds: float, *, busy: bool = False) -> None:
    with tempfile.TemporaryDirectory(prefix="aiogate-bench-") as made:
        write_files(Path(made), {**FILES, "aiogate.yaml": settings})
        serve = pinned(GATEWAY_CORE, sys.executable, "-m", "aiogate", "serve")
        async with subprocess_gateway(Path(made), within=60, command=serve) as gateway:
            await gateway.create_user("ann", "the right one", "login")
            host, _, port = gateway.url.removeprefix("http://").partition(":")
            with neighbour(busy=busy):
                await throughput(host, int(port), 1)
                ratios, slowest = [], [0.0]
                before, before_slowest = await throughput(host, int(port), seconds)
                for _ in range(rounds):
                    flood, flood_slowest, statuses = await flooded(host, int(port), seconds)
                    after, after_slowest = await throughput(host, int(port), seconds)
                    idle = (before + after) / 2
                    ratios.append(flood / idle)
                    slowest.append(flood_slowest)
                    print(
                        f"{name}: {idle:.0f}/s, flooded {flood:.0f}/s ({flood / idle:.2f}); slowest "
                        f"{max(before_slowest, after_slowest):.0f} ms, flooded {flood_slowest:.0f} ms; "
                        f"guesses by status {statuses}"
                    )
                    before, before_slowest = after, after_slowest
            print(
                f"{name}: the other API keeps {statistics.median(ratios):.2f} of its throughput "
                f"(median; {min(ratios):.2f} to {max(ratios):.2f}), its slowest request took {max(slowest):.0f} ms"
            )


async def main(rounds: int, seconds: float) -> None:
    everything = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        await measure("failure limits off", UNLIMITED, rounds, seconds)
        await measure("failure limits off, busy core", UNLIMITED, rounds, seconds, busy=True)
        await measure("default limits", LIMITED, rounds, seconds)
    finally:
        os.sched_setaffinity(0, everything)


if __name__ == "__main__":
    if sys.argv[1:2] == ["guess"]:
        asyncio.run(guessers(sys.argv[2], int(sys.argv[3])))
    else:
        rounds, seconds, *_ = [*map(float, sys.argv[1:]), *[9.0, 2.0][len(sys.argv) - 1 :]]
        asyncio.run(main(int(rounds), seconds))
