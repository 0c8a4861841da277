"""docs/scaling.md: its table follows from its formula and the inputs that it states."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest

from bench.scaling import RATES, Inputs, changed, plan, table
from tests.house.manual import ROOT

PAGE = (ROOT / "docs/scaling.md").read_text("utf-8")
ROUND = Inputs(
    worker_us=500, redis_us=20, read_us=10, redis_bytes=500, client_bytes=600, upstream_bytes=500, worker_mib=100,
    cores=8, load=0.5, keys=0, cache_s=10,
)  # fmt: skip


def test_the_inputs_of_the_page_are_those_of_the_model() -> None:
    stated = {name: float(number) for name, number in re.findall(r"^\| `(\w+)` \|[^|]+\| ([\d.]+) \|", PAGE, re.M)}
    assert stated == {each.name: getattr(Inputs(), each.name) for each in fields(Inputs)}


def test_the_table_of_the_page_follows() -> None:
    assert table(RATES, Inputs()) in PAGE


def test_workers_machines_and_redis_by_hand() -> None:
    found = plan(100_000, ROUND)
    # 50 cores of work at half load; 2 cores of Redis at half load; 100 workers in 4 groups are 25 each, on 4 machines.
    assert (found.workers, found.groups, found.machines) == (100, 4, 16)
    assert found.redis_mbit == 100_000 * 500 * 8 / 1e6 / 4
    assert found.machine_mbit == 100_000 * 1600 * 8 / 1e6 / 16
    assert found.machine_mib == 700


def test_a_redis_at_its_limit_needs_no_second_one() -> None:
    assert plan(25_000, ROUND).groups == 1
    assert plan(25_001, ROUND).groups == 2


def test_sessions_are_read_again_by_each_worker_and_never_more_often_than_asked_for() -> None:
    # 25 workers read 1,000 keys every 10 s: 2,500 reads of 10 µs beside 25,000 requests of 20 µs.
    full = replace(ROUND, keys=1000, load=0.525, worker_us=524)
    assert (plan(25_000, full).workers, plan(25_000, full).groups) == (25, 1)
    assert plan(25_000, replace(full, keys=1001)).groups == 2
    # A cache of nothing reads for each request: 30 µs each.
    assert plan(16_666, replace(ROUND, cache_s=0)).groups == 1
    assert plan(16_667, replace(ROUND, cache_s=0)).groups == 2


@pytest.mark.parametrize(
    "wrong", [{"speed": 1.0}, {"worker_us": -1.0}, {"load": 0.0}, {"load": 1.5}, {"cores": 0.0}, {"keys": float("nan")}]
)
def test_inputs_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        changed(ROUND, wrong)
