"""One writer of declarations at a time, whoever it is."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiogate.control.operations import turns
from aiogate.control.operations.turns import LOCK, Turns
from aiogate.errors import Rejected

HOLDER = """
import asyncio, sys
from pathlib import Path
from aiogate.control.operations.turns import Turns
async def hold():
    async with Turns().hold(Path(sys.argv[1])):
        print("held", flush=True)
        await asyncio.sleep(60)
asyncio.run(hold())
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that writes into the folder."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    yield holder
    holder.kill()
    holder.communicate()


async def test_a_writer_waits_for_one_of_another_process_until_it_is_gone(
    tmp_path: Path, other: subprocess.Popen[bytes]
) -> None:
    got = asyncio.Event()

    async def write() -> None:
        async with Turns().hold(tmp_path):
            got.set()

    writing = asyncio.create_task(write())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(got.wait(), 0.2)
    other.kill()
    await asyncio.wait_for(writing, 10)
    assert list(tmp_path.iterdir()) == [], "what a killed one left behind is taken away"


async def test_whoever_waits_too_long_is_told(
    tmp_path: Path, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.1)
    with pytest.raises(Rejected) as refused:
        async with Turns().hold(tmp_path):
            pass
    assert (refused.value.status, refused.value.message) == (503, "Another gateway is writing")


async def test_many_writers_are_one_after_another(tmp_path: Path) -> None:
    inside = 0
    apis, policies = tmp_path / "apis.d", tmp_path / "policies.d"

    async def write(number: int) -> None:
        nonlocal inside
        own, further = (apis, policies) if number % 2 else (policies, apis)
        # Their own lock each, as in processes of their own.
        async with Turns().hold(own, (further,)):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.001)
            inside -= 1

    await asyncio.gather(*map(write, range(20)))
    assert [list(folder.iterdir()) for folder in (apis, policies)] == [[], []]


async def test_a_writer_that_gives_up_leaves_nothing_locked(tmp_path: Path) -> None:
    for delay in (0, 0.001, 0.005):

        async def write() -> None:
            async with Turns().hold(tmp_path):
                await asyncio.sleep(60)

        writing = asyncio.create_task(write())
        await asyncio.sleep(delay)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        async with asyncio.timeout(5), Turns().hold(tmp_path):
            pass


async def test_a_folder_that_nobody_could_write_into_needs_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, foreign = tmp_path / "apis.d", tmp_path / "policies.d"
    foreign.mkdir()
    opened = os.open

    def refusing(path: Path, *arguments: int, **further: int) -> int:
        if path == foreign / LOCK:
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **further)

    monkeypatch.setattr(turns.os, "open", refusing)
    async with Turns().hold(mine, (foreign,)):
        assert (mine / LOCK).exists()
    with pytest.raises(PermissionError):
        async with Turns().hold(foreign, (mine,)):
            pass


async def test_a_disk_that_cannot_lock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(handle: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none_left)
    with pytest.raises(OSError, match="No locks available"):
        async with Turns().hold(tmp_path):
            pass
