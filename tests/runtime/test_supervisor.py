"""The supervisor with workers that serve nothing: births, deaths, word between them, reloads in step, and the end."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SITE = Path(__file__).with_name("crew_site.py")


class Site:
    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, SITE, folder, str(workers)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ready(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, name: str, text: str = "") -> None:
        (self.folder / f".{name}").write_text(text)
        (self.folder / f".{name}").rename(self.folder / name)

    def unsay(self, name: str) -> None:
        (self.folder / name).unlink()

    def ask(self, what: str) -> Any:
        """What worker 0 gets for an answer."""
        asked = self.folder / "asked"
        asked.unlink(missing_ok=True)
        self.say("ask", what)
        until(asked.exists)
        return ast.literal_eval(asked.read_text())

    def log(self, kind: str) -> list[list[str]]:
        """The notes of workers of this kind, each as its words, with the process id first."""
        file = self.folder / "log"
        lines = [line.split(" ") for line in file.read_text().splitlines()] if file.exists() else []
        return [line for line in lines if line[1] == kind]

    def pids(self) -> list[int]:
        """Every worker that came to serve and lives."""
        return [int(line[0]) for line in self.log("born") if alive(int(line[0]))]

    def end(self) -> tuple[int, str]:
        self.process.terminate()
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def until(condition: Callable[[], object], within: float = 15.0) -> None:
    due = time.monotonic() + within
    while not condition():
        assert time.monotonic() < due, "it did not come to be in time"
        time.sleep(0.01)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[[int], Site]]:
    made: list[Site] = []

    def start(workers: int = 3) -> Site:
        made.append(Site(tmp_path, workers))
        return made[-1]

    yield start
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()
        until(lambda each=each: not each.pids())  # type: ignore[misc]


def test_the_first_worker_reads_the_files_and_all_others_what_is_served(site: Callable[[int], Site]) -> None:
    running = site(3)
    assert running.ready() == "ready ('told by', 0)"
    born = running.log("born")
    assert sorted(line[2] for line in born) == ["0", "1", "2"]
    assert {line[2]: line[3] for line in born} == {"0": "True", "1": "False", "2": "False"}
    code, _ = running.end()
    assert code == 0
    assert len(running.log("drained")) == 3


def test_a_worker_that_cannot_start_stops_the_start_with_its_diagnostics(
    site: Callable[[int], Site], tmp_path: Path
) -> None:
    (tmp_path / "fails").touch()
    running = site(2)
    assert running.ready() == "failed ['apis.d/a.yaml:3:4: cannot start']"
    assert running.process.wait(10) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_ends_is_replaced(site: Callable[[int], Site], number: int) -> None:
    running = site(2)
    running.ready()
    first, second = running.pids()
    os.kill(second, number)
    until(lambda: len(running.log("born")) == 3)
    until(lambda: len(running.pids()) == 2)
    successor = running.log("born")[-1]
    assert successor[2:] == ["1", "False", "1"]
    assert first in running.pids()
    assert second not in running.pids()
    assert running.end()[0] == 0


def test_a_crash_loop_is_slowed_down_and_told(site: Callable[[int], Site]) -> None:
    running = site(2)
    running.ready()
    running.say("crash", "1")
    os.kill(running.pids()[1], signal.SIGKILL)
    until(lambda: len(running.log("born")) >= 5)
    running.unsay("crash")
    until(lambda: len(running.pids()) == 2)
    _, errors = running.end()
    assert "times within seconds: the next try is in 0.5 s" in errors
    assert len(running.log("born")) <= 7


def test_a_question_is_answered_by_all_who_are_not_stuck(site: Callable[[int], Site]) -> None:
    running = site(3)
    running.ready()
    answers = running.ask("hello")
    assert {pid for pid, _, _ in answers} == set(running.pids())
    assert all(argument == "hello" for _, _, argument in answers)
    running.say("stuck", "2")
    assert len(running.ask("again")) == 2
    assert running.end()[0] == 0


def test_a_link_that_is_full_is_waited_for_and_not_asked_again_and_again(site: Callable[[int], Site]) -> None:
    running = site(2)
    running.ready()
    stopped = next(int(line[0]) for line in running.log("born") if line[2] == "1")
    os.kill(stopped, signal.SIGSTOP)
    before = switches(running.process.pid)
    assert len(running.ask("x" * 4_000_000)) == 1, "the one that is stopped is late"
    assert switches(running.process.pid) - before < 100, "two seconds, and little to do in them"
    os.kill(stopped, signal.SIGCONT)
    assert len(running.ask("again")) == 2
    assert running.end()[0] == 0


def switches(pid: int) -> int:
    """How often the process has begun to wait."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def test_all_swap_to_one_generation_and_one_worker_keeps_it(site: Callable[[int], Site]) -> None:
    running = site(3)
    running.ready()
    assert running.ask("reload") == ("accepted", 2)
    commits = running.log("commit")
    assert [line[2] for line in commits] == ["2", "2", "2"]
    assert sorted(line[3] for line in commits) == ["False", "False", "True"]
    running.process.send_signal(signal.SIGHUP)
    until(lambda: len(running.log("commit")) == 6)
    assert {generation for _, generation, _ in running.ask("now")} == {3}
    assert running.end()[0] == 0


def test_none_swaps_when_one_refuses(site: Callable[[int], Site]) -> None:
    running = site(3)
    running.ready()
    running.say("broken", "a mistake")
    assert running.ask("reload") == ("refused", ["a mistake"])
    assert running.log("commit") == []
    assert len(running.log("abandon")) == 3
    running.unsay("broken")
    assert running.ask("reload") == ("accepted", 2)
    assert running.end()[0] == 0


def test_a_thousand_hangups_make_few_reloads(site: Callable[[int], Site]) -> None:
    running = site(2)
    running.ready()
    for _ in range(1000):
        running.process.send_signal(signal.SIGHUP)
    until(lambda: running.log("commit"))
    answers = running.ask("now")
    assert len({generation for _, generation, _ in answers}) == 1
    assert len(running.log("commit")) < 400
    assert running.end()[0] == 0


def test_workers_are_recycled_one_by_one(site: Callable[[int], Site]) -> None:
    running = site(2)
    running.ready()
    before = set(running.pids())
    running.process.send_signal(signal.SIGUSR2)
    until(lambda: len(running.pids()) == 2 and not before & set(running.pids()))
    kinds = [line.split(" ")[1] for line in (running.folder / "log").read_text().splitlines()]
    # The second leaves when the first one's successor serves.
    second = [index for index, kind in enumerate(kinds) if kind == "leaving"][1]
    assert kinds[:second].count("born") >= 3
    assert running.end()[0] == 0


def test_a_second_signal_cuts(site: Callable[[int], Site]) -> None:
    running = site(2)
    running.ready()
    running.say("lingers", "60")
    running.process.terminate()
    until(lambda: len(running.log("leaving")) == 2)
    running.process.terminate()
    assert running.process.wait(10) == 0
    assert len(running.log("cut")) == 2


def test_a_signal_to_all_processes_of_the_group_drains_once(site: Callable[[int], Site]) -> None:
    running = site(2)
    running.ready()
    running.say("lingers", "0.3")
    for pid in running.pids():
        os.kill(pid, signal.SIGTERM)
    assert running.end()[0] == 0
    assert running.log("cut") == []


def test_workers_end_with_a_parent_that_was_killed(site: Callable[[int], Site]) -> None:
    running = site(2)
    running.ready()
    pids = running.pids()
    running.process.kill()
    running.process.wait()
    until(lambda: not any(alive(pid) for pid in pids))
    assert len(running.log("leaving")) == 2
