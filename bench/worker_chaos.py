"""Two gateways of two workers each on one Redis, while workers are replaced and killed; and what the clients saw.

    make chaos                             after the faults of Redis, all of these
    python -m bench.worker_chaos           these alone
    python -m bench.worker_chaos --runs 2 exact recycles

`exact`: 20,000 attempts at once on a quota of 1,000 admit 1,000, in each run. `exact-killed`: the same, with a worker
killed in the middle of each run: never more. `recycles`: 20 workers end by SIGTERM under load, and no request fails.
`kills`: 10 workers end by SIGKILL under load, which may lose the requests that they had under way and nothing else, and
each has a successor that serves within a second. Clients never retry. A line of figures is printed for each; the exit
code is 1 when something was not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import aiohttp

from aiogate.testing import GatewayProcess
from bench.chaos import gateways
from bench.promise import NODES
from tests.servers import RedisServer

WORKERS = 2
ATTEMPTS, QUOTA = 20_000, 1000
CLIENTS = 16
"""Clients of one gateway, each with one request under way."""
SUCCESSOR_WITHIN = 1.0
"""Seconds from the death of a worker until another serves in its place."""
ENVIRON = {"AIOGATE_WORKERS": str(WORKERS), "AIOGATE_REDIS__TIMEOUT": "5s"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What clients saw: figures, and what was not kept."""

    name: str
    figures: Mapping[str, str]
    broken: Sequence[str]

    def __str__(self) -> str:
        shown = "  ".join(f"{name} {value}" for name, value in self.figures.items())
        return f"{self.name:12} {shown}" + "".join(f"\n             NOT KEPT: {one}" for one in self.broken)


async def workers(node: GatewayProcess) -> list[int]:
    """The process ids of a gateway's workers."""
    while True:
        try:
            reply = await node.dashboard("GET", "/api/system/status")
        except aiohttp.ClientError:
            continue  # it had asked the worker that was killed
        return cast("list[int]", reply.json["pids"])


async def replaced(node: GatewayProcess, gone: int) -> float:
    """Seconds until a gateway has all its workers, without one that ended."""
    began = time.monotonic()
    async with asyncio.timeout(60):
        while gone in (now := await workers(node)) or len(now) < WORKERS:
            await asyncio.sleep(0.01)
    return time.monotonic() - began


async def exact(runs: int, *, killed: bool) -> Outcome:
    """A quota that many ask for at once; with `killed` one worker dies when a tenth of them were answered."""
    server = RedisServer().start()
    admitted: list[int] = []
    refused: list[int] = []
    lost: list[int] = []
    try:
        async with (
            gateways(server.url, **ENVIRON) as nodes,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=128)) as session,
        ):
            statuses: list[int] = []

            async def attempt(node: GatewayProcess, key: str) -> None:
                try:
                    async with session.post(f"{node.url}/api/", headers={"Authorization": key}) as reply:
                        statuses.append(reply.status)
                except aiohttp.ClientError:
                    statuses.append(0)

            for number in range(runs):
                key = await nodes[0].create_key("api", quota_max=QUOTA, quota_renewal_rate=3600)
                statuses.clear()
                asked = [asyncio.create_task(attempt(nodes[n % NODES], key)) for n in range(ATTEMPTS)]
                node = nodes[number % NODES]
                if killed:
                    victim = (await workers(node))[0]
                    while len(statuses) < QUOTA // 2:
                        await asyncio.sleep(0.005)
                    os.kill(victim, signal.SIGKILL)
                await asyncio.gather(*asked)
                if killed:
                    await replaced(node, victim)
                admitted.append(statuses.count(200))
                refused.append(statuses.count(403))
                lost.append(statuses.count(0))
    finally:
        server.close()
    if killed:
        # What was counted and never answered is lost to the client; nothing is counted twice.
        wrong = [f"{one} admitted" for one in admitted if one > QUOTA]
    else:
        wrong = [f"{one} admitted" for one in admitted if one != QUOTA]
    wrong += [
        f"{ATTEMPTS - one - two - three} answers were neither 200 nor 403"
        for one, two, three in zip(admitted, refused, lost, strict=True)
        if one + two + three != ATTEMPTS
    ]
    if not killed and any(lost):
        wrong.append(f"{sum(lost)} requests failed")
    figures = {"runs": str(runs), "admitted": ",".join(map(str, admitted)), "lost": ",".join(map(str, lost))}
    return Outcome("exact-killed" if killed else "exact", figures, wrong)


