"""How long a reload keeps the event loop from requests, with thousands of definitions.

    python bench/reload.py [DEFINITIONS] [ROUNDS]

Serves a folder of DEFINITIONS APIs (5000 unless given) in this process and reloads it ROUNDS times (5 unless given)
with nothing changed, with one file changed, and with all of them changed. Meanwhile a task asks for its turn every
millisecond: the longest that it had to wait is what a request would have waited. The line `at rest` is what the machine
itself does to that number. Printed are the worst and the median of the rounds, and how long the reloads took.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiogate.runtime.worker import loop_factory
from aiogate.testing import GatewayFixture, running_gateway

DEFINITION = """\
id: api-{number}
name: API number {number}, edition {edition}
listen: /api/{number}/
upstream: http://127.0.0.1:{port}/v1/
auth:
  - key: {{header: Authorization, query: api_key}}
  - basic: {{realm: Number {number}}}
plugins:
  - rate_limit: 1000/1m
  - mock: {{status: 200, json: {{number: {number}}}}}
    match: {{paths: [/mocked/*], methods: [GET]}}
labels: {{team: bench}}
"""
TURN = 0.001


def write(folder: Path, numbers: range, edition: int) -> None:
    for number in numbers:
        text = DEFINITION.format(number=number, port=9000 + number % 7, edition=edition)
        (folder / f"api-{number}.yaml").write_text(text)


@asynccontextmanager
async def waits() -> AsyncIterator[list[float]]:
    """Collects how late each turn of the loop came, in seconds."""
    late: list[float] = []

    async def turns() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(TURN)
            late.append(time.perf_counter() - began - TURN)

    task = asyncio.create_task(turns())
    await asyncio.sleep(0.05)
    late.clear()
    try:
        yield late
    finally:
        # What the reload leaves behind is part of it.
        await asyncio.sleep(0.2)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def measure(name: str, rounds: int, gateway: GatewayFixture, change: Callable[[int], None]) -> None:
    longest: list[float] = []
    took: list[float] = []
    for edition in range(1, rounds + 1):
        change(edition)
        async with waits() as late:
            verdict = await gateway.reload()
        assert verdict.ok, verdict.diagnostics
        longest.append(max(late) * 1000)
        took.append(verdict.seconds)
    print(
        f"{name:<16} loop blocked at most {max(longest):6.1f} ms (median of rounds {statistics.median(longest):5.1f});"
        f" a reload took {statistics.median(took):5.2f} s"
    )


async def main(definitions: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="aiogate-bench-") as made:
        home = Path(made)
        folder = home / "apis.d"
        folder.mkdir()
        write(folder, range(definitions), 0)
        began = time.perf_counter()
        async with running_gateway(home, folder=home) as gateway:
            print(f"{definitions} definitions, loaded in {time.perf_counter() - began:.2f} s")
            async with waits() as late:
                await asyncio.sleep(1)
            print(f"{'at rest':<16} loop blocked at most {max(late) * 1000:6.1f} ms")
            await measure("nothing changed", rounds, gateway, lambda edition: None)
            await measure("one file", rounds, gateway, lambda edition: write(folder, range(7, 8), edition))
            await measure("all files", rounds, gateway, lambda edition: write(folder, range(definitions), edition))
            print(f"collected by hand afterwards: {gc.collect()} objects")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(*(int(argument) for argument in sys.argv[1:]), *(5000, 5)[len(sys.argv) - 1 :]))
