"""Who rests while a reload works, and when."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable

import pytest

from aiogate import turns
from aiogate.turns import WORK, in_small_turns, rest


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each rest was; the clock stands still but for what a test adds."""
    taken: list[float] = []
    monkeypatch.setattr(time, "sleep", taken.append)
    return taken


def in_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def worked(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let so much time have gone by since the last rest."""
    now = time.perf_counter()
    monkeypatch.setattr(turns._turns, "rested", now)
    monkeypatch.setattr(time, "perf_counter", lambda: now + seconds)


def test_a_thread_rests_after_its_share_of_work(rests: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    worked(monkeypatch, WORK * 2)
    with in_small_turns():
        in_a_thread(rest)
        in_a_thread(rest)  # has only just rested
    assert rests == [turns.REST]


def test_a_thread_does_not_rest_before(rests: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    worked(monkeypatch, WORK / 2)
    with in_small_turns():
        in_a_thread(rest)
    assert rests == []


def test_the_thread_of_the_event_loop_never_rests(rests: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    worked(monkeypatch, WORK * 2)
    with in_small_turns():
        rest()
    assert rests == []


@pytest.mark.parametrize("serving", [True, False])
def test_nothing_rests_where_no_request_waits(
    rests: list[float], monkeypatch: pytest.MonkeyPatch, serving: bool
) -> None:
    worked(monkeypatch, WORK * 2)
    if serving:
        in_a_thread(rest)
    else:
        with in_small_turns(serving=False):
            in_a_thread(rest)
    assert rests == []


def test_a_reload_in_a_reload_leaves_all_as_it_was() -> None:
    interval = sys.getswitchinterval()
    assert gc.isenabled()
    with in_small_turns(), in_small_turns(serving=False):
        assert sys.getswitchinterval() == pytest.approx(turns.TURN)
        assert not gc.isenabled()
    assert sys.getswitchinterval() == interval
    assert gc.isenabled()
    assert not turns._turns.resting
