"""The answers of all workers as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aiogate.runtime.health import ApiHealth
from aiogate.telemetry.metrics import Family, Sample

if TYPE_CHECKING:
    from aiogate.runtime.gateway import Status

__all__ = ["counters", "families", "status"]

Labels = tuple[tuple[str, str], ...]
_MERGES: Final[Mapping[str, Callable[[float, float], float]]] = {
    "sum": lambda one, other: one + other,
    "max": max,
    "min": min,
}


def status(own: Status, all_of_them: Iterable[Status]) -> Status:
    """Our own status, with the requests and connections of all workers."""
    known = list(all_of_them)
    return replace(
        own,
        workers=len(known),
        pids=tuple(sorted(each.pid for each in known)),
        requests_running=sum(each.requests_running for each in known),
        connections=sum(each.connections for each in known),
        tunnels=sum(each.tunnels for each in known),
        draining=all(each.draining for each in known),
        ejected=tuple(dict.fromkeys(target for each in known for target in each.ejected)),
    )


def families(of_workers: Iterable[Sequence[Family]]) -> list[Family]:
    """Each family once, its samples added up, or as the family says (`Family.merge`)."""
    found: dict[str, Family] = {}
    values: dict[str, dict[tuple[Labels, str], float]] = {}
    for shown in of_workers:
        for family in shown:
            merge = _MERGES[found.setdefault(family.name, family).merge]
            samples = values.setdefault(family.name, {})
            for sample in family.samples:
                place = (sample.labels, sample.suffix)
                known = samples.get(place)
                samples[place] = sample.value if known is None else merge(known, sample.value)
    return [
        replace(family, samples=[Sample(value, *place) for place, value in values[name].items()])
        for name, family in found.items()
    ]


def counters(of_workers: Iterable[ApiHealth | None]) -> ApiHealth | None:
    """Rates add up; the latency is that of all requests. None: no worker has this API."""
    known = [each for each in of_workers if each is not None]
    if not known:
        return None
    requests = sum(each.requests_per_second for each in known)
    weighed = sum(each.average_upstream_latency * each.requests_per_second for each in known)
    return ApiHealth(
        throttled_per_second=sum(each.throttled_per_second for each in known),
        quota_violations_per_second=sum(each.quota_violations_per_second for each in known),
        key_failures_per_second=sum(each.key_failures_per_second for each in known),
        average_upstream_latency=weighed / requests if requests else 0.0,
        requests_per_second=requests,
    )
