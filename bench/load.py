"""Load on loopback: `wrk` for throughput, our own clock-driven client for latency at a given rate."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.machine import LOAD_CORE, cpu_seconds, pinned

__all__ = ["Measured", "Silent", "hit", "open_loop"]

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_REQUESTS = re.compile(r"(\d+) requests in ([\d.]+)(us|ms|s|m)")
_LATENCY = re.compile(r"^\s+(50|99)(?:\.\d+)?%\s+([\d.]+)(us|ms|s|m)", re.MULTILINE)
_FAILED = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_SOCKETS = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")


class Silent(Exception):
    """Not one answer came."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One round. Times are seconds; `cpu` is the gateway's, `failed` counts wrong statuses and broken connections."""

    requests: int
    seconds: float
    cpu: float
    p50: float
    p99: float
    failed: int

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def per_cpu_second(self) -> float:
        return self.requests / self.cpu if self.cpu else 0.0


async def hit(
    url: str,
    pid: int,
    *,
    seconds: float,
    connections: int = 64,
    headers: Mapping[str, str] | None = None,
    script: Path | None = None,
) -> Measured:
    """Closed loop from `connections` keep-alive connections, for `seconds`. `pid` is the gateway's."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", "--timeout", "10s"]
    for name, value in (headers or {}).items():
        command += ["-H", f"{name}: {value}"]
    if script is not None:
        command += ["-s", str(script)]
    before = cpu_seconds(pid)
    process = await asyncio.create_subprocess_exec(
        *pinned(LOAD_CORE, *command, url), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = (await process.communicate())[0].decode()
    cpu = cpu_seconds(pid) - before
    found = _REQUESTS.search(output)
    if found is None or not int(found[1]):
        raise Silent(f"wrk got no answer from {url}:\n{output}")
    latency = {int(each[1]): float(each[2]) * _UNITS[each[3]] for each in _LATENCY.finditer(output)}
    wrong = _FAILED.search(output)
    broken = _SOCKETS.search(output)
    failed = int(wrong[1]) if wrong else 0
    failed += sum(int(number) for number in broken.groups()) if broken else 0
    return Measured(int(found[1]), float(found[2]) * _UNITS[found[3]], cpu, latency[50], latency[99], failed)


async def open_loop(
    host: str, port: int, request: bytes, *, rate: float, seconds: float, connections: int = 32
) -> Sequence[float]:
    """Latencies, in seconds, of requests that leave by the clock whatever became of those before.

    A latency counts from the moment the request was due, so that a stall is seen by all requests that it held up. A
    request that fails counts as infinite.
    """
    latencies: list[float] = []
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    opened = [await asyncio.open_connection(host, port) for _ in range(connections)]
    for connection in opened:
        free.put_nowait(connection)
    running: set[asyncio.Task[None]] = set()

    async def ask(due: float) -> None:
        reader, writer = await free.get()
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - due if head.startswith(b"HTTP/1.1 200") else float("inf"))
        except (OSError, asyncio.IncompleteReadError, TypeError):
            latencies.append(float("inf"))
            writer.close()
            reader, writer = await asyncio.open_connection(host, port)
            opened.append((reader, writer))
        free.put_nowait((reader, writer))

    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = began + number / rate
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(ask(due))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running, timeout=30)
    for _, writer in opened:
        writer.close()
    return latencies
