"""A process that may open few files: nobody brings it down, and it recovers. Attack row 73."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from aiogate.runtime import descriptors
from aiogate.testing import subprocess_gateway
from aiogate.testing.gateway import write_files

FILES = {"apis.d/hello.yaml": "{listen: /, auth: none, plugins: [mock: hi]}"}
PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
if sys.argv.pop() == "asyncio":
    sys.modules["uvloop"] = None
from aiogate.cli.main import main
main()
"""


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_73_five_hundred_connections_to_a_process_with_128_descriptors(tmp_path: Path, loop: str) -> None:
    write_files(tmp_path, FILES)
    async with subprocess_gateway(tmp_path, loop, command=(sys.executable, "-c", PROGRAM, "serve")) as gateway:
        host, _, port = gateway.url.removeprefix("http://").partition(":")
        early = [await asyncio.open_connection(host, int(port)) for _ in range(8)]
        opened = await asyncio.gather(
            *(asyncio.open_connection(host, int(port)) for _ in range(500)), return_exceptions=True
        )
        crowd = [one for one in opened if isinstance(one, tuple)]
        assert len(crowd) > 400
        await asyncio.sleep(0.5)
        began, used = time.monotonic(), processor_seconds(gateway.pid)
        for _ in range(20):
            for reader, writer in early:
                writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                async with asyncio.timeout(2):
                    assert (await reader.readuntil(b"hi")).startswith(b"HTTP/1.1 200 "), "who was there is served on"
            await asyncio.sleep(0.1)
        load = (processor_seconds(gateway.pid) - used) / (time.monotonic() - began)
        assert load < 0.2, f"the process is {load:.0%} busy with nothing"
        assert gateway.process.returncode is None

        for _, writer in crowd:
            writer.transport.abort()
        async with asyncio.timeout(2):
            while (await answer(host, int(port))) != b"HTTP/1.1 200":
                await asyncio.sleep(0.05)
        assert (await gateway.tyk("GET", "/ready")).status == 200
        for _, writer in early:
            writer.close()
    log = (tmp_path / "aiogate.log").read_text()
    assert "the system allows 128 open files: 32 clients are served at one time" in log
    assert "Traceback" not in log
    assert Counter(line.split()[1] for line in log.splitlines())["ERROR"] == 0, log


async def answer(host: str, port: int) -> bytes:
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            return await reader.read(12)
        finally:
            writer.transport.abort()
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    "soft,hard,connections,room,raised",
    [
        (1024, 4096, 100, 100, None),
        (1024, 65536, 10_000, 10_000, 20_064),
        (1024, 4096, 10_000, 2016, 4096),
        (1024, -1, 10_000, 10_000, 20_064),
        (-1, -1, 10_000, 10_000, None),
        (128, 128, 10_000, 32, 128),
        (16, 16, 10_000, 1, 16),
    ],
)
def test_room(monkeypatch, soft, hard, connections, room, raised):
    limits = []
    monkeypatch.setattr(descriptors.resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(descriptors.resource, "setrlimit", lambda which, pair: limits.append(pair))
    assert resource.RLIM_INFINITY == -1
    found, complaint = descriptors.room_for(connections)
    assert found == room
    assert limits == ([] if raised is None else [(raised, hard)])
    assert ("open files" in complaint) == (room < connections)


def test_a_system_that_lets_nobody_raise(monkeypatch):
    def refused(which, pair):
        raise OSError

    monkeypatch.setattr(descriptors.resource, "getrlimit", lambda which: (1024, 65536))
    monkeypatch.setattr(descriptors.resource, "setrlimit", refused)
    found, complaint = descriptors.room_for(10_000)
    assert found == 480
    assert "480 clients" in complaint
