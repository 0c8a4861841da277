"""The processes that hash: of low priority, few, alone with what they are told, and gone with the gateway."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiogate.credentials import hashers as module
from aiogate.credentials.hashers import HasherLost, Hashers
from aiogate.credentials.hashes import hashed
from aiogate.testing import subprocess_gateway
from aiogate.testing.gateway import write_files

SLOW = hashed(b"secret", "bcrypt", 4).replace("$04$", "$15$")
"""Takes more than a second to compare with."""

linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at /proc")


@asynccontextmanager
async def opened(most: int = 2) -> AsyncIterator[Hashers]:
    hashers = Hashers(most)
    try:
        yield hashers
    finally:
        await hashers.close()


def pids(hashers: Hashers) -> set[int]:
    return {child._process.pid for child in hashers._children}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("algorithm", ["bcrypt", "argon2id"])
async def test_what_is_hashed_in_a_child_matches_and_nothing_else_does(algorithm) -> None:
    async with opened() as hashers:
        stored = await hashers.hashed(b"\xff caf\xc3\xa9\n", algorithm, 4)
        assert await hashers.matches(b"\xff caf\xc3\xa9\n", stored, algorithm) is True
        assert await hashers.matches(b"\xff caf\xc3\xa9", stored, algorithm) is False


async def test_a_child_is_started_when_it_is_needed_and_kept() -> None:
    async with opened() as hashers:
        assert pids(hashers) == set()
        await hashers.hashed(b"a", "bcrypt", 4)
        first = pids(hashers)
        for _ in range(5):
            await hashers.hashed(b"a", "bcrypt", 4)
        assert pids(hashers) == first
        await asyncio.gather(*(hashers.hashed(b"a", "bcrypt", 4) for _ in range(20)))
        assert len(pids(hashers)) == 2


@linux
async def test_a_child_has_the_lowest_priority_and_no_descriptor_of_ours(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        async with opened() as hashers:
            await asyncio.gather(*(hashers.hashed(b"a", "bcrypt", 4) for _ in range(2)))
            for pid in pids(hashers):
                assert os.getpriority(os.PRIO_PROCESS, pid) == 19
                assert {path.name for path in Path(f"/proc/{pid}/fd").iterdir()} == {"0", "1", "2"}
                assert "secret" not in Path(f"/proc/{pid}/cmdline").read_text()
    assert os.getpriority(os.PRIO_PROCESS, 0) < 19


async def test_closing_ends_what_hashes_and_what_waits_at_once() -> None:
    hashers = Hashers(1)
    await hashers.hashed(b"a", "bcrypt", 4)
    (pid,) = pids(hashers)
    asking = [asyncio.ensure_future(hashers.matches(b"guess", SLOW, "bcrypt")) for _ in range(3)]
    await asyncio.sleep(0.05)
    await hashers.close()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(answer) for answer in answers] == [HasherLost] * 3
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_one_that_was_killed_while_it_waited_is_replaced() -> None:
    async with opened(1) as hashers:
        stored = await hashers.hashed(b"a", "bcrypt", 4)
        (pid,) = pids(hashers)
        os.kill(pid, signal.SIGKILL)
        assert await hashers.matches(b"a", stored, "bcrypt") is True
        assert pids(hashers) != {pid}


async def test_what_a_child_was_asked_by_somebody_who_gave_up_is_no_answer_to_the_next() -> None:
    async with opened(1) as hashers:
        stored = await hashers.hashed(b"a", "bcrypt", 4)
        asking = asyncio.ensure_future(hashers.matches(b"guess", SLOW, "bcrypt"))
        await asyncio.sleep(0.05)
        asking.cancel()
        assert await hashers.matches(b"a", stored, "bcrypt") is True


@pytest.mark.parametrize(
    "command, said",
    [
        (("/nowhere/python",), "no process could be started to hash the password: .*No such file"),
        ((sys.executable, "-c", "raise SystemExit(3)"), "ended with 3"),
    ],
)
async def test_where_no_child_can_hash_there_is_no_answer(monkeypatch, command, said) -> None:
    monkeypatch.setattr(module, "_COMMAND", command)
    async with opened() as hashers:
        with pytest.raises(HasherLost, match=said):
            await hashers.hashed(b"a", "bcrypt", 4)


@linux
async def test_signals_to_all_processes_of_a_group_leave_the_children_to_the_gateway() -> None:
    async with opened(1) as hashers:
        stored = await hashers.hashed(b"a", "bcrypt", 4)
        before = pids(hashers)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(*before, number)
        assert await hashers.matches(b"a", stored, "bcrypt") is True
        assert pids(hashers) == before


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_no_child_outlives_the_gateway(tmp_path: Path, number) -> None:
    write_files(tmp_path, {"apis.d/x.yaml": "{listen: /x/, auth: basic, plugins: [mock: hi]}"})
    async with subprocess_gateway(tmp_path) as gateway:
        await gateway.create_user("ann", "secret", "x")
        assert (await gateway.get("/x/", user=("ann", "secret"))).status == 200
        children = children_of(gateway.pid)
        assert len(children) == 1
        os.kill(gateway.pid, number)
        await until(lambda: not any(alive(child) for child in children))


def children_of(pid: int) -> list[int]:
    found = (path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for children in found for child in children]
