"""The judge of `make chaos`: a promise that is not kept must be missed by name, one that is kept by none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bench.promise import COLUMNS, LIMIT, NODES, WINDOW, Seen, judge

HARMED, HEALED, END = 104.0, 114.0, 118.0


def load() -> Iterator[Seen]:
    """Answers as they should be: every 10 ms from each node, 4 s before a fault of 10 s and 4 s after it."""
    for tick in range(1800):
        at = 100.0 + tick / 100
        late = HARMED <= at < HARMED + 0.15
        for node in range(NODES + 1):
            harmed = HARMED <= at < HEALED and node < NODES
            yield Seen(at, "known", node, 200, 0.052 if late and harmed else 0.004)
            if tick % 10 == 0:
                yield Seen(at, "unknown", node, 503 if harmed else 403, 0.004, harmed)
            share = LIMIT / NODES if node < NODES else LIMIT
            yield Seen(at, "limited", node, 200 if tick % (100 * WINDOW) < share else 429, 0.004)


KEPT = tuple(load())


def missed(change) -> set[str]:
    """What is missed when each answer of the gateways is changed so; None takes it away."""
    changed = [one if one.node == NODES else change(one) for one in KEPT]
    return judge([one for one in changed if one is not None], HARMED, HEALED).words


def test_nothing_is_missed_where_all_was_kept() -> None:
    verdict = judge(KEPT, HARMED, HEALED)
    assert verdict.missed == ()
    assert dict(zip(COLUMNS, verdict.figures, strict=True)) == {
        "served": "100.00% of 2800", "p99 before": "4.0 ms", "unharmed": "4.0 ms", "at first": "52.0 ms",
        "then": "4.0 ms", "unknown key": "503", "node/window": "20/20", "all/limit": "0.92", "in step": "0.0 s",
    }  # fmt: skip


def during(one: Seen) -> bool:
    return HARMED <= one.at < HEALED


@pytest.mark.parametrize("status", [503, 401, 0])
def test_a_known_key_that_is_not_served(status: int) -> None:
    at = next(one.at for one in KEPT if one.at > HARMED + 5)
    assert missed(lambda one: replace(one, status=status) if (one.at, one.kind) == (at, "known") else one) == {"served"}


def test_a_fault_that_is_felt() -> None:
    assert missed(lambda one: replace(one, took=one.took + 0.02) if one.at < HARMED + 0.3 else one) == {"first"}
    assert missed(lambda one: replace(one, took=0.0049) if one.at >= HARMED + 0.3 else one) == {"then"}
    assert missed(lambda one: replace(one, took=0.0047) if one.at >= HARMED + 0.3 else one) == set()
    assert missed(lambda one: None if one.kind == "known" and during(one) else one) == {"first", "then"}


def test_one_bad_moment_of_the_machine_is_none_of_the_gateway() -> None:
    def stall(one: Seen) -> Seen:
        return replace(one, took=0.3) if 108 < one.at < 108.2 and one.kind == "known" else one

    assert judge([stall(one) for one in KEPT], HARMED, HEALED).words == set()


def test_an_unknown_key() -> None:
    def status(number: int):
        return lambda one: replace(one, status=number) if one.kind == "unknown" and during(one) else one

    assert missed(status(401)) == missed(status(403)) == {"unknown"}
    assert missed(lambda one: replace(one, retry_after=False)) == {"unknown"}


def test_a_limit_that_is_passed() -> None:
    def more(count: int):
        def change(one: Seen) -> Seen:
            early = round((one.at - 100) * 100) % 100 < count
            return replace(one, status=200) if one.kind == "limited" and during(one) and early else one

        return change

    assert missed(more(21)) == set()
    assert missed(more(22)) == {"limit"}
    changed = [more(40)(one) for one in KEPT if one.node < NODES]
    verdict = judge([*changed, *(one for one in KEPT if one.node == NODES)], HARMED, HEALED, shares=False)
    assert verdict.words == {"limit"}, "what all let through is looked at beside what each does"


def test_a_gateway_that_is_late_to_be_in_step() -> None:
    def late(until: float):
        return lambda one: (
            replace(one, status=503, retry_after=True)
            if one.kind == "unknown" and one.node == 1 and HEALED <= one.at < until
            else one
        )

    assert missed(late(HEALED + 1.9)) == set()
    assert missed(late(HEALED + 2.2)) == {"back"}
    assert missed(late(math.inf)) == {"back"}
    relapse = max(one.at for one in KEPT if one.kind == "unknown")
    assert missed(
        lambda one: replace(one, status=503, retry_after=True) if one.at == relapse and one.kind == "unknown" else one
    ) == {"back"}
