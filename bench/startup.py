"""How soon a gateway is ready, and how much memory a worker takes.

    python bench/startup.py [DEFINITIONS] [RUNS]

Starts the real command on a folder of DEFINITIONS APIs (500 unless given) RUNS times (5 unless given), and measures
from the start of the process to its ready line: once with Python's bytecode and the disk's cache cold to us (the first
run), then warm. The memory is the proportional set size of a worker with one API, after a few requests.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from aiogate.testing import GatewayProcess, subprocess_gateway

DEFINITION = """\
id: api-{number}
name: API number {number}
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


def site(folder: Path, definitions: int) -> None:
    (folder / "apis.d").mkdir(parents=True)
    for number in range(definitions):
        text = DEFINITION.format(number=number, port=9000 + number % 7)
        (folder / f"apis.d/api-{number}.yaml").write_text(text)


async def ready_in(folder: Path) -> float:
    """Seconds from the start of the process to its ready line."""
    began = time.perf_counter()
    async with subprocess_gateway(folder, within=120):
        return time.perf_counter() - began


async def pss(gateway: GatewayProcess) -> float:
    """The proportional set size of the process, in MiB."""
    for _ in range(50):
        await gateway.get("/api/0/mocked/x", key="nobody")
    for line in Path(f"/proc/{gateway.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise LookupError("the kernel does not tell the proportional set size")


async def memory(folder: Path) -> float:
    async with subprocess_gateway(folder, within=120) as gateway:
        return await pss(gateway)


async def main(definitions: int, runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="aiogate-bench-") as made:
        one, many = Path(made) / "one", Path(made) / "many"
        site(one, 1)
        site(many, definitions)
        for name, folder in ((1, one), (definitions, many)):
            times = [await ready_in(folder) for _ in range(runs)]
            shown = " ".join(f"{seconds:.2f}" for seconds in times)
            print(f"{name} definitions: ready in {statistics.median(times):.2f} s (median of {shown})")
            print(f"{name} definitions: worker PSS {await memory(folder):.1f} MiB")


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    asyncio.run(main(*(given + [500, 5][len(given) :])))