async def ended(name: str, times: int, sent: signal.Signals) -> Outcome:
    """Workers of both gateways in turns get a signal, while clients ask all the time."""
    server = RedisServer().start()
    answered: dict[int, int] = {}
    took: list[float] = []
    lost: list[int] = []
    done = False
    try:
        async with (
            gateways(server.url, **ENVIRON) as nodes,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            key = await nodes[0].create_key("api", rate=1_000_000, per=60)

            async def client(node: GatewayProcess) -> None:
                while not done:
                    try:
                        # POST: no client repeats it by itself.
                        async with session.post(f"{node.url}/api/", headers={"Authorization": key}) as reply:
                            await reply.read()
                            status = reply.status
                    except aiohttp.ClientError:
                        status = 0
                    answered[status] = answered.get(status, 0) + 1

            clients = [asyncio.create_task(client(nodes[n % NODES])) for n in range(CLIENTS * NODES)]
            for number in range(times):
                before = answered.get(200, 0)
                while answered.get(200, 0) < before + 200:
                    await asyncio.sleep(0.01)
                node, failed = nodes[number % NODES], answered.get(0, 0)
                victim = (await workers(node))[number // NODES % WORKERS]
                os.kill(victim, sent)
                took.append(await replaced(node, victim))
                lost.append(answered.get(0, 0) - failed)
            done = True
            await asyncio.gather(*clients)
    finally:
        server.close()
    figures = {
        "times": str(times),
        "answered": ", ".join(f"{count} × {status or 'nothing'}" for status, count in sorted(answered.items())),
        "lost each time": ",".join(map(str, lost)),
        "successor after": f"{statistics.median(took):.2f} s (at most {max(took):.2f})",
    }
    wrong = [f"{count} answers {status}" for status, count in answered.items() if status not in (0, 200)]
    allowed = CLIENTS if sent == signal.SIGKILL else 0
    if sent == signal.SIGKILL:
        wrong += [f"a successor served after {one:.2f} s" for one in took if one > SUCCESSOR_WITHIN]
    wrong += [f"{one} requests failed at one end" for one in lost if one > allowed]
    return Outcome(name, figures, wrong)


FORMS: dict[str, Callable[[int], Awaitable[Outcome]]] = {
    "exact": lambda runs: exact(runs, killed=False),
    "exact-killed": lambda runs: exact(runs, killed=True),
    "recycles": lambda runs: ended("recycles", 2 * runs, signal.SIGTERM),
    "kills": lambda runs: ended("kills", runs, signal.SIGKILL),
}


async def run(runs: int, names: list[str]) -> int:
    failed = False
    for name in names:
        outcome = await FORMS[name](runs)
        print(outcome, flush=True)
        failed = failed or bool(outcome.broken)
    return int(failed)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(prog="python -m bench.worker_chaos")
    parser.add_argument("--runs", type=int, default=10, help="of a quota; as many kills, twice as many recycles")
    parser.add_argument("forms", nargs="*", metavar="FORM", help=f"one of {', '.join(FORMS)}; all unless given")
    options = parser.parse_args()
    if unknown := [name for name in options.forms if name not in FORMS]:
        parser.error(f"no such form: {', '.join(unknown)}")
    sys.exit(asyncio.run(run(options.runs, options.forms or list(FORMS))))
