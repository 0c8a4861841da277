"""The model of docs/scaling.md: what so many requests per second need, from figures that were measured.

    python -m bench.scaling                                       the table of the page
    python -m bench.scaling --set worker_us=400 --set cores=16 250000

The formulas are those of the page, and so are the names of the inputs. All inputs are of one request unless they say
otherwise. Every request has a key, a rate and a quota.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

__all__ = ["Inputs", "Plan", "plan", "table"]

RATES = (10_000, 100_000, 1_000_000)
MEGA = 1e6


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was measured, and what is wished for. The defaults are those of the page."""

    worker_us: float = 62
    """Processor time of a worker, µs."""
    redis_us: float = 19
    """Processor time of Redis to count, µs."""
    read_us: float = 16
    """Processor time of Redis to read one session, µs."""
    redis_bytes: float = 409
    """To and from Redis."""
    client_bytes: float = 588
    """To and from the client, heads and body."""
    upstream_bytes: float = 560
    """To and from the upstream."""
    worker_mib: float = 88
    """Memory of a worker with its APIs, keys and connections, MiB."""
    cores: float = 8
    """Of a machine, for workers."""
    load: float = 0.6
    """Share of a core that is used at the peak, of workers and of Redis."""
    keys: float = 10000
    """Keys in use within `sessions.cache`."""
    cache_s: float = 10
    """`sessions.cache`, seconds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rate of requests needs. Network is in Mbit/s, memory in MiB of a machine."""

    requests: int
    workers: int
    machines: int
    groups: int
    """Of gateways, each with a Redis and a `redis.prefix` of its own."""
    redis_mbit: float
    machine_mbit: float
    machine_mib: float
    bottleneck: str


def plan(requests: int, given: Inputs) -> Plan:
    """The smallest number of groups whose Redis keeps within `load`, and what that needs.

    Raises ValueError where no number of groups is enough.
    """
    workers = math.ceil(requests * given.worker_us / MEGA / given.load)
    groups = next((n for n in range(1, workers + 1) if _redis(requests, workers, n, given) <= given.load), None)
    if groups is None:
        raise ValueError("a worker alone asks more of a Redis than it can do")
    # Each group has whole machines.
    machines = math.ceil(workers / groups / given.cores) * groups
    network = requests * (given.redis_bytes + given.client_bytes + given.upstream_bytes) * 8 / MEGA / machines
    on_each = min(given.cores, math.ceil(workers / machines))
    if groups > 1:
        bottleneck = "one Redis is one core"
    elif machines > 1:
        bottleneck = "cores of a machine"
    else:
        bottleneck = "cores of workers"
    return Plan(
        requests, workers, machines, groups, requests * given.redis_bytes * 8 / MEGA / groups, network,
        on_each * given.worker_mib, bottleneck,
    )  # fmt: skip


def _redis(requests: float, workers: float, groups: int, given: Inputs) -> float:
    """Cores that one of `groups` Redis needs: to count, and to read the sessions that are older than `cache_s`."""
    requests, workers, keys = requests / groups, workers / groups, given.keys / groups
    reads = min(requests, keys * workers / given.cache_s if given.cache_s else requests)
    return (requests * given.redis_us + reads * given.read_us) / MEGA


def table(rates: Sequence[int], given: Inputs) -> str:
    """The plans as Markdown."""
    heads = (
        "requests per second", "workers", "machines", "Redis, each of its group", "Mbit/s of a Redis",
        "Mbit/s of a machine", "memory of a machine", "first bottleneck",
    )  # fmt: skip
    rows = [
        f"| {each.requests:,} | {each.workers} | {each.machines} | {each.groups} | {each.redis_mbit:.0f}"
        f" | {each.machine_mbit:.0f} | {each.machine_mib:.0f} MiB | {each.bottleneck} |"
        for each in (plan(rate, given) for rate in rates)
    ]
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *rows])


def changed(given: Inputs, wanted: Mapping[str, float]) -> Inputs:
    """Raises ValueError for a name that no input has, or a number that is none of an input."""
    names = {each.name for each in fields(Inputs)}
    for name, value in wanted.items():
        if name not in names:
            raise ValueError(f"no input {name}; there are {', '.join(sorted(names))}")
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}: {value} is no such number")
    made = replace(given, **wanted)
    if not (made.cores >= 1 and 0 < made.load <= 1 and made.worker_us > 0):
        raise ValueError("cores is 1 or more, load over 0 and at most 1, worker_us over 0")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling")
    parser.add_argument("--set", action="append", default=[], metavar="INPUT=NUMBER", dest="inputs")
    parser.add_argument("rates", nargs="*", type=int, help="requests per second")
    options = parser.parse_args()
    try:
        pairs = (text.partition("=") for text in options.inputs)
        given = changed(Inputs(), {name: float(value) for name, _, value in pairs})
        print(table(options.rates or RATES, given))
    except ValueError as wrong:
        parser.error(str(wrong))


if __name__ == "__main__":
    main()
