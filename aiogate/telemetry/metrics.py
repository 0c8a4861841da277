"""What is counted, and how Prometheus reads it.

A request costs one call of `Counts.ended`: additions to plain lists. Names, labels and text are made when asked for.
Counts belong to an API's id, not to one compiled form of it, so that they go on over reloads; `/tyk/health` and
`/metrics` read the same ones. Every label has a bounded set of values: ids of declared APIs, codes, kinds, origins.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from aiogate.errors import PROBLEMS

__all__ = ["DURATIONS", "STATUSES", "Counts", "Family", "Metrics", "Sample", "exposition"]

DURATIONS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of a request's duration, in seconds."""
LAGS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Upper bounds of the buckets of the event loop's lag, in seconds."""
STATUSES: Final = ("gone", "1xx", "2xx", "3xx", "4xx", "5xx")
"""Label `status` by the first digit of the response's status; `gone`: the client left before there was one."""
UNROUTED: Final = "(none)"
"""Label `api` of requests that no API took. No API can have this id."""
OTHER: Final = "other"
_MOST_CODES: Final = 32
_KINDS: Final[Mapping[str, str]] = {
    "upstream_unreachable": "unreachable",
    "upstream_invalid": "invalid",
    "upstream_timeout": "timeout",
    "overloaded": "overloaded",
}


class Counts:
    """Counts of one API. They only grow, for as long as the process lives."""

    __slots__ = (
        "_own_codes",
        "durations",
        "received",
        "refusals",
        "seconds",
        "sent",
        "tunnel_ends",
        "tunnel_received",
        "tunnel_sent",
        "tunnels",
        "tunnels_open",
        "upstream_calls",
        "upstream_errors",
        "upstream_repeats",
        "upstream_seconds",
    )

    def __init__(self) -> None:
        self.durations: tuple[list[int], ...] = tuple([0] * (len(DURATIONS) + 1) for _ in STATUSES)
        """For each class of status, how many requests ended within each bucket and outside the ones before."""
        self.seconds = [0.0] * len(STATUSES)
        self.sent = 0
        self.received = 0
        self.refusals: dict[str, int] = {}
        self.upstream_calls = 0
        self.upstream_seconds = 0.0
        self.upstream_errors: dict[str, int] = {}
        self.upstream_repeats = 0
        """Second attempts of requests that were not sent, or not answered, the first time."""
        self.tunnels_open = 0
        """Upgrades that were admitted and have not ended."""
        self.tunnels = 0
        self.tunnel_received = 0
        self.tunnel_sent = 0
        self.tunnel_ends: dict[str, int] = {}
        self._own_codes = 0

    def ended(self, status: int, seconds: float, received: int, sent: int) -> None:
        """Count a request. `status` is 0 when there was no response; sizes are bytes of bodies."""
        kind = status // 100 if status < 600 else 5
        self.durations[kind][bisect_left(DURATIONS, seconds)] += 1
        self.seconds[kind] += seconds
        self.received += received
        self.sent += sent

    def refused(self, code: str) -> None:
        """Count a refusal. Codes that plugins make count by themselves up to 32, then all together as `other`."""
        if code not in self.refusals and code not in PROBLEMS:
            if self._own_codes < _MOST_CODES:
                self._own_codes += 1
            else:
                code = OTHER
        self.refusals[code] = self.refusals.get(code, 0) + 1

    def asked_upstream(self, seconds: float) -> None:
        """Count a request to the upstream, up to the head of its response."""
        self.upstream_calls += 1
        self.upstream_seconds += seconds

    def upstream_failed(self, code: str) -> None:
        """Count a request that the upstream did not answer well; `truncated` is a body that broke off."""
        kind = _KINDS.get(code, code if code == "truncated" else "")
        if kind:
            self.upstream_errors[kind] = self.upstream_errors.get(kind, 0) + 1

    def tunnel_ended(self, reason: str) -> None:
        """Count the end of a tunnel, under a word from a short list."""
        self.tunnel_ends[reason] = self.tunnel_ends.get(reason, 0) + 1

    @property
    def requests(self) -> int:
        """Requests that have ended."""
        return sum(map(sum, self.durations))

    @property
    def rate_refused(self) -> int:
        return self.refusals.get("rate_limited", 0) + self.refusals.get("api_rate_limited", 0)

    @property
    def quota_refused(self) -> int:
        return self.refusals.get("quota_exceeded", 0)

    @property
    def key_failures(self) -> int:
        return self.refusals.get("auth_failed", 0) + self.refusals.get("key_unknown", 0)


class Metrics:
    """All counts of the process.

    An API that a reload removes is no longer shown; should it come back it goes on from its old counts, so that no
    series ever goes backwards.
    """

    __slots__ = ("_apis", "_due", "lag_seconds", "lags", "reloads", "unrouted")

    def __init__(self) -> None:
        self._apis: dict[str, Counts] = {}
        self.unrouted = Counts()
        self.reloads = {"accepted": 0, "refused": 0}
        self.lags = [0] * (len(LAGS) + 1)
        self.lag_seconds = 0.0
        self._due = 0.0

    def of(self, api: str) -> Counts:
        """The counts of the API of this id, made when it is first asked for."""
        return self._apis.setdefault(api, Counts())

    @property
    def tunnels_open(self) -> int:
        """Tunnels of all APIs, of those too that a reload has removed."""
        return sum(counts.tunnels_open for counts in self._apis.values())

    def tick(self, now: float, interval: float) -> None:
        """To be called from the event loop every `interval` seconds: how late it comes is the loop's lag."""
        if self._due:
            late = max(0.0, now - self._due)
            self.lags[bisect_left(LAGS, late)] += 1
            self.lag_seconds += late
        self._due = now + interval


