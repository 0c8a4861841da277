"""What is measured on a machine: processor time and memory of processes, and which core does what.

Requests per second drift with a shared machine. What a gateway *spends* on a request does so much less: `cpu_seconds`
is user and system time of a process and all its children, and the figure that the tables compare.
"""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

__all__ = ["GATEWAY_CORE", "LOAD_CORE", "cpu_seconds", "describe", "pinned", "pss", "tree"]

_CORES = sorted(os.sched_getaffinity(0))
GATEWAY_CORE = _CORES[0]
LOAD_CORE = _CORES[-1]
"""The client and the upstream; the same as the gateway's where there is only one."""
_TICK = os.sysconf("SC_CLK_TCK")


def pinned(core: int, *command: str) -> tuple[str, ...]:
    """The command, bound to one core."""
    return ("taskset", "-c", str(core), *command) if shutil.which("taskset") else command


def tree(pid: int) -> list[int]:
    """A process and its living descendants."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found.extend(int(child) for child in task.read_text().split())
            except OSError:
                continue
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its living descendants, in seconds; what the kernel did for them included."""
    ticks = 0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICK


def pss(pid: int) -> float:
    """Proportional set size of a process and its living descendants, in MiB: shared pages count once in all."""
    kilobytes = 0
    for each in tree(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kilobytes += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return kilobytes / 1024


def describe() -> str:
    """The machine in one line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {len(_CORES)} cores, Linux {platform.release()}, Python {platform.python_version()}"
