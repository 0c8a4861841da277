"""The answers of several workers as one."""

from __future__ import annotations

from dataclasses import replace

from aiogate.runtime import merged
from aiogate.runtime.gateway import Status
from aiogate.runtime.health import ApiHealth
from aiogate.telemetry.metrics import Family, Sample

ONE = Status(
    version="1", pid=11, generation=3, since=1.0, started=1.0, workers=1, apis=2, policies=1, store="redis",
    listen=("a",), control="b", requests_running=2, connections=5, tunnels=1, draining=False, last_reload=None,
    pids=(11,),
)  # fmt: skip


def test_a_status_counts_every_worker() -> None:
    other = replace(ONE, pid=12, pids=(12,), requests_running=1, connections=7, draining=True)
    whole = merged.status(other, [other, ONE])
    assert (whole.pid, whole.pids, whole.workers) == (12, (11, 12), 2)
    assert (whole.requests_running, whole.connections, whole.tunnels, whole.draining) == (3, 12, 2, False)


def test_samples_add_up_by_their_labels_or_as_the_family_says() -> None:
    def shown(requests: float, generation: float, other: bool) -> list[Family]:
        samples = [Sample(requests, (("api", "a"),)), *([Sample(9, (("api", "b"),))] if other else [])]
        return [
            Family("requests_total", "counter", "", samples),
            Family("generation", "gauge", "", [Sample(generation)], "min"),
        ]

    requests, generation = merged.families([shown(2, 4, other=False), shown(3, 3, other=True)])
    assert {sample.labels: sample.value for sample in requests.samples} == {(("api", "a"),): 5, (("api", "b"),): 9}
    assert [sample.value for sample in generation.samples] == [3]


def test_rates_add_up_and_latency_is_that_of_all_requests() -> None:
    calm, busy = ApiHealth(0, 1, 0, 10.0, 1.0), ApiHealth(2, 0, 0, 50.0, 3.0)
    whole = merged.counters([calm, None, busy])
    assert whole == ApiHealth(2, 1, 0, 40.0, 4.0)
    assert merged.counters([None, None]) is None