@dataclass(frozen=True, slots=True)
class Sample:
    """One value. `suffix` goes behind the family's name."""

    value: float
    labels: tuple[tuple[str, str], ...] = ()
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """Samples under one name. A counter's name ends in `_total`.

    `merge` says what the samples of several workers make: their `sum`, or the `max` or `min` of what they share.
    """

    name: str
    kind: str
    help: str
    samples: Sequence[Sample]
    merge: str = "sum"


def families(metrics: Metrics, apis: Iterable[str]) -> list[Family]:
    """The counts of the APIs of these ids, of what no API took, and of the process."""
    shown = [(UNROUTED, metrics.unrouted), *((api, metrics.of(api)) for api in sorted(apis))]
    return [
        Family(
            "aiogate_requests_total", "counter", "Requests that have ended, by API and class of status.",
            [
                Sample(sum(buckets), (("api", api), ("status", status)))
                for api, counts in shown
                for status, buckets in zip(STATUSES, counts.durations, strict=True)
                if any(buckets)
            ],
        ),
        Family(
            "aiogate_request_duration_seconds", "histogram",
            "From a request's head to the last byte handed to the kernel, by API and class of status.",
            [
                sample
                for api, counts in shown
                for index, status in enumerate(STATUSES)
                if any(counts.durations[index])
                for sample in _histogram(
                    DURATIONS, counts.durations[index], counts.seconds[index], (("api", api), ("status", status))
                )
            ],
        ),
        Family(
            "aiogate_request_body_bytes_total", "counter", "Bytes of the bodies of requests that were read.",
            [Sample(counts.received, (("api", api),)) for api, counts in shown],
        ),
        Family(
            "aiogate_response_body_bytes_total", "counter", "Bytes of the bodies of responses, chunk framing included.",
            [Sample(counts.sent, (("api", api),)) for api, counts in shown],
        ),
        Family(
            "aiogate_refusals_total", "counter", "Requests that the gateway refused, by code.",
            [
                Sample(count, (("api", api), ("code", code)))
                for api, counts in shown
                for code, count in sorted(dict(counts.refusals).items())
            ],
        ),
        Family(
            "aiogate_upstream_duration_seconds", "summary", "From sending a request upstream to the response's head.",
            [
                Sample(value, (("api", api),), suffix)
                for api, counts in shown[1:]
                for suffix, value in (("_count", counts.upstream_calls), ("_sum", counts.upstream_seconds))
            ],
        ),
        Family(
            "aiogate_upstream_errors_total", "counter", "Requests that an upstream did not answer well, by kind.",
            [
                Sample(count, (("api", api), ("kind", kind)))
                for api, counts in shown[1:]
                for kind, count in sorted(dict(counts.upstream_errors).items())
            ],
        ),
        Family(
            "aiogate_tunnels_open", "gauge", "Tunnels, such as WebSockets, that are open or about to be.",
            [Sample(counts.tunnels_open, (("api", api),)) for api, counts in shown[1:]],
        ),
        Family(
            "aiogate_tunnels_total", "counter", "Tunnels that were opened.",
            [Sample(counts.tunnels, (("api", api),)) for api, counts in shown[1:]],
        ),
        Family(
            "aiogate_tunnel_bytes_total", "counter", "Bytes through tunnels, by direction as the client sees it.",
            [
                Sample(count, (("api", api), ("direction", direction)))
                for api, counts in shown[1:]
                for direction, count in (("received", counts.tunnel_received), ("sent", counts.tunnel_sent))
            ],
        ),
        Family(
            "aiogate_tunnel_ends_total", "counter", "Tunnels that have ended, by the reason.",
            [
                Sample(count, (("api", api), ("reason", reason)))
                for api, counts in shown[1:]
                for reason, count in sorted(dict(counts.tunnel_ends).items())
            ],
        ),
        Family(
            "aiogate_upstream_repeats_total", "counter", "Second attempts to send a request upstream.",
            [Sample(counts.upstream_repeats, (("api", api),)) for api, counts in shown[1:]],
        ),
        Family(
            "aiogate_reloads_total", "counter", "Reloads, by verdict.",
            [Sample(count, (("verdict", verdict),)) for verdict, count in metrics.reloads.items()],
        ),
        Family(
            "aiogate_loop_lag_seconds", "histogram", "How late the event loop comes to a timer, four times a second.",
            list(_histogram(LAGS, metrics.lags, metrics.lag_seconds, ())),
        ),
    ]  # fmt: skip


def _histogram(
    bounds: Sequence[float], buckets: Sequence[int], total: float, labels: tuple[tuple[str, str], ...]
) -> Iterable[Sample]:
    names = [*map(repr, bounds), "+Inf"]
    count = 0
    for name, count in zip(names, accumulate(buckets), strict=True):
        yield Sample(count, (*labels, ("le", name)), "_bucket")
    yield Sample(count, labels, "_count")
    yield Sample(total, labels, "_sum")


def exposition(shown: Iterable[Family], *, openmetrics: bool = False) -> str:
    """The text that Prometheus reads, in its format 0.0.4 or as OpenMetrics 1.0."""
    lines: list[str] = []
    for family in shown:
        name = family.name
        head = name.removesuffix("_total") if openmetrics and family.kind == "counter" else name
        lines.append(f"# HELP {head} {family.help}")
        lines.append(f"# TYPE {head} {family.kind}")
        for sample in family.samples:
            labels = ",".join(f'{label}="{_escaped(value)}"' for label, value in sample.labels)
            lines.append(f"{name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {sample.value!r}")
    if openmetrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
