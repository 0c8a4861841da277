"""What `/metrics` shows: the counts of requests, and what can be read off the process at the moment."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aiogate import __version__
from aiogate.telemetry import metrics
from aiogate.telemetry.metrics import Family, Sample

if TYPE_CHECKING:
    from aiogate.runtime.gateway import Gateway

__all__ = ["families"]


def families(gateway: Gateway) -> Callable[[], list[Family]]:
    """Everything that is counted. The gauges are read now, the counts when the result is called.

    Gauges belong to the event loop; the long part, which grows with the number of APIs, can do without it.
    """
    table = gateway.current.table
    gauges = _gauges(gateway)
    return lambda: [*metrics.families(gateway.services.metrics, table.apis), *gauges]


def _gauges(gateway: Gateway) -> list[Family]:
    table = gateway.current.table
    last = gateway.last_reload
    pools = gateway.services.upstreams.usage()
    # Of two groups of one API and version the newer one counts: the other waits for its last request.
    targets = {
        (("api", group.api), ("version", group.version), ("target", str(target))): (target, left)
        for group in gateway.services.upstreams.groups.listed()
        for target, left in group.states()
    }
    processor = resource.getrusage(resource.RUSAGE_SELF)
    return [
        Family("aiogate_build_info", "gauge", "Always 1.", [Sample(1, (("version", __version__),))], "max"),
        Family("aiogate_generation", "gauge", "The generation that serves.", [Sample(table.generation)], "min"),
        Family(
            "aiogate_generation_timestamp_seconds", "gauge", "When it began to serve, in epoch seconds.",
            [Sample(table.made_at)], "max",
        ),
        Family(
            "aiogate_last_reload_ok", "gauge", "0 after a refused reload, otherwise 1.",
            [Sample(int(last is None or last.ok))], "min",
        ),
        Family("aiogate_apis", "gauge", "APIs that are served.", [Sample(len(table.apis))], "max"),
        Family(
            "aiogate_requests_in_progress", "gauge", "Requests that have not ended.",
            [Sample(api.lease.active, (("api", api.id),)) for api in table.apis.values()],
        ),
        Family("aiogate_connections", "gauge", "Clients that are connected.", [Sample(gateway.connections())]),
        Family(
            "aiogate_upstream_connections", "gauge", "Connections to upstreams, by origin and state.",
            [
                Sample(count, (("origin", origin), ("state", state)))
                for origin, (active, idle, _) in pools
                for state, count in (("active", active), ("idle", idle))
            ],
        ),
        Family(
            "aiogate_upstream_waiting", "gauge", "Requests that wait for a connection, by origin.",
            [Sample(waiting, (("origin", origin),)) for origin, (_, _, waiting) in pools],
        ),
        Family(
            "aiogate_upstream_target_up", "gauge", "0 while a target of several is ejected, otherwise 1.",
            [Sample(int(not left), labels) for labels, (_, left) in targets.items()], "min",
        ),
        Family(
            "aiogate_upstream_ejections_total", "counter", "How often a target of several was ejected.",
            [Sample(target.ejections, labels) for labels, (target, _) in targets.items()],
        ),
        Family(
            "aiogate_decisions_dropped_total", "counter", "Decision records for which there was no room.",
            [Sample(gateway.store.decisions.dropped)],
        ),
        Family(
            "aiogate_access_log_dropped_total", "counter", "Lines of the access log that were not written.",
            [Sample(gateway.access_log.lost if gateway.access_log is not None else 0)],
        ),
        Family(
            "aiogate_store_up", "gauge", "0 while the store cannot be asked or written, otherwise 1.",
            [Sample(int(not gateway.store.trouble))], "min",
        ),
        Family("aiogate_workers", "gauge", "Processes that take requests.", [Sample(1)]),
        Family("aiogate_sessions_cached", "gauge", "Sessions kept compiled.", [Sample(len(gateway.sessions))]),
        Family("process_start_time_seconds", "gauge", "Start, in epoch seconds.", [Sample(gateway.started)], "min"),
        Family(
            "process_cpu_seconds_total", "counter", "Processor time, user and system.",
            [Sample(round(processor.ru_utime + processor.ru_stime, 6))],
        ),
        *_memory(),
    ]  # fmt: skip


def _memory() -> list[Family]:
    """What only Linux tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return []
    return [
        Family(
            "process_resident_memory_bytes", "gauge", "Resident memory.", [Sample(pages * resource.getpagesize())]
        )
    ]  # fmt: skip
